"""The newest values by step: what of a series is kept."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

Int64 = NDArray[np.int64]
Float64 = NDArray[np.float64]

_NONE = np.iinfo(np.int64).min // 2  # a step far before any; halved so that differences do not overflow


class StepRing:
    """Rows of numbers by step, of the newest `size` steps.

    Args:
      size: how many steps are kept, counted back from the newest one.
      width: numbers of a row.
    """

    def __init__(self, size: int, width: int) -> None:
        self._step = np.full(size, _NONE)
        self._rows = np.full((size, width), np.nan)

    def put(self, first: int, rows: Float64) -> None:
        """Takes rows float64 (step, width) of consecutive steps; what is older than all that is kept is left out."""
        steps = np.arange(first, first + len(rows))[-len(self._step) :]
        slots = steps % len(self._step)
        fresh = self._step[slots] <= steps  # the later row of a step replaces the earlier one
        slots = slots[fresh]
        self._step[slots] = steps[fresh]
        self._rows[slots] = rows[-len(steps) :][fresh]

    def window(self) -> tuple[Int64, Float64]:
        """The steps that are kept, rising, and their rows as columns: float64 (width, step)."""
        newest = self._step.max()
        kept = np.flatnonzero((self._step != _NONE) & (self._step > newest - len(self._step)))
        kept = kept[np.argsort(self._step[kept])]
        return self._step[kept], np.ascontiguousarray(self._rows[kept].T)
