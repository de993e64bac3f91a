"""Lays the steps of a window into slots that are cut on absolute step numbers, and takes them out again."""

from __future__ import annotations

from typing import Any

import keras
from keras import ops

from pipelines.kernels.long_context import ChunkLayout


class ToSlots(keras.layers.Layer):  # type: ignore[misc]
    """(n, past, channel) -> (n, slot * chunk, channel), the last step in the slot of its chunk, which is the last one.

    Args:
      layout: how windows are cut.
    """

    def __init__(self, layout: ChunkLayout, **kwargs: Any) -> None:
        super().__init__(dtype="float32", **kwargs)  # it only moves numbers
        self._layout = layout

    def call(self, steps: Any, present: Any, first_step: Any) -> tuple[Any, Any]:
        """Steps in their slots, and whether each is present; False beside the window.

        Args:
          steps: floats (n, past, channel).
          present: bool (n, past).
          first_step: int64 (n,), the number of each window's first step.
        """
        past = self._layout.past
        step = ops.arange(self._layout.slots * self._layout.chunk) - steps_before(self._layout, first_step)[:, None]
        within = ops.logical_and(step >= 0, step < past)
        row = ops.clip(step, 0, past - 1)
        return _rows(steps, row), ops.logical_and(_rows(present, row), within)


class FromSlots(keras.layers.Layer):  # type: ignore[misc]
    """(n, slot * chunk) -> (n, past): what each step of the window has in its slot.

    Args:
      layout: how windows are cut.
    """

    def __init__(self, layout: ChunkLayout, **kwargs: Any) -> None:
        super().__init__(dtype="float32", **kwargs)  # it only moves numbers
        self._layout = layout

    def call(self, cells: Any, first_step: Any) -> Any:
        """Takes out the cells of windows that start in `first_step`, int64 (n,)."""
        return _rows(cells, ops.arange(self._layout.past) + steps_before(self._layout, first_step)[:, None])


def steps_before(layout: ChunkLayout, first_step: Any) -> Any:
    """How many cells of the slots lie before the window's first step: int64 (n,) -> int32 (n,)."""
    after = ops.cast(ops.mod(-(first_step + layout.past), layout.chunk), "int32")
    return layout.slots * layout.chunk - layout.past - after


def _rows(cells: Any, row: Any) -> Any:
    """Of each window the rows that int32 (n, row) names: (n, time, ...) -> (n, row, ...)."""
    windows, time = ops.shape(cells)[:2]
    flat = ops.reshape(cells, (-1, *cells.shape[2:]))
    return ops.take(flat, row + ops.arange(windows)[:, None] * time, axis=0)
