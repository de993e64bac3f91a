"""Windows of the live path from a dataset, for a topic that does not reach back far enough."""

from __future__ import annotations

import os
from dataclasses import replace

import numpy as np
from kafka.partitioner.default import murmur2

from flows.dataset_windows import RecordDecoder, read_tfrecords
from pipelines.kernels.grid import NO_POSITION, GridState, Steps
from pipelines.kernels.windowing import KeyState, Windowing
from schemas.dataset import DatasetFolder
from schemas.spec import Spec


class DatasetSeeds:
    """The state of each key at the last step that a dataset has of it.

    Args:
      spec: the stream.
      path: a dataset folder of the spec's windows.
    Raises:
      DatasetError: it is none, or of other windows.
    """

    def __init__(self, spec: Spec, path: str | os.PathLike[str]) -> None:
        folder = DatasetFolder(path)
        folder.require_windows_of(spec)
        self._spec, self._windowing = spec, Windowing(spec)
        self._carried = [index for index, f in enumerate(spec.stream.features) if f.calendar is None]
        decoder = RecordDecoder(folder.spec, folder.manifest.layout)
        last: dict[str, Steps] = {}
        for split in folder.manifest.splits:
            for shard in folder.shard_paths(split):
                for record in read_tfrecords(shard):
                    found = decoder.decode(record)
                    steps = self._known(found.windows.steps)
                    before = last.get(found.key)
                    if before is None or steps.first + len(steps) > before.first + len(before):
                        last[found.key] = steps
        self._last = {key: state for key, steps in last.items() if (state := self._state(steps)) is not None}

    def __len__(self) -> int:
        return len(self._last)

    def states(self, partition: int, partitions: int, position: int) -> dict[str, KeyState]:
        """The states of the keys that Kafka's own partitioner puts into a partition; see `streaming.takeover.Seeds`."""
        needed = self._spec.window.past + self._spec.grid.max_gap
        return {
            key: replace(state, recent_position=np.full(needed, position))
            for key, state in self._last.items()
            if (murmur2(key.encode()) & 0x7FFF_FFFF) % partitions == partition
        }

    def _known(self, steps: Steps) -> Steps:
        """The steps up to the last one of which anything is known: a horizon may reach beyond what has been closed."""
        known = np.flatnonzero(np.isfinite(steps.values[:, self._carried]).any(axis=1))
        count = int(known[-1]) + 1 if len(known) else 0
        return Steps(steps.first, steps.values[:count], steps.observed[:count], steps.position[:count])

    def _state(self, steps: Steps) -> KeyState | None:
        """The state after some steps; None where they are too few to know what is held, or what windows need."""
        grid, past, count = self._windowing.grid, self._spec.window.past, len(steps)
        if count < past or count <= self._spec.grid.max_gap:
            return None
        next_step = steps.first + count
        number = np.arange(steps.first, next_step)[:, None]
        empty = grid.empty()
        seen = steps.observed[:, self._carried]
        held_step = np.where(seen, number, empty.held_step).max(axis=0)
        row = np.maximum(held_step - steps.first, 0)
        value = np.take_along_axis(steps.values[:, self._carried], row[None], axis=0)[0]
        on_arrival = self._spec.grid.regular and self._spec.grid.lateness == 0
        clock_ms = grid.start_ms(next_step - 1) if on_arrival else grid.start_ms(next_step) + self._spec.grid.lateness
        state = GridState(
            clock_ms=clock_ms,
            open=empty.open,
            next=next_step,
            held=np.where(seen.any(axis=0), value, np.float32(np.nan)),
            held_step=held_step,
        )
        start = count - (past - 1)
        tail = Steps(
            steps.first + start,
            steps.values[start:].copy(),
            steps.observed[start:].copy(),
            np.full(past - 1, NO_POSITION),
        )
        return KeyState(state, tail, np.empty(0, np.int64))
