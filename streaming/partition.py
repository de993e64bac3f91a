"""The live windows of one input partition."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from itertools import islice
from typing import Unpack

import numpy as np
from numpy.typing import NDArray

from pipelines.kernels.grid import Outcome
from pipelines.kernels.windowing import KeyState, Windowing, Windows
from schemas.event import EventReader
from schemas.spec import Spec
from streaming.checkpoint import Checkpoint
from streaming.event_partition import Arrivals, Beginning, EventPartition, EventStage
from streaming.stage import Record
from streaming.traces import Traces


@dataclass(slots=True, kw_only=True)
class WindowStage(EventStage):
    """What a batch of records changes and yields, before it is committed."""

    windows: list[tuple[str, Windows]] = field(default_factory=list)
    parents: Mapping[tuple[str, int], bytes] = field(default_factory=dict)
    """The trace context of the event that closed a window, by the window's key and origin in milliseconds."""
    saved: set[str] = field(default_factory=set)
    """Keys whose rows in the changelog are written with it."""


class Partition(EventPartition[WindowStage]):
    """The windows of the keys of one partition.

    A window that reaches back before `whole_from_ms` is not predicted: it is counted as warming.

    Args:
      spec: the stream's spec.
      windowing: its kernels.
      reader: reads its events.
      whole_keys: keys none of whose events are missing, whatever `whole_from_ms` says.
      has_changelog: keep account of which keys have yet to be written to the changelog.
      beginning: the rest is as for `EventPartition`.
    """

    def __init__(
        self,
        spec: Spec,
        windowing: Windowing,
        reader: EventReader,
        *,
        whole_keys: frozenset[str] = frozenset(),
        has_changelog: bool = False,
        **beginning: Unpack[Beginning],
    ) -> None:
        self._windowing = windowing
        self._traces = Traces(spec)
        self._needed_ms = (spec.window.past + spec.grid.max_gap) * spec.grid.step
        self._whole_keys = whole_keys
        self._has_changelog = has_changelog
        super().__init__(spec, reader, **beginning)
        self._unsaved = set(self._keys) if beginning.get("seeded") and has_changelog else set()

    def stage(self, records: Sequence[Record], now_ms: int) -> WindowStage:
        """Works out what `records`, the partition's next ones in order, change and yield.

        Args:
          records: at `live_from` or after it.
          now_ms: the wall clock, epoch milliseconds.
        """
        stage = self.idle()
        arrivals = Arrivals(len(self._reader.fields))
        sources = self._read(records, now_ms + self._max_skew_ms, stage, arrivals, [])
        outcomes = self._push(arrivals, stage, quiet=False)
        late = np.flatnonzero(outcomes == Outcome.LATE).tolist()
        stage.late = [sources[row] for row in late]
        if any(record.headers for record in records):
            events = ((key, rows, part) for key, rows, part, _ in arrivals.by_key())
            stage.parents = self._traces.parents(stage.windows, events, sources)
        for name, outcome in (("used", Outcome.USED), ("duplicate", Outcome.DUPLICATE), ("late", Outcome.LATE)):
            stage.counts[name] = int(np.count_nonzero(outcomes == outcome))
        stage.counts["in"] = len(records)
        stage.counts["dead"] = len(stage.dead)
        return stage

    def apply(self, stage: WindowStage) -> None:
        """Makes a staged batch, which is committed by now, the partition's state."""
        self._unsaved -= stage.saved
        super().apply(stage)

    def _forgot(self, keys: set[str]) -> None:
        if self._has_changelog:
            self._unsaved |= keys

    def _stage_at(self, next_offset: int) -> WindowStage:
        return WindowStage(next_offset=next_offset, clock_ms=self._clock_ms, whole_from_ms=self._whole_from_ms)

    def rows(self, stage: WindowStage, most_others: int) -> list[tuple[str, KeyState | None]]:
        """What is to be written to the changelog with `stage`: a key and its state, or None where it is forgotten.

        Args:
          stage: all keys that it changes are among the rows.
          most_others: of those whose rows are not right yet for other reasons, at most so many are.
        """
        others = list(islice(self._unsaved - stage.states.keys(), most_others))
        stage.saved = {*stage.states, *others}
        return [*stage.states.items(), *((key, self._keys.get(key)) for key in others)]

    def is_saved_by(self, stage: WindowStage) -> bool:
        """Whether the changelog is complete with the `rows` of `stage`."""
        return self._unsaved <= stage.saved

    def saved_checkpoint(self, stage: WindowStage, changelog: int) -> Checkpoint:
        """Where the partition will stand once `stage` is applied, its `rows` in the changelog before `changelog`."""
        return Checkpoint(
            offset=stage.next_offset,
            replay_offset=stage.next_offset,
            clock_ms=stage.clock_ms,
            refused=(),
            window_fingerprint=self._fingerprint,
            partitions=self._partitions,
            whole_from_ms=stage.whole_from_ms,
            changelog=changelog,
        )

    def provisional(self, clock_ms: int, issued: Mapping[str, int]) -> list[tuple[str, Windows]]:
        """The windows that would end if every key's clock showed `clock_ms`, though no event says so; no state changes.

        Args:
          clock_ms: epoch milliseconds.
          issued: the last origin step that is not wanted again, of keys that have one.
        """
        found = []
        for key, state in self._keys.items():
            windows = self._windowing.closed_by(state, clock_ms)
            if windows is not None and len(windows):
                windows, _ = self._whole(key, windows, self._whole_from_ms)
                fresh = windows.origin_step > issued.get(key, -math.inf)
                if fresh.any():
                    found.append((key, replace(windows, end=windows.end[fresh])))
        return found

    def _push(self, arrivals: Arrivals, stage: WindowStage, *, quiet: bool) -> NDArray[np.int8]:
        """Works out the states and windows of events; what became of each, int8 (event,)."""
        outcomes = np.empty(len(arrivals), np.int8)
        push, empty = self._windowing.push, self._windowing.empty
        for key, rows, events, clocks in arrivals.by_key():
            state = self._keys.get(key) or empty()
            stage.states[key], windows, outcomes[rows] = push(state, events, clocks)
            if quiet:
                continue
            for run in windows:
                whole, warming = self._whole(key, run, stage.whole_from_ms)
                stage.counts["warming"] += warming
                if len(whole):
                    stage.windows.append((key, whole))
        if quiet and self._has_changelog:
            self._unsaved |= stage.states.keys()
        return outcomes

    def _whole(self, key: str, run: Windows, whole_from_ms: int | None) -> tuple[Windows, int]:
        """The windows that no missing event can be part of, and how many others there are."""
        if whole_from_ms is None or key in self._whole_keys or not len(run):
            return run, 0
        grid = self._windowing.grid
        origin_ms = run.origin_step * grid.step_ms + grid.offset_ms
        whole = origin_ms - self._needed_ms >= whole_from_ms
        return replace(run, end=run.end[whole]), int(np.count_nonzero(~whole))
