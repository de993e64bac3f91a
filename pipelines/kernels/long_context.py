"""Chunks of long windows: which of them a model must encode, and which summaries hold from earlier windows.

A cacheable model (`models/families/hierarchical.py`) cuts a window's past on absolute step numbers: chunk n is the
steps [n * chunk, (n + 1) * chunk). So a chunk that lies whole within two windows of a key is the same in both, and so
is its summary. The first chunk of a window and the last one are as a rule ragged: they lack the steps before the
window, or those that are yet to come, and are encoded anew for each origin.

That holds for all windows of a key: a closed step never changes, and where a key starts anew after a silence, that was
longer than a window, so that no chunk is whole in a window before it and in one after it. Windows that the wall clock
ended are no part of this: their last steps may change.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Self

import numpy as np
from numpy.typing import NDArray

from schemas.model_spec import HierarchicalModel

Bool = NDArray[np.bool_]
Float32 = NDArray[np.float32]
Int64 = NDArray[np.int64]


@dataclass(frozen=True, slots=True)
class Chunks:
    """Chunks of some windows: `window` int64 (chunk,), the place of the window, and `number` int64 (chunk,)."""

    window: Int64
    number: Int64

    def __len__(self) -> int:
        return len(self.number)


@dataclass(frozen=True, slots=True)
class ChunkLayout:
    """How windows of `past` steps are cut into chunks of `chunk` steps."""

    past: int
    chunk: int

    @classmethod
    def of(cls, options: HierarchicalModel, past: int) -> Self:
        """How a cacheable model cuts windows of so many steps."""
        return cls(past, options.patch * options.chunk)

    @property
    def slots(self) -> int:
        """The most chunks that a window touches; the model takes as many summaries."""
        return (self.past + self.chunk - 2) // self.chunk + 1

    def numbers(self, origin_step: Int64) -> Int64:
        """int64 (window, slot): the chunk in each slot, consecutive; the last one has the window's last step.

        Where a window touches fewer chunks than there are slots, the first one has none of its steps.

        Args:
          origin_step: int64 (window,), the step after each window's last.
        """
        last = (origin_step - 1) // self.chunk
        numbers: Int64 = last[:, None] + np.arange(1 - self.slots, 1)
        return numbers

    def whole(self, origin_step: Int64) -> Bool:
        """bool (window, slot): whether the window has all steps of the chunk."""
        number, origin = self.numbers(origin_step), origin_step[:, None]
        within: Bool = (number * self.chunk >= origin - self.past) & ((number + 1) * self.chunk <= origin)
        return within

    def touched(self, origin_step: Int64) -> Bool:
        """bool (window, slot): whether the window has a step of the chunk."""
        some: Bool = (self.numbers(origin_step) + 1) * self.chunk > (origin_step - self.past)[:, None]
        return some

    def cut(self, chunks: Chunks, origin_step: Int64, values: Float32, observed: Bool) -> tuple[Float32, Bool]:
        """Chunks of some windows, as the model's signature `encode_chunk` takes them.

        Args:
          chunks: which.
          origin_step: int64 (window,), the step after each window's last.
          values: float32 (window, past, feature), NaN where masked.
          observed: bool, the same shape.
        Returns:
          float32 (chunk, step, feature), NaN where masked or outside of the window; and bool, the same shape.
        """
        first = chunks.number * self.chunk - (origin_step[chunks.window] - self.past)
        row = first[:, None] + np.arange(self.chunk)
        within = ((row >= 0) & (row < self.past))[..., None]
        place = chunks.window[:, None], row.clip(0, self.past - 1)
        return np.where(within, values[place], np.float32(np.nan)), observed[place] & within


@dataclass(frozen=True, slots=True)
class Summaries:
    """Summaries of whole chunks of one key, by one version of a model, for the windows that are to come.

    `number` int64 (chunk,), `summary` float32 (chunk, width) and `present` bool (chunk,).
    """

    number: Int64
    summary: Float32
    present: Bool

    @classmethod
    def none(cls) -> Self:
        """Before the first window, and of a version that was not asked before."""
        return cls(np.empty(0, np.int64), np.empty((0, 0), np.float32), np.empty(0, np.bool_))

    def __len__(self) -> int:
        return len(self.number)

    @property
    def nbytes(self) -> int:
        """What they take."""
        return self.number.nbytes + self.summary.nbytes + self.present.nbytes

    def missing(self, layout: ChunkLayout, origin_step: Int64) -> Chunks:
        """The chunks that must be encoded for the windows at these origins, in the order of the windows.

        A whole chunk that several windows have is among them once, a ragged one for each window.
        """
        number, whole = layout.numbers(origin_step), layout.whole(origin_step)
        chosen = layout.touched(origin_step) & ~whole
        unknown = np.flatnonzero(whole & ~np.isin(number, self.number))
        _, first = np.unique(number.flat[unknown], return_index=True)
        chosen.flat[unknown[first]] = True
        window, slot = np.nonzero(chosen)
        return Chunks(window, number[window, slot])

    def join(
        self, layout: ChunkLayout, origin_step: Int64, chunks: Chunks, summary: Float32, present: Bool
    ) -> tuple[Float32, Bool, Summaries]:
        """Puts the summaries of each window's chunks together.

        Args:
          layout: how the windows are cut.
          origin_step: int64 (window,), ascending.
          chunks: those that were encoded, which `missing` named.
          summary: float32 (chunk, width), what `encode_chunk` made of them.
          present: bool (chunk,), likewise.
        Returns:
          Summaries float32 (window, slot, width) and their presence bool (window, slot), as `predict_from_summaries`
          takes them, 0 and False in a slot that the window does not touch; and what is kept from now on, which is the
          whole chunks of the last window.
        Raises:
          KeyError: a chunk was neither encoded nor kept.
        """
        number, whole = layout.numbers(origin_step), layout.whole(origin_step)
        # Of each slot, the row in what is kept followed by what was encoded; -1 where there is none.
        row = np.full(number.shape, -1)
        encoded = len(self) + np.arange(len(chunks))
        row[chunks.window, chunks.number - number[chunks.window, 0]] = encoded
        was_whole = whole[chunks.window, chunks.number - number[chunks.window, 0]]
        known = np.concatenate((self.number, chunks.number[was_whole]))
        known_row = np.concatenate((np.arange(len(self)), encoded[was_whole]))
        if len(known):
            order = np.argsort(known, kind="stable")
            at = np.searchsorted(known[order], number).clip(max=len(known) - 1)
            row = np.where(whole & (known[order][at] == number), known_row[order][at], row)
        if (layout.touched(origin_step) & (row < 0)).any():
            raise KeyError("expected each chunk of the windows to be encoded or kept")
        all_summary = np.concatenate((self.summary, summary)) if len(self) else summary
        all_present = np.concatenate((self.present, present))
        found = row >= 0
        joined = np.where(found[..., None], all_summary[row], np.float32(0))
        kept = row[-1][whole[-1]]
        return (
            joined,
            found & all_present[row],
            Summaries(number[-1][whole[-1]], all_summary[kept], all_present[kept]),
        )
