"""The input topic as the join reads it: the steps that events close, by the kernel that closes them for windows."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Unpack

import numpy as np
from numpy.typing import NDArray

from pipelines.kernels.grid import NO_POSITION, Events, Grid, Int64, Outcome, Steps
from pipelines.kernels.windowing import KeyState
from schemas.event import EventReader
from schemas.spec import Spec
from streaming.event_partition import Arrivals, Beginning, EventPartition, EventStage
from streaming.stage import Record


@dataclass(frozen=True, slots=True)
class Closed:
    """Consecutive steps of one key that were closed, while the partition's clock was in one block of time.

    `anchor` int64 (step,) is for each step the lowest position that must be read again for it to be closed again with
    the same content: that of its own events and of the last one before them, whose time decides which events are late.
    """

    key: str
    partition: int
    block: int
    steps: Steps
    anchor: Int64


class ClosedSteps:
    """Closes the steps of one key after another; what a key remembers is a `KeyState` without a tail."""

    def __init__(self, spec: Spec) -> None:
        self.grid = Grid(spec)

    def empty(self) -> KeyState:
        """The state of a key without events."""
        return KeyState(self.grid.empty(), None, np.empty(0, np.int64))

    def push(
        self, state: KeyState, events: Events, partition_clock_ms: Int64
    ) -> tuple[KeyState, list[tuple[Steps, Int64]], NDArray[np.int8]]:
        """Takes events of one key in arrival order; arguments and outcomes are those of `Grid.push`.

        Returns:
          The new state; the runs of closed steps, each with its steps' anchors; and an `Outcome` for each event.
        """
        grid_state, runs, outcomes = self.grid.push(state.grid, events, partition_clock_ms)
        recent = state.recent_position
        closed = []
        for steps in runs:
            position = steps.position
            with_events = np.flatnonzero(position != NO_POSITION)
            known = np.concatenate((recent, position[with_events]))
            # Each step's last position so far: of a step without events, that of the step before it.
            last = np.searchsorted(with_events, np.arange(len(steps)), side="right") + len(recent) - 1
            before = np.concatenate(([NO_POSITION], known))[last]  # one back, or none
            own = np.where(last >= 0, known[np.maximum(last, 0)], NO_POSITION) if len(known) else position
            closed.append((steps, np.minimum(own, before)))
            recent = known[-1:].copy()
        if grid_state.next is None:  # the key started anew and has closed nothing since
            recent = recent[:0]
        return KeyState(grid_state, None, recent), closed, outcomes


class ActualsPartition(EventPartition[EventStage]):
    """The closed steps of the keys of one partition.

    Args:
      spec: the stream's spec.
      kernel: closes steps.
      number: the partition's.
      block_steps: steps of a block of time.
      take: is given what is closed, replayed or not.
      forget: is given keys that are remembered no longer.
      lowest: tells the lowest position that what was taken still needs, of this partition.
      beginning: the rest is as for `EventPartition`.
    """

    def __init__(
        self,
        spec: Spec,
        kernel: ClosedSteps,
        *,
        number: int,
        block_steps: int,
        take: Callable[[Closed], None],
        forget: Callable[[set[str]], None],
        lowest: Callable[[int], int],
        **beginning: Unpack[Beginning],
    ) -> None:
        self._kernel, self._number, self._block_steps = kernel, number, block_steps
        self._take, self._forget, self._lowest_taken = take, forget, lowest
        super().__init__(spec, EventReader(spec), **beginning)
        self._refused_so_far = set(self._refused)
        self._refused_before_live = frozenset(self._refused)

    @property
    def block(self) -> int | None:
        """The block of time that the partition's clock is in."""
        return None if self._clock_ms is None else self._block_of(np.array([self._clock_ms])).item()

    def refuse(self, offsets: Sequence[int]) -> None:
        """Events at these offsets were refused by the wall clock when they were predicted from."""
        fresh = [offset for offset in offsets if offset not in self._refused_so_far]
        self._refused_so_far.update(fresh)
        self._refused = sorted({*self._refused, *fresh})
        self._refused_before_live = frozenset(self._refused)

    def stage(self, records: Sequence[Record], now_ms: int) -> EventStage:  # noqa: ARG002 (others have looked at it)
        """Closes steps; the wall clock has refused what it refuses before, when windows were made of the events."""
        stage = self.idle()
        arrivals = Arrivals(len(self._reader.fields))
        self._read(records, 0, stage, arrivals, None)
        outcomes = self._push(arrivals, stage, quiet=False)
        stage.counts["events"] = len(records)
        stage.counts["used"] = int(np.count_nonzero(outcomes == Outcome.USED))
        stage.dead.clear()
        return stage

    def _stage_at(self, next_offset: int) -> EventStage:
        return EventStage(next_offset=next_offset, clock_ms=self._clock_ms, whole_from_ms=self._whole_from_ms)

    def _push(self, arrivals: Arrivals, stage: EventStage, *, quiet: bool) -> NDArray[np.int8]:  # noqa: ARG002
        """Closes steps, a block of time after the other, so that it does not matter how events are cut into batches."""
        outcomes = np.empty(len(arrivals), np.int8)
        for rows, block in self._blocks(arrivals):
            for key, at, events, clocks in arrivals.by_key(rows):
                state = stage.states.get(key) or self._keys.get(key) or self._kernel.empty()
                stage.states[key], closed, outcomes[at] = self._kernel.push(state, events, clocks)
                for steps, anchor in closed:
                    self._take(Closed(key, self._number, block, self._whole(steps, stage), anchor))
        return outcomes

    def _blocks(self, arrivals: Arrivals) -> list[tuple[slice, int]]:
        """The rows of events by the block that the clock was in."""
        if not len(arrivals):
            return []
        blocks = self._block_of(np.frombuffer(arrivals.clock_ms, np.int64))
        starts = [0, *(np.flatnonzero(np.diff(blocks)) + 1).tolist()]
        ends = [*starts[1:], len(blocks)]
        return [(slice(start, end), int(blocks[start])) for start, end in zip(starts, ends, strict=True)]

    def _block_of(self, time_ms: Int64) -> Int64:
        return self._kernel.grid.step_of(time_ms) // self._block_steps

    def _whole(self, steps: Steps, stage: EventStage) -> Steps:
        """The steps, with nothing observed in those that an event may be missing of."""
        if stage.whole_from_ms is None:
            return steps
        grid = self._kernel.grid
        starts = grid.start_ms(steps.first) + np.arange(len(steps)) * grid.step_ms
        return Steps(
            steps.first, steps.values, steps.observed & (starts >= stage.whole_from_ms)[:, None], steps.position
        )

    def _forgot(self, keys: set[str]) -> None:
        if keys:
            self._forget(keys)

    def _held_position(self) -> int:
        return self._lowest_taken(self._number)
