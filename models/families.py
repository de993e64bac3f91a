"""The model families by the name that a spec gives them.

A family is a function of its section of the spec and a batch of encoded windows. It returns float32 (batch, horizon,
target): how far, in normalised units, each target will be from its last observed value. With `portable` it uses only
operations that every device has; its weights are the same, in the same order, either way.
"""

from __future__ import annotations

from typing import Any, Protocol

from models import lstm
from models.window import EncodedWindow


class Family(Protocol):
    """How a family is built into a model."""

    def __call__(self, options: Any, window: EncodedWindow, *, portable: bool) -> Any:
        """Builds the family's part of the graph."""


FAMILIES: dict[str, Family] = {"lstm": lstm.build}
