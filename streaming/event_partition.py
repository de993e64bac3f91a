"""The events of one input partition, by key: read, closed into steps by a kernel, replayed, and forgotten.

`stage` of a subclass works out what a batch of records would change and yield; nothing changes until `apply`, which the
loop calls once the batch is committed. All decisions follow from clocks and offsets, so that a partition that is
restored from its checkpoint decides as the lost one did.
"""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from array import array
from bisect import bisect_right
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Generic, Required, TypedDict, TypeVar

import numpy as np
from numpy.typing import NDArray

from pipelines.kernels.grid import NO_POSITION, Events
from pipelines.kernels.windowing import KeyState
from schemas.dead_letter import DeadLetter
from schemas.event import BadEvent, EventReader
from schemas.spec import Spec
from streaming.checkpoint import Checkpoint
from streaming.stage import Record, Stage

UNKNOWN_MS = 2**62
"""As `whole_from_ms`: events are missing, and the first event that is read will tell up to when."""
REPLAY_CHUNK_BYTES = 32 * 2**20
"""Replayed events are worked on in stretches of so many bytes: a key that has many events in one costs no more than one
that has few."""
LANDMARK_RECORDS = 1_000


@dataclass(slots=True, kw_only=True)
class EventStage(Stage):
    """What a batch of records changes, before it is committed."""

    clock_ms: int | None
    whole_from_ms: int | None
    states: dict[str, KeyState] = field(default_factory=dict)
    refused: list[int] = field(default_factory=list)
    """Offsets of events that were too far ahead of the wall clock."""


S = TypeVar("S", bound=EventStage)


@dataclass(slots=True)
class Arrivals:
    """Events of all keys in the order in which they came: a column for each of their parts."""

    width: int
    keys: dict[str, int] = field(default_factory=dict)
    key: array[int] = field(default_factory=lambda: array("q"))
    time_ms: array[int] = field(default_factory=lambda: array("q"))
    offset: array[int] = field(default_factory=lambda: array("q"))
    clock_ms: array[int] = field(default_factory=lambda: array("q"))
    """The partition's clock, with the event itself."""
    values: array[float] = field(default_factory=lambda: array("d"))

    def __len__(self) -> int:
        return len(self.key)

    def add(self, key: str, time_ms: int, offset: int, clock_ms: int, values: Sequence[float]) -> None:
        """Takes one event."""
        self.key.append(self.keys.setdefault(key, len(self.keys)))
        self.time_ms.append(time_ms)
        self.offset.append(offset)
        self.clock_ms.append(clock_ms)
        self.values.extend(values)

    @property
    def nbytes(self) -> int:
        """What they take."""
        return len(self) * 8 * (4 + self.width)

    def by_key(self, rows: slice = slice(None)) -> Iterator[tuple[str, NDArray[np.int64], Events, NDArray[np.int64]]]:
        """Each key with the rows of its events, the events, and the partition's clock at each; of some rows or all."""
        if not self.keys:
            return
        key = np.frombuffer(self.key, np.int64)[rows]
        order = np.argsort(key, kind="stable")
        times, offsets, clocks = (
            np.frombuffer(column, np.int64)[rows][order] for column in (self.time_ms, self.offset, self.clock_ms)
        )
        values = np.frombuffer(self.values, np.float64).reshape(len(self), self.width)[rows][order]
        at = order + (rows.start or 0)
        ends = np.cumsum(np.bincount(key, minlength=len(self.keys))).tolist()
        start = 0
        for name, end in zip(self.keys, ends, strict=True):
            if end > start:
                part = slice(start, end)
                yield name, at[part], Events(times[part], offsets[part], values[part]), clocks[part]
                start = end


class Beginning(TypedDict, total=False):
    """Where an `EventPartition` begins: its arguments but for what it is of."""

    name: Required[str]
    partitions: Required[int]
    start_offset: Required[int]
    live_from: Required[int]
    clock_ms: int | None
    refused: frozenset[int]
    whole_from_ms: int | None
    keys: Mapping[str, KeyState] | None
    seeded: bool


class EventPartition(ABC, Generic[S]):
    """The keys and the clock of one partition.

    Args:
      spec: the stream's spec.
      reader: reads its events.
      name: `topic[partition]`, for messages.
      partitions: how many the topic has.
      start_offset: the first offset that will be replayed or staged.
      live_from: output before this offset is suppressed: it has been committed, or serves to warm the windows.
      clock_ms: the partition's clock just before `start_offset`.
      refused: offsets before `live_from` that the wall clock refused when they were live.
      whole_from_ms: events before this time may be missing; None where none are, `UNKNOWN_MS` where it is not known up
        to when.
      keys: states at `start_offset`.
      seeded: they came from a dataset, so a replay from there needs it again; else from the changelog.
    """

    def __init__(
        self,
        spec: Spec,
        reader: EventReader,
        *,
        name: str,
        partitions: int,
        start_offset: int,
        live_from: int,
        clock_ms: int | None = None,
        refused: frozenset[int] = frozenset(),
        whole_from_ms: int | None = None,
        keys: Mapping[str, KeyState] | None = None,
        seeded: bool = False,
    ) -> None:
        self.name = name
        self.next_offset = start_offset
        self.live_from = live_from
        self._reader = reader
        self._fingerprint, self._partitions = spec.window_fingerprint, partitions
        self._max_skew_ms, self._max_disorder_ms = spec.grid.max_skew, spec.grid.max_disorder
        self._forget_after_ms = spec.grid.max_disorder + spec.span_ms
        self._span_ms = spec.span_ms
        self._clock_ms = clock_ms
        self._whole_from_ms = whole_from_ms
        self._keys = dict(keys or {})
        self._lowest = {key: state.lowest_position for key, state in self._keys.items()}
        self._looked_at, self._lowest_position = start_offset, start_offset
        self._landmarks = Landmarks(start_offset, clock_ms)
        self._refused = sorted(refused)
        self._refused_before_live = refused
        self._forgotten_at_ms = clock_ms
        self._replayed = Arrivals(len(reader.fields))
        self._replay_stage = self.idle()
        self._seeded_until = start_offset if seeded else None

    @property
    def keys(self) -> Mapping[str, KeyState]:
        """What each key remembers."""
        return self._keys

    @property
    def clock_ms(self) -> int | None:
        """The greatest event time seen, epoch milliseconds."""
        return self._clock_ms

    # --- what a partition is for ---

    @abstractmethod
    def stage(self, records: Sequence[Record], now_ms: int) -> S:
        """Works out what `records`, the partition's next ones in order, change and yield.

        Args:
          records: at `live_from` or after it.
          now_ms: the wall clock, epoch milliseconds.
        """

    @abstractmethod
    def _stage_at(self, next_offset: int) -> S:
        """A stage of no records."""

    @abstractmethod
    def _push(self, arrivals: Arrivals, stage: S, *, quiet: bool) -> NDArray[np.int8]:
        """Works out the states of events, and unless `quiet` what they yield; what became of each, int8 (event,)."""

    def _held_position(self) -> int:
        """The lowest position that is needed for anything but the keys' states."""
        return NO_POSITION

    # --- replay ---

    def replay(self, records: Sequence[Record]) -> None:
        """Takes the partition's next records, all before `live_from`; what they would yield is suppressed."""
        stage = self._replay_stage
        for start in range(0, len(records), LANDMARK_RECORDS):
            some = records[start : start + LANDMARK_RECORDS]
            self._landmarks.add(some[0].offset, stage.clock_ms)
            self._read(some, 0, stage, self._replayed, None)
            stage.dead.clear()
        self.next_offset = stage.next_offset
        if self._replayed.nbytes >= REPLAY_CHUNK_BYTES:
            self._push_replayed()

    def end_replay(self, position: int) -> None:
        """The replay is over, and `position` is where the next record is to be read."""
        self._push_replayed()
        self.next_offset = max(self.next_offset, position)
        self._landmarks.add(self.next_offset, self._clock_ms)

    def _push_replayed(self) -> None:
        stage, arrivals = self._replay_stage, self._replayed
        stage.next_offset = self.next_offset
        self._push(arrivals, stage, quiet=True)
        self._replayed = Arrivals(arrivals.width)
        self._clock_ms = stage.clock_ms
        self.apply(stage)
        self._replay_stage = self.idle()

    # --- live ---

    def idle(self, position: int = 0) -> S:
        """A stage of no records; the offset moves to `position`, over what is none, such as a transaction's end."""
        return self._stage_at(max(self.next_offset, position))

    def apply(self, stage: S) -> None:
        """Makes a staged batch, which is committed by now, the partition's state."""
        self._landmarks.add(self.next_offset, self._clock_ms)
        self._keys.update(stage.states)
        self._lowest.update((key, state.lowest_position) for key, state in stage.states.items())
        self._clock_ms, self.next_offset = stage.clock_ms, stage.next_offset
        self._whole_from_ms = stage.whole_from_ms
        self._refused += stage.refused
        self._forgot(self._forget_idle_keys())
        self._look_for_the_lowest()

    def _forgot(self, keys: set[str]) -> None:
        """Some keys, or none, are remembered no longer."""

    def checkpoint(self, stage: S) -> Checkpoint:
        """Where the partition will stand once `stage` is applied, for a replay."""
        replay, clock_ms = self.next_offset, self._clock_ms
        if self._lowest_position < replay:
            replay, clock_ms = self._landmarks.at_or_before(self._lowest_position)
        return Checkpoint(
            offset=stage.next_offset,
            replay_offset=replay,
            clock_ms=clock_ms,
            refused=tuple(offset for offset in self._refused + stage.refused if offset >= replay),
            window_fingerprint=self._fingerprint,
            partitions=self._partitions,
            whole_from_ms=stage.whole_from_ms,
            seeded=self._seeded_until is not None and replay <= self._seeded_until,
        )

    # --- both ---

    def _read(
        self,
        records: Sequence[Record],
        latest_ms: int,
        stage: S,
        arrivals: Arrivals,
        sources: list[Record] | None,
    ) -> list[Record]:
        """Reads records into `arrivals`, and what is none into `stage`; appends to `sources` the record of each event.

        An event after `latest_ms` is refused; where `sources` is None, those that were refused before are.
        """
        read, keys, clock_ms = self._reader.read_json, arrivals.keys, stage.clock_ms
        add_key, add_time, add_offset = arrivals.key.append, arrivals.time_ms.append, arrivals.offset.append
        add_clock, add_values = arrivals.clock_ms.append, arrivals.values.extend
        kept = [] if sources is None else sources
        refused_before = self._refused_before_live if sources is None else None
        for record in records:
            try:
                key, time_ms, values = read(record.value)
                if time_ms > latest_ms if refused_before is None else record.offset in refused_before:
                    raise BadEvent(
                        "future", f"expected an event at most {self._max_skew_ms} ms ahead of now, got {time_ms}"
                    )
            except BadEvent as bad:
                stage.dead.append((record, self._dead_letter(record, bad)))
                if bad.reason == "future" and refused_before is None:
                    stage.refused.append(record.offset)
                continue
            if clock_ms is None or time_ms > clock_ms:
                clock_ms = time_ms
            add_key(keys.setdefault(key, len(keys)))
            add_time(time_ms)
            add_offset(record.offset)
            add_clock(clock_ms)
            add_values(values)
            if sources is not None:
                kept.append(record)
        if stage.whole_from_ms == UNKNOWN_MS and len(arrivals):
            # The events that are missing were before this one, so none is further ahead of it than disorder goes.
            stage.whole_from_ms = arrivals.time_ms[0] + self._max_disorder_ms + 1
        stage.clock_ms = clock_ms
        stage.next_offset = records[-1].offset + 1
        return kept

    def _dead_letter(self, record: Record, bad: BadEvent) -> DeadLetter:
        source = f"{self.name}@{record.offset}"
        return DeadLetter(source, bad.reason, str(bad), record.value, record.key)

    def _forget_idle_keys(self) -> set[str]:
        """Drops keys whose next event starts them anew whatever it is, and what lies before the replay offset."""
        if self._clock_ms is None:
            return set()
        if self._forgotten_at_ms is not None and self._clock_ms < self._forgotten_at_ms + self._forget_after_ms // 8:
            return set()  # looking through all keys is worth it only now and then
        self._forgotten_at_ms = self._clock_ms
        limit = self._clock_ms - self._forget_after_ms
        forgotten = {key for key, state in self._keys.items() if _clock_of(state) <= limit}
        for key in forgotten:
            del self._keys[key], self._lowest[key]
        if self._whole_from_ms is not None and self._whole_from_ms <= limit - self._span_ms:
            self._whole_from_ms = None  # no window of a key that is remembered reaches back so far
        return forgotten

    def _look_for_the_lowest(self) -> None:
        """Finds the lowest position that a key needs. It never falls, so an old answer is right, if a little low."""
        if self.next_offset - self._looked_at < len(self._lowest) // 4:
            return  # as a share of the events read since, a look through all keys costs little
        self._looked_at = self.next_offset
        lowest = min(min(self._lowest.values(), default=NO_POSITION), self._held_position())
        self._lowest_position = min(lowest, self.next_offset)
        replay, _ = self._landmarks.at_or_before(self._lowest_position)
        self._landmarks.drop_before(replay)
        self._refused = [offset for offset in self._refused if offset >= replay]


class Landmarks:
    """Offsets at which the partition's clock is known, so that a replay can begin there.

    Args:
      offset: the first one.
      clock_ms: the clock just before it.
    """

    MOST = 4096

    def __init__(self, offset: int, clock_ms: int | None) -> None:
        self._offsets: list[int] = [offset]
        self._clocks: list[int | None] = [clock_ms]

    def add(self, offset: int, clock_ms: int | None) -> None:
        """Remembers the clock just before `offset`, not below the last one; of very many, forgets every other."""
        if offset == self._offsets[-1]:
            return
        self._offsets.append(offset)
        self._clocks.append(clock_ms)
        if len(self._offsets) > self.MOST:
            self._offsets, self._clocks = self._offsets[::2], self._clocks[::2]

    def at_or_before(self, offset: int) -> tuple[int, int | None]:
        """The last landmark that is not after `offset`, and its clock."""
        index = bisect_right(self._offsets, offset) - 1
        return self._offsets[index], self._clocks[index]

    def drop_before(self, offset: int) -> None:
        """Forgets what is before the landmark at `offset`."""
        index = bisect_right(self._offsets, offset) - 1
        del self._offsets[:index], self._clocks[:index]


def _clock_of(state: KeyState) -> Any:
    # A key without a clock has never had an event that was not late; nothing of it is worth keeping.
    return -math.inf if state.grid.clock_ms is None else state.grid.clock_ms
