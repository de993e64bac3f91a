"""The live windows of one input partition.

`stage` works out what a batch of records would change and yield; nothing changes until `apply`, which the consumer
calls once the batch's transaction is committed. All decisions follow from clocks and offsets, so that a partition
that is rebuilt from its checkpoint decides as the lost one did.
"""

from __future__ import annotations

from bisect import bisect_left
from collections import Counter, defaultdict
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol

import numpy as np

from pipelines.kernels.grid import NO_POSITION, Events, Outcome
from pipelines.kernels.windowing import KeyState, Windowing, Windows
from schemas.dead_letter import DeadLetter
from schemas.event import BadEvent, EventReader
from schemas.spec import Spec
from streaming.checkpoint import Checkpoint


class Record(Protocol):
    """What is read of a consumed Kafka record; times in epoch milliseconds."""

    offset: int
    timestamp: int
    key: bytes | None
    value: bytes | None
    headers: Sequence[tuple[str, bytes]]


@dataclass(slots=True)
class Stage:
    """What a batch of records changes and yields, before it is committed."""

    next_offset: int
    clock_ms: int | None
    states: dict[str, KeyState] = field(default_factory=dict)
    windows: list[tuple[str, Windows]] = field(default_factory=list)
    late: list[Record] = field(default_factory=list)
    dead: list[tuple[Record, DeadLetter]] = field(default_factory=list)
    counts: Counter[str] = field(default_factory=Counter)
    clock_rises: list[tuple[int, int]] = field(default_factory=list)
    """(offset, clock) of each event that moved the partition's clock."""
    refused: list[int] = field(default_factory=list)
    """Offsets of events that were too far ahead of the wall clock."""


class Partition:
    """The keys and the clock of one partition, from `checkpoint` (or a fresh start at `next_offset`) on."""

    def __init__(
        self,
        spec: Spec,
        windowing: Windowing,
        reader: EventReader,
        *,
        name: str,
        partitions: int,
        start_offset: int,
        live_from: int,
        clock_ms: int | None = None,
        refused: frozenset[int] = frozenset(),
    ) -> None:
        """Starts a partition without keys.

        Args:
          spec: the stream's spec.
          windowing: its kernels.
          reader: reads its events.
          name: `topic[partition]`, for messages.
          partitions: how many the topic has.
          start_offset: the first offset that will be staged.
          live_from: output before this offset is suppressed: it has been committed, or serves to warm the windows.
          clock_ms: the partition's clock just before `start_offset`.
          refused: offsets before `live_from` that the wall clock refused when they were live.
        """
        self.name = name
        self.next_offset = start_offset
        self.live_from = live_from
        self._windowing, self._reader = windowing, reader
        self._fingerprint, self._partitions = spec.window_fingerprint, partitions
        self._max_skew_ms = spec.grid.max_skew
        self._forget_after_ms = spec.grid.max_disorder + spec.span_ms
        self._clock_ms = clock_ms
        self._keys: dict[str, KeyState] = {}
        self._lowest: dict[str, int] = {}
        self._clock_rises: list[tuple[int, int]] = [] if clock_ms is None else [(-1, clock_ms)]
        self._refused = sorted(refused)
        self._refused_before_live = refused
        self._forgotten_at_ms = clock_ms

    @property
    def keys(self) -> int:
        """How many keys are remembered."""
        return len(self._keys)

    @property
    def is_live(self) -> bool:
        """Whether the replay is over."""
        return self.next_offset >= self.live_from

    def stage(self, records: Sequence[Record], now_ms: int) -> Stage:
        """Works out what `records`, the partition's next ones in order, change and yield.

        Args:
          records: all before `live_from`, or all from it on.
          now_ms: the wall clock, epoch milliseconds; it is not looked at before `live_from`.
        """
        stage = Stage(next_offset=records[-1].offset + 1, clock_ms=self._clock_ms)
        by_key: defaultdict[str, list[tuple[int, int, int, list[float], Record]]] = defaultdict(list)
        for record in records:
            try:
                event = self._reader.read_json(record.value)
                self._check_skew(record.offset, event.time_ms, now_ms)
            except BadEvent as bad:
                stage.dead.append((record, self._dead_letter(record, bad)))
                if bad.reason == "future":
                    stage.refused.append(record.offset)
                continue
            if stage.clock_ms is None or event.time_ms > stage.clock_ms:
                stage.clock_ms = event.time_ms
                stage.clock_rises.append((record.offset, event.time_ms))
            by_key[event.key].append((event.time_ms, record.offset, stage.clock_ms, event.values, record))

        for key, rows in by_key.items():
            times, offsets, clocks, values, sources = zip(*rows, strict=True)
            events = Events(np.array(times), np.array(offsets), np.array(values, np.float64))
            state = self._keys.get(key) or self._windowing.empty()
            state, windows, outcomes = self._windowing.push(state, events, np.array(clocks))
            stage.states[key] = state
            stage.windows += [(key, run) for run in windows if len(run)]
            late = np.flatnonzero(outcomes == Outcome.LATE).tolist()
            stage.late += [sources[index] for index in late]
            stage.counts["late"] += len(late)
            stage.counts["duplicate"] += int(np.count_nonzero(outcomes == Outcome.DUPLICATE))
            stage.counts["used"] += int(np.count_nonzero(outcomes == Outcome.USED))
        stage.counts["in"] = len(records)
        stage.counts["dead"] = len(stage.dead)
        stage.late.sort(key=lambda record: record.offset)
        return stage

    def idle(self) -> Stage:
        """A stage of no records."""
        return Stage(next_offset=self.next_offset, clock_ms=self._clock_ms)

    def apply(self, stage: Stage) -> None:
        """Makes a staged batch the partition's state."""
        self._keys.update(stage.states)
        self._lowest.update((key, state.lowest_position) for key, state in stage.states.items())
        self._clock_ms, self.next_offset = stage.clock_ms, stage.next_offset
        self._clock_rises += stage.clock_rises
        self._refused += stage.refused
        self._forget_idle_keys()

    def checkpoint(self, stage: Stage) -> Checkpoint:
        """Where the partition will stand once `stage` is applied."""
        lowest = self._lowest | {key: state.lowest_position for key, state in stage.states.items()}
        replay = min(min(lowest.values(), default=NO_POSITION), stage.next_offset)
        rises = self._clock_rises + stage.clock_rises
        before = bisect_left(rises, (replay, 0))
        return Checkpoint(
            offset=stage.next_offset,
            replay_offset=replay,
            clock_ms=rises[before - 1][1] if before else None,
            refused=tuple(offset for offset in self._refused + stage.refused if offset >= replay),
            window_fingerprint=self._fingerprint,
            partitions=self._partitions,
        )

    def _check_skew(self, offset: int, time_ms: int, now_ms: int) -> None:
        live = offset >= self.live_from
        if time_ms > now_ms + self._max_skew_ms if live else offset in self._refused_before_live:
            raise BadEvent("future", f"expected an event at most {self._max_skew_ms} ms ahead of now, got {time_ms}")

    def _dead_letter(self, record: Record, bad: BadEvent) -> DeadLetter:
        source = f"{self.name}@{record.offset}"
        return DeadLetter(source, bad.reason, str(bad), record.value, record.key)

    def _forget_idle_keys(self) -> None:
        """Drops keys whose next event starts them anew whatever it is, and what lies before the replay offset."""
        if self._clock_ms is None:
            return
        if self._forgotten_at_ms is not None and self._clock_ms < self._forgotten_at_ms + self._forget_after_ms // 8:
            return  # looking through all keys is worth it only now and then
        self._forgotten_at_ms = self._clock_ms
        limit = self._clock_ms - self._forget_after_ms
        for key in [key for key, state in self._keys.items() if _clock_of(state) <= limit]:
            del self._keys[key], self._lowest[key]
        replay = min(self._lowest.values(), default=self.next_offset)
        before = bisect_left(self._clock_rises, (replay, 0))
        self._clock_rises = self._clock_rises[max(before - 1, 0) :]
        self._refused = [offset for offset in self._refused if offset >= replay]


def _clock_of(state: KeyState) -> Any:
    # A key without a clock has never had an event that was not late; nothing of it is worth keeping.
    return -np.inf if state.grid.clock_ms is None else state.grid.clock_ms
