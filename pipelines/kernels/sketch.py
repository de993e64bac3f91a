"""Quantiles by counting: a sketch of float32 values that merges exactly.

A bucket holds the values that agree in sign, exponent and the leading bits of the mantissa, so its width is a fixed
share of its values, and finding it is a shift of their bits: no logarithm whose last digit depends on the machine.
Sketches are integer counts; merging adds them, so the result is the same in whatever order, and on whatever runner.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

Int64 = NDArray[np.int64]
Float32 = NDArray[np.float32]
Float64 = NDArray[np.float64]

LEADING_BITS = 6
"""A value is told to within 2^-7 (0.8 %) of itself."""
ALL_BITS = 23
"""Every float32 has a bucket of its own."""
_SIGN = 1 << 31
_DENSE = 8
"""Up to so many buckets a value are counted in one array."""


def bits_for(*, categorical: bool) -> int:
    """How finely a feature is sketched."""
    return ALL_BITS if categorical else LEADING_BITS


@dataclass(frozen=True, slots=True)
class Sketch:
    """Counts of values by bucket; `bucket` int64 (bucket,) ascending, as its values are, and `count` int64, positive.

    `bits` is how many bits of the mantissa a bucket's values share.
    """

    bits: int
    bucket: Int64
    count: Int64

    @classmethod
    def of(cls, values: Float32, bits: int = LEADING_BITS) -> Sketch:
        """The sketch of finite values, float32 (value,)."""
        pattern = np.ascontiguousarray(values, np.float32).view(np.uint32) >> np.uint32(ALL_BITS - bits)
        least, greatest = int(pattern.min(initial=_SIGN)), int(pattern.max(initial=0))
        if greatest - least < _DENSE * len(pattern):  # no sorting: this runs over every value of a dataset
            counts = np.bincount((pattern - np.uint32(least)).astype(np.int64))
            some = np.flatnonzero(counts)
            found, count = some + least, counts[some]
        else:
            found, count = np.unique(pattern.astype(np.int64), return_counts=True)
        sign = np.int64(_SIGN >> (ALL_BITS - bits))
        signed = np.where(found < sign, found, sign - found)
        return cls._gathered(bits, signed, count.astype(np.int64))

    @classmethod
    def merged(cls, sketches: Iterable[Sketch]) -> Sketch:
        """The sketch of all their values together.

        Raises:
          ValueError: they differ in bits, or there is none.
        """
        parts = list(sketches)
        if len({part.bits for part in parts}) != 1:
            raise ValueError(f"expected sketches of the same bits, got {sorted({part.bits for part in parts})}")
        bucket, count = (np.concatenate([getattr(part, name) for part in parts]) for name in ("bucket", "count"))
        return cls._gathered(parts[0].bits, bucket, count)

    @classmethod
    def _gathered(cls, bits: int, bucket: Int64, count: Int64) -> Sketch:
        distinct, place = np.unique(bucket, return_inverse=True)
        total = np.zeros(len(distinct), np.int64)
        np.add.at(total, place, count)
        return cls(bits, distinct, total)

    @property
    def size(self) -> int:
        """How many values it holds."""
        return int(self.count.sum())

    def quantiles(self, levels: Float64) -> Float64:
        """The values of rank ceil(level * size), each to within half a bucket; NaN where the sketch is empty.

        Args:
          levels: float64 (level,) in [0, 1].
        """
        if not len(self.bucket):
            return np.full(len(levels), np.nan)
        rank = np.maximum(np.ceil(levels * self.size), 1)
        return self.middle(self.bucket[np.searchsorted(np.cumsum(self.count), rank)])

    def middle(self, bucket: Int64) -> Float64:
        """The value in the middle of each bucket, float64; that of the bucket around zero is 0."""
        low = _value(np.abs(bucket), self.bits)
        high = low if self.bits == ALL_BITS else _value(np.abs(bucket) + 1, self.bits)
        return np.where(bucket == 0, 0.0, np.sign(bucket) * (low + high) / 2)


def _value(magnitude: Int64, bits: int) -> Float64:
    pattern = np.minimum(magnitude << (ALL_BITS - bits), 0x7F7F_FFFF)  # the greatest finite one
    value: Float64 = pattern.astype(np.int32).view(np.float32).astype(np.float64)
    return value
