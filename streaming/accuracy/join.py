"""The join of forecasts with the actual values that come after them, by key and step: no Kafka, and no clock.

What has been scored is a function of the two logs up to where they have been read, whatever the turns were in which
they were read, so that a successor that reads both again knows what has been scored:

- A forecast belongs to the run of steps that its window ended in. It is scored once that run has closed its last scored
  step; where the run ends before (the key fell silent and started anew, or was forgotten), it is not: `incomplete`.
- Of several forecasts of the same series for the same origin, or for an earlier one, the first that came counts.
- A step in which a target was not observed is no cell; a forecast without any cell is `unobserved`, and no record.

Closed steps are kept while a forecast that waits, or one that has yet to be read, can need them.
"""

from __future__ import annotations

from collections import Counter, deque
from collections.abc import Iterator
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from pipelines.kernels.grid import NO_POSITION, Int64
from schemas.accuracy import ScoredPrediction
from schemas.prediction import Role
from schemas.spec import Spec
from streaming.accuracy.actuals import Closed
from streaming.accuracy.forecasts import Forecast

Float32 = NDArray[np.float32]


@dataclass(slots=True)
class _Run:
    """Consecutive closed steps of a key: `values` float32 (step, target), NaN where not observed; see `Closed`.

    The run began with step `began`, of which the first may be kept no longer; `block` int64 (step,).
    """

    began: int
    first: int
    values: Float32
    anchor: Int64
    block: Int64

    @property
    def end(self) -> int:
        """The step after the last closed one."""
        return self.first + len(self.values)

    def append(self, values: Float32, anchor: Int64, block: Int64) -> None:
        self.values = np.concatenate((self.values, values))
        self.anchor = np.concatenate((self.anchor, anchor))
        self.block = np.concatenate((self.block, block))

    def drop_before(self, step: int) -> int:
        """Forgets steps; how many."""
        count = min(max(step - self.first, 0), len(self.values))
        if count:
            self.first += count
            self.values, self.anchor, self.block = (
                self.values[count:].copy(),
                self.anchor[count:].copy(),
                self.block[count:].copy(),
            )
        return count


@dataclass(slots=True)
class _Series:
    """The forecasts of one series that wait, and the last one that was taken."""

    newest_step: int
    newest_place: tuple[int, int]
    """Partition and offset of that one."""
    waiting: deque[Forecast] = field(default_factory=deque)


@dataclass(slots=True)
class _Key:
    partition: int | None = None
    """Of the input."""
    runs: list[_Run] = field(default_factory=list)
    series: dict[tuple[str, Role], _Series] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Match:
    """A forecast that was scored, and the block of time in which its last scored step was closed.

    To be scored again it takes the events of an input `partition` from the position `anchor` on, and the forecast at
    `offset` of the predictions' partition `number`.
    """

    scored: ScoredPrediction
    block: int
    partition: int
    anchor: int
    number: int
    offset: int


class Join:
    """The keys of one stream; `outcomes` counts the forecasts that were not scored, by reason."""

    def __init__(self, spec: Spec) -> None:
        self._scored = np.array(spec.scored_steps) - 1
        self._steps, self._last = spec.scored_steps, spec.scored_steps[-1]
        self._targets = [index for index, feature in enumerate(spec.stream.features) if feature.role == "target"]
        self._names = tuple(target.name for target in spec.targets)
        self._units = tuple(target.unit for target in spec.targets)
        self._step_ms, self._offset_ms = spec.grid.step, spec.grid.offset
        self._reach = spec.grid.max_gap + 1
        """A window's target was observed in one of so many steps before its origin."""
        self._behind = spec.window.past + spec.window.horizon
        """Of a key whose other forecasts have been read, those of a series that is new are not further behind."""
        self._gone_after = (spec.span_ms + spec.grid.max_disorder + spec.grid.lateness) // spec.grid.step + 1
        self._keys: dict[str, _Key] = {}
        self._touched: set[str] = set()
        self._gone: set[str] = set()
        self._has_slack = False
        self.outcomes: Counter[str] = Counter()
        self.pending = 0
        self.rows = 0

    # --- what comes in ---

    def close(self, closed: Closed) -> None:
        """Takes the next closed steps of a key."""
        key = self._keys.setdefault(closed.key, _Key())
        key.partition = closed.partition
        self._gone.discard(closed.key)
        steps = closed.steps
        if not key.runs or key.runs[-1].end != steps.first:
            nothing = np.empty((0, len(self._targets)), np.float32), np.empty(0, np.int64), np.empty(0, np.int64)
            key.runs.append(_Run(steps.first, steps.first, *nothing))
        seen = steps.observed[:, self._targets]
        values = np.where(seen, steps.values[:, self._targets], np.float32(np.nan))
        key.runs[-1].append(values, closed.anchor, np.full(len(steps), closed.block))
        self.rows += len(steps)
        self._touched.add(closed.key)

    def predict(self, forecast: Forecast) -> bool:
        """Takes the next forecast of a partition; whether it is the first one of its origin."""
        key = self._keys.setdefault(forecast.key, _Key())
        name, place = (forecast.model.name, forecast.role), (forecast.partition, forecast.offset)
        series = key.series.get(name)
        if series is None:
            series = key.series[name] = _Series(forecast.origin_step, place)
        elif forecast.origin_step <= series.newest_step:
            return False
        series.newest_step, series.newest_place = forecast.origin_step, place
        series.waiting.append(forecast)
        self.pending += 1
        self._touched.add(forecast.key)
        return True

    def forget(self, keys: set[str]) -> None:
        """Keys whose next event would start them anew; once all their forecasts have been read, they are dropped."""
        self._gone |= {name for name in keys & self._keys.keys() if self._keys[name].runs}

    def _drop(self, keys: set[str]) -> None:
        """Forgets keys: what waits for steps of their last run waits in vain; what is of a later one, waits on."""
        for name in keys:
            key = self._keys[name]
            end = key.runs[-1].end if key.runs else None
            self.rows -= sum(len(run.values) for run in key.runs)
            key.runs = []
            for place, series in list(key.series.items()):
                while series.waiting and (end is None or series.waiting[0].origin_step <= end):
                    series.waiting.popleft()
                    self.outcomes["incomplete"] += 1
                    self.pending -= 1
                if not series.waiting:
                    del key.series[place]
            if not key.series:
                del self._keys[name]
                self._touched.discard(name)

    # --- what comes out ---

    def matches(self, *, caught_up: bool) -> list[Match]:
        """The forecasts that can be scored by now, each once; afterwards closed steps that nothing needs are forgotten.

        Args:
          caught_up: all forecasts that were made of the events behind the closed steps have been taken.
        """
        touched = self._touched
        if caught_up and self._has_slack:
            touched, self._has_slack = set(self._keys), False
        self._has_slack |= not caught_up
        found: list[Match] = []
        for name in touched:
            key = self._keys[name]
            for series in key.series.values():
                found += self._matches(key, series)
            self._prune(key, caught_up=caught_up)
        self._touched = set()
        if caught_up:
            self._drop(self._gone)
            self._gone = set()
        return found

    def _matches(self, key: _Key, series: _Series) -> Iterator[Match]:
        waiting = series.waiting
        while waiting and key.runs:
            forecast = waiting[0]
            origin = forecast.origin_step
            newest = key.runs[-1]
            run = next((run for run in key.runs if run.began < origin <= run.end), None)
            if run is None and origin > newest.end:
                return  # its window's events have yet to be read
            if run is newest and origin + self._last > newest.end:
                return
            waiting.popleft()
            self.pending -= 1
            if run is None or (run.first > origin + self._scored[0] and origin + self._last <= run.end):
                self.outcomes["expired"] += 1
            elif origin + self._last > run.end:
                self.outcomes["incomplete"] += 1
            elif (match := self._match(forecast, key, run)) is None:
                self.outcomes["unobserved"] += 1
            else:
                self.outcomes["scored"] += 1
                yield match

    def _match(self, forecast: Forecast, key: _Key, run: _Run) -> Match | None:
        at = forecast.origin_step - run.first + self._scored
        actual = run.values[at]
        if np.isnan(actual).all():
            return None
        cells = np.frombuffer(forecast.cells, np.float32).reshape(-1, len(self._steps), len(self._targets))
        scored = ScoredPrediction(
            key=forecast.key,
            origin_ms=forecast.origin_step * self._step_ms + self._offset_ms,
            model=forecast.model,
            role=forecast.role,
            targets=self._names,
            units=self._units,
            steps=self._steps,
            actual=actual,
            forecast=cells[0],
            persistence=cells[1],
            lower=cells[2] if len(cells) > 2 else None,
            upper=cells[3] if len(cells) > 2 else None,
            coverage=forecast.coverage,
        )
        first = max(forecast.origin_step - self._reach - run.first, 0)
        anchor = int(run.anchor[first : at[-1] + 1].min(initial=NO_POSITION))
        assert key.partition is not None
        return Match(scored, int(run.block[at[-1]]), key.partition, anchor, forecast.partition, forecast.offset)

    def _prune(self, key: _Key, *, caught_up: bool) -> None:
        if not key.runs:
            return
        needed = [series.waiting[0].origin_step for series in key.series.values() if series.waiting]
        if caught_up:
            needed.append(key.runs[-1].end)
        elif key.series:
            needed.append(min(series.newest_step for series in key.series.values()) - self._behind)
        else:
            return
        first = min(needed) - self._reach
        for run in key.runs:
            self.rows -= run.drop_before(first)
        key.runs = [run for run in key.runs if len(run.values) or run is key.runs[-1]]

    # --- what a successor must read again ---

    def lowest_position(self, partition: int) -> int:
        """The lowest position of an event in an input partition that a closed step which is kept depends on."""
        lowest = NO_POSITION
        for key in self._keys.values():
            if key.partition == partition:
                lowest = min([lowest, *(int(run.anchor.min(initial=NO_POSITION)) for run in key.runs)])
        return lowest

    def lowest_offsets(self) -> dict[int, int]:
        """By partition of the predictions topic, the lowest offset of a forecast that waits or was its series' last."""
        lowest: dict[int, int] = {}
        for key in self._keys.values():
            for series in key.series.values():
                places = [series.newest_place]
                if series.waiting:
                    places.append((series.waiting[0].partition, series.waiting[0].offset))
                for partition, offset in places:
                    lowest[partition] = min(lowest.get(partition, offset), offset)
        return lowest

    def drop_stale(self, clock_ms: int) -> None:
        """Forgets keys of which no event was ever read, once every partition's clock is far beyond their forecasts."""
        limit = (clock_ms - self._offset_ms) // self._step_ms - self._gone_after
        self._drop(
            {
                name
                for name, key in self._keys.items()
                if not key.runs and all(series.newest_step + self._last < limit for series in key.series.values())
            }
        )
