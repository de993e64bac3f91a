"""What layers compute in, while they are built."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import keras

_POLICIES = {"float32": "float32", "bfloat16": "mixed_bfloat16"}


@contextmanager
def computing_in(precision: str) -> Iterator[None]:
    """Layers built inside compute in `float32` or `bfloat16`; their variables are float32 either way."""
    before = keras.config.dtype_policy()
    keras.config.set_dtype_policy(_POLICIES[precision])
    try:
        yield
    finally:
        keras.config.set_dtype_policy(before)
