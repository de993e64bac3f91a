"""Blocks: consecutive windows of one key laid into one record, each step stored once (schemas.dataset)."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np

from pipelines.example_encoder import Value, encode_example
from pipelines.kernels.grid import NO_POSITION, Bool, Float32, Grid, Int64, Steps
from schemas.dataset import BLOCK_FIRST_STEP, BLOCK_KEY, BLOCK_OBSERVED, BLOCK_ORIGINS, BLOCK_VALUES
from schemas.spec import Spec


@dataclass(frozen=True, slots=True)
class Block:
    """One record: `values` float32 and `observed` bool (row, feature); `origins` bool (candidate,)."""

    first_step: int
    values: Float32
    observed: Bool
    origins: Bool

    @property
    def steps(self) -> Steps:
        """The block's rows as steps; where their events came from is not known any more."""
        return Steps(self.first_step, self.values, self.observed, np.full(len(self.values), NO_POSITION))

    @property
    def windows(self) -> int:
        """How many windows the block holds."""
        return int(np.count_nonzero(self.origins))

    def encode(self, key: str) -> bytes:
        """The record: a serialised `tf.train.Example`."""
        features: dict[str, Value] = {
            BLOCK_KEY: key.encode(),
            BLOCK_FIRST_STEP: self.first_step,
            BLOCK_VALUES: self.values.astype("<f4", copy=False).tobytes(),
        }
        for name, flags in ((BLOCK_OBSERVED, self.observed), (BLOCK_ORIGINS, self.origins)):
            if not flags.all():
                features[name] = np.packbits(flags, axis=None, bitorder="little").tobytes()
        return encode_example(features)

    def pack(self) -> bytes:
        """The block as bytes that `unpack` reads, for the way through a spill file."""
        head = np.array((self.first_step, *self.values.shape), "<i8")
        parts = (head, self.values.astype("<f4", copy=False), self.observed, self.origins)
        return b"".join(part.tobytes() for part in parts)

    @classmethod
    def unpack(cls, data: bytes) -> Block:
        """Reads what `pack` wrote."""
        first_step, rows, width = np.frombuffer(data, "<i8", 3).tolist()
        cells, start = rows * width, 24
        values = np.frombuffer(data, "<f4", cells, start).reshape(rows, width)
        flags = np.frombuffer(data, np.bool_, -1, start + 4 * cells)
        return cls(first_step, values, flags[:cells].reshape(rows, width), flags[cells:])


class BlockLayout:
    """Lays windows into blocks as a spec says."""

    def __init__(self, spec: Spec) -> None:
        self._grid = Grid(spec)
        self._past, self._horizon = spec.window.past, spec.window.horizon
        self._block_windows = spec.dataset.block_windows

    def blocks(self, steps: Steps, end: Int64) -> Iterator[Block]:
        """Cuts one run's windows into blocks.

        A block ends after `dataset.block_windows` windows, or where the next window is so far that the steps between
        would be stored for nothing.

        Args:
          steps: the run.
          end: int64 (window,), ascending: the row after each window's last past step. Horizon rows beyond the run are
            blank.
        """
        if not len(end):
            return
        far = np.flatnonzero(np.diff(end) > self._past + self._horizon) + 1
        for stretch in np.split(end, far):
            for start in range(0, len(stretch), self._block_windows):
                yield self._block(steps, stretch[start : start + self._block_windows])

    def _block(self, steps: Steps, end: Int64) -> Block:
        first, last = int(end[0]) - self._past, int(end[-1]) + self._horizon
        values, observed = steps.values[first:last], steps.observed[first:last]
        if last > len(steps):
            beyond = self._grid.blank(steps.first + len(steps), last - len(steps))
            values = np.concatenate((values, beyond.values))
            observed = np.concatenate((observed, beyond.observed))
        origins = np.zeros(end[-1] - end[0] + 1, np.bool_)
        origins[end - end[0]] = True
        return Block(steps.first + first, values, observed, origins)
