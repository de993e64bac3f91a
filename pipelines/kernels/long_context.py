"""Chunks of a long window: which of them a model must encode, and which summaries hold from an earlier window.

A cacheable model (`models/families/hierarchical.py`) cuts a window's past on absolute step numbers: chunk n is the
steps [n * chunk, (n + 1) * chunk). So a chunk that lies whole within two windows is the same in both, and so is its
summary. The first chunk of a window and the last one are as a rule ragged: they lack the steps before the window, or
those that are yet to come, and are encoded anew for each origin.

A closed step never changes, with one exception: a key that starts anew has none of its steps from before. Then, and
when the model's version changes, its summaries are void (`SummaryCache.clear`).
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

Bool = NDArray[np.bool_]
Float32 = NDArray[np.float32]
Int64 = NDArray[np.int64]


@dataclass(frozen=True, slots=True)
class ChunkLayout:
    """How windows of `past` steps are cut into chunks of `chunk` steps."""

    past: int
    chunk: int

    @property
    def slots(self) -> int:
        """The most chunks that a window touches; the model takes as many summaries."""
        return (self.past + self.chunk - 2) // self.chunk + 1

    def numbers(self, origin_step: int) -> Int64:
        """int64 (slot,): the chunk in each slot, consecutive; the last one has the window's last step.

        Where the window touches fewer chunks than there are slots, the first one has none of its steps.

        Args:
          origin_step: the step after the window's last.
        """
        last = (origin_step - 1) // self.chunk
        return np.arange(last - self.slots + 1, last + 1, dtype=np.int64)

    def whole(self, origin_step: int) -> Bool:
        """bool (slot,): whether the window has all steps of the chunk."""
        number = self.numbers(origin_step)
        first = origin_step - self.past
        within: Bool = (number * self.chunk >= first) & ((number + 1) * self.chunk <= origin_step)
        return within

    def cut(self, numbers: Int64, origin_step: int, values: Float32, observed: Bool) -> tuple[Float32, Bool]:
        """The chunks of a window, as the model's signature `encode_chunk` takes them.

        Args:
          numbers: int64 (chunk,), which chunks.
          origin_step: the step after the window's last.
          values: float32 (past, feature), NaN where masked.
          observed: bool, the same shape.
        Returns:
          float32 (chunk, step, feature), NaN where masked or outside of the window; and bool, the same shape.
        """
        row = numbers[:, None] * self.chunk + np.arange(self.chunk) - (origin_step - self.past)
        within = ((row >= 0) & (row < self.past))[..., None]
        row = row.clip(0, self.past - 1)
        return np.where(within, values[row], np.float32(np.nan)), observed[row] & within


class SummaryCache:
    """Summaries of the whole chunks of one key, by one version of a model.

    For each window, in the order of their origins: `missing` says which chunks to encode, `join` takes what the model
    made of them and gives the summaries of all slots.
    """

    def __init__(self, layout: ChunkLayout) -> None:
        self._layout = layout
        self._summaries: dict[int, tuple[Float32, bool]] = {}

    def __len__(self) -> int:
        """How many summaries are kept; never more than the layout has slots."""
        return len(self._summaries)

    def missing(self, origin_step: int) -> Int64:
        """int64 (chunk,): the chunks of the window at this origin that must be encoded."""
        layout = self._layout
        number, whole = layout.numbers(origin_step), layout.whole(origin_step)
        touched = (number + 1) * layout.chunk > origin_step - layout.past
        kept = np.fromiter((n in self._summaries for n in number.tolist()), bool, len(number))
        missing: Int64 = number[touched & ~(whole & kept)]
        return missing

    def join(self, origin_step: int, numbers: Int64, summaries: Float32, present: Bool) -> tuple[Float32, Bool]:
        """Puts the summaries of a window's chunks together, and keeps those of its whole ones.

        Args:
          origin_step: of the window.
          numbers: int64 (chunk,), the chunks that were encoded: those that `missing` named.
          summaries: float32 (chunk, width), what `encode_chunk` made of them.
          present: bool (chunk,), likewise.
        Returns:
          `summaries` float32 (slot, width) and `present` bool (slot,), as `predict_from_summaries` takes them; 0 and
          False in a slot that the window does not touch.
        Raises:
          KeyError: a chunk was neither encoded nor kept.
        """
        slots = self._layout.numbers(origin_step)
        touched = (slots + 1) * self._layout.chunk > origin_step - self._layout.past
        fresh = dict(zip(numbers.tolist(), zip(summaries, present.tolist(), strict=True), strict=True))
        joined = np.zeros((len(slots), summaries.shape[1]), np.float32)
        there = np.zeros(len(slots), bool)
        whole: dict[int, tuple[Float32, bool]] = {}
        for slot, (number, is_whole) in enumerate(
            zip(slots.tolist(), self._layout.whole(origin_step).tolist(), strict=True)
        ):
            if not touched[slot]:
                continue
            summary = fresh[number] if number in fresh else self._summaries[number]
            joined[slot], there[slot] = summary
            if is_whole:
                # Copied where it is new: a row of a batch would keep the batch in memory.
                whole[number] = (joined[slot].copy(), summary[1]) if number in fresh else summary
        self._summaries = whole
        return joined, there

    def clear(self) -> None:
        """Forgets all summaries: the key started anew, or another version of the model is asked."""
        self._summaries = {}
