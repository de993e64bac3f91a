"""How a model allows its sequences to be lengthened, so that those of different lengths can share a batch.

A version folder says it in `assets.extra/model.json`, for each signature:

    "sequence_padding": {"serving_default": {
        "pad": {"past_values": 0.0, "past_observed": false},
        "buckets": [24, 48, 96],
        "cut": true
    }}

The named inputs, of shape `(batch, time, ...)`, are lengthened at the end of `time` with the value; a mask is an input
whose value is false. The model must give the same outputs however many such steps follow. Lengths are rounded up to a
bucket; longer ones, or all without buckets, share batches only with their equals. With `cut`, outputs with the bucket's
length on axis 1 are cut back to the request's.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from streaming.model_server.signature import TensorRef
from streaming.model_server.status import Code, StatusError, invalid_argument
from streaming.tensors import Array

_MANIFEST = Path("assets.extra", "model.json")


@dataclass(frozen=True)
class SequencePadding:
    """The declaration of one signature."""

    pad: Mapping[str, float | bool]
    buckets: tuple[int, ...]
    cut: bool

    def length(self, feeds: Sequence[TensorRef], arrays: Sequence[Array]) -> int:
        """The common length of the padded inputs, 0 if none is given.

        Raises:
          StatusError: INVALID_ARGUMENT if they have no `time` axis, or lengths that differ.
        """
        lengths = {}
        for ref, array in zip(feeds, arrays, strict=True):
            if ref.alias in self.pad:
                if array.ndim < 2:
                    raise invalid_argument(f"expected {ref.alias} of shape (batch, time, ...), got {list(array.shape)}")
                lengths[ref.alias] = array.shape[1]
        if len(set(lengths.values())) > 1:
            raise invalid_argument(f"expected sequences of one length, got {lengths}")
        return next(iter(lengths.values()), 0)

    def bucket(self, length: int) -> int:
        """The smallest bucket that holds `length`, or `length` itself."""
        return min((size for size in self.buckets if size >= length), default=length)

    def row_shapes(
        self, feeds: Sequence[TensorRef], arrays: Sequence[Array], bucket: int
    ) -> tuple[tuple[int, ...], ...]:
        """The shape of a row of each input, once padded."""
        return tuple(
            [
                (bucket, *array.shape[2:]) if ref.alias in self.pad else array.shape[1:]
                for ref, array in zip(feeds, arrays, strict=True)
            ]
        )

    def pad_to(self, alias: str, array: Array, bucket: int) -> Array:
        """Lengthens `(batch, time, ...)` to `bucket` steps if `alias` is declared; other inputs stay."""
        if alias not in self.pad or array.shape[1] == bucket:
            return array
        padded = np.full((len(array), bucket, *array.shape[2:]), self.pad[alias], dtype=array.dtype)
        padded[:, : array.shape[1]] = array
        return padded

    def unpad(self, rows: Array, length: int, bucket: int) -> Array:
        """Cuts an output `(batch, bucket, ...)` back to `length` steps, where the model says so."""
        if self.cut and length != bucket and rows.ndim > 1 and rows.shape[1] == bucket:
            return rows[:, :length]
        return rows


def read_sequence_padding(path: Path) -> Mapping[str, SequencePadding]:
    """The declarations of a version folder by signature; none if it has none.

    Raises:
      StatusError: FAILED_PRECONDITION for one that is malformed.
    """
    try:
        manifest = json.loads((path / _MANIFEST).read_bytes())
    except FileNotFoundError:
        return {}
    except (OSError, ValueError) as error:
        raise StatusError(Code.FAILED_PRECONDITION, f"{_MANIFEST}: {error}") from error
    declared = manifest.get("sequence_padding", {}) if isinstance(manifest, dict) else None
    if not isinstance(declared, dict):
        raise _malformed("expected an object")
    return {signature: _padding(signature, entry) for signature, entry in declared.items()}


def _padding(signature: str, entry: object) -> SequencePadding:
    if not isinstance(entry, dict) or not entry.keys() <= {"pad", "buckets", "cut"}:
        raise _malformed(f".{signature}: expected pad, buckets and cut")
    pad, buckets, cut = entry.get("pad", {}), entry.get("buckets", []), entry.get("cut", False)
    if not isinstance(pad, dict) or not all(isinstance(value, bool | int | float) for value in pad.values()):
        raise _malformed(f".{signature}.pad: expected numbers or bools by input")
    if not isinstance(buckets, list) or not all(isinstance(size, int) and size > 0 for size in buckets):
        raise _malformed(f".{signature}.buckets: expected lengths above 0")
    if not isinstance(cut, bool):
        raise _malformed(f".{signature}.cut: expected a bool")
    return SequencePadding(pad, tuple(buckets), cut)


def _malformed(message: str) -> StatusError:
    return StatusError(Code.FAILED_PRECONDITION, f"{_MANIFEST}: $.sequence_padding{message}")
