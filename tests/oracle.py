"""The naive oracle: windows by the rules, one event and one cell at a time, in plain Python.

It shares no code with the kernels. Slow on purpose: every question ("what was last observed?", "is this step
closed?") is answered by looking through everything that is known.
"""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass, field
from datetime import datetime
from zoneinfo import ZoneInfo

import numpy as np

from schemas.spec import Spec
from schemas.stream_spec import Feature

CALENDAR = {  # period and start in ms
    "time_of_day": (24 * 3_600_000, 0),
    "day_of_week": (7 * 24 * 3_600_000, 4 * 24 * 3_600_000),
    "time_of_year": (31_556_952_000, 0),
}


@dataclass(frozen=True)
class OracleEvent:
    key: str
    time_ms: int
    position: int
    values: tuple[float, ...]


@dataclass
class OracleWindow:
    key: str
    origin_step: int
    values: list[list[np.float32]]
    observed: list[list[bool]]
    future: list[list[np.float32]]  # (horizon, future feature)
    static: list[np.float32]
    labelled: bool = False
    label: int = -1


@dataclass
class _Key:
    clock: int | None = None
    open: list[OracleEvent] = field(default_factory=list)
    first_step: int | None = None
    closed: dict[int, list[np.float32 | None]] = field(default_factory=dict)  # step -> observed values, None where not
    windows: list[OracleWindow] = field(default_factory=list)


@dataclass
class Oracle:
    """Feed events in arrival order; then read `windows` and `outcomes` ('used', 'duplicate', 'late').

    `contents=False` leaves the windows' cells out, which makes counting many windows bearable.
    """

    spec: Spec
    live: bool = True
    contents: bool = True
    outcomes: list[str] = field(default_factory=list)
    windows: list[OracleWindow] = field(default_factory=list)
    lives: list[tuple[str, dict[int, list[np.float32 | None]]]] = field(default_factory=list)
    """Each key with the observed values of its closed steps, once for each time that it started anew."""

    def __post_init__(self) -> None:
        self._keys: dict[str, _Key] = {}
        self._partition_clock = -math.inf
        features = self.spec.stream.features
        self._carried = [feature for feature in features if feature.calendar is None]
        self._targets = [i for i, feature in enumerate(self._carried) if feature.role == "target"]
        self._covariates = [i for i, feature in enumerate(self._carried) if feature.role == "past"]
        self._label_at = next((i for i, feature in enumerate(self._carried) if feature.role == "label"), None)

    def run(self, events: Iterable[OracleEvent]) -> Oracle:
        for event in events:
            self.outcomes.append(self._take(event))
        for key in self._keys.values():
            self._label(key)
        return self

    # --- the rules ---

    def _step(self, time_ms: int) -> int:
        return math.floor((time_ms - self.spec.grid.offset) / self.spec.grid.step)

    def _is_closed(self, step: int, clock: int | None) -> bool:
        grid = self.spec.grid
        if clock is None:
            return False
        if grid.regular and grid.lateness == 0:
            return step <= self._step(clock)
        end = (step + 1) * grid.step + grid.offset
        return end + grid.lateness <= clock

    def _take(self, event: OracleEvent) -> str:
        grid, window = self.spec.grid, self.spec.window
        self._partition_clock = max(self._partition_clock, event.time_ms)
        if self.live and event.time_ms < self._partition_clock - grid.max_disorder:
            return "late"
        key = self._keys.get(event.key) or self._new_life(event.key)
        span = (window.past + grid.max_gap + 1) * grid.step + grid.lateness
        if key.clock is not None and event.time_ms - key.clock >= span:
            self._label(key)
            key = self._new_life(event.key)
        step = self._step(event.time_ms)
        if self._is_closed(step, key.clock):
            assert key.clock is not None
            same = grid.regular and grid.lateness == 0 and step == self._step(key.clock)
            if same:
                key.clock = max(key.clock, event.time_ms)
            return "duplicate" if same else "late"
        outcome = "used"
        for other in key.open:
            if other.time_ms == event.time_ms or (grid.regular and self._step(other.time_ms) == step):
                outcome = "duplicate"
        if outcome == "used":
            key.open.append(event)
        key.clock = event.time_ms if key.clock is None else max(key.clock, event.time_ms)
        self._close_steps(event.key, key)
        return outcome

    def _new_life(self, name: str) -> _Key:
        key = self._keys[name] = _Key()
        self.lives.append((name, key.closed))
        return key

    def _close_steps(self, name: str, key: _Key) -> None:
        while True:
            if key.first_step is None:
                candidates = [
                    self._step(e.time_ms) for e in key.open if self._is_closed(self._step(e.time_ms), key.clock)
                ]
                if not candidates:
                    return
                key.first_step = step = min(candidates)
            else:
                step = key.first_step + len(key.closed)
                if not self._is_closed(step, key.clock):
                    return
            members = sorted((e for e in key.open if self._step(e.time_ms) == step), key=lambda e: e.time_ms)
            key.open = [e for e in key.open if self._step(e.time_ms) != step]
            key.closed[step] = [
                self._reduce([e.values[i] for e in members if not math.isnan(e.values[i])], feature.aggregate)
                for i, feature in enumerate(self._carried)
            ]
            window = self._window(name, key, step + 1)
            if window is not None:
                key.windows.append(window)
                self.windows.append(window)

    @staticmethod
    def _reduce(values: list[float], how: str) -> np.float32 | None:
        if not values:
            return None
        total = 0.0
        for value in values:
            total = total + value
        number = {
            "last": values[-1],
            "count": float(len(values)),
            "sum": total,
            "mean": total / len(values),
            "min": min(values),
            "max": max(values),
        }[how]
        return np.float32(number)

    def _cell(self, key: _Key, step: int, i: int) -> tuple[np.float32, bool]:
        now = key.closed.get(step, [None] * len(self._carried))[i]
        if now is not None:
            return now, True
        for back in range(1, self.spec.grid.max_gap + 1):
            before = key.closed.get(step - back, [None] * len(self._carried))[i]
            if before is not None:
                # Filled only where the grid has the step; before a key's first step there is nothing to hold.
                fill = self._carried[i].fill
                return (before if fill == "hold" else np.float32(0) if fill == "zero" else np.float32("nan")), False
        return np.float32("nan"), False

    def _window(self, name: str, key: _Key, origin: int) -> OracleWindow | None:
        window, grid = self.spec.window, self.spec.grid
        if origin % window.stride:
            return None
        past = range(origin - window.past, origin)
        for needed in [[i] for i in self._targets] or [self._covariates]:
            seen = [
                any(key.closed.get(step, [None] * len(self._carried))[i] is not None for i in needed) for step in past
            ]
            if sum(seen) < window.min_observed or not any(seen[-(grid.max_gap + 1) :]):
                return None
        values, observed = [], []
        for step in past if self.contents else ():
            cells = [self._cell(key, step, i) for i in range(len(self._carried))]
            values.append(self._with_calendar(step, [cell[0] for cell in cells]))
            observed.append(
                [
                    True if feature.calendar else cells[self._carried.index(feature)][1]
                    for feature in self.spec.stream.features
                    if feature.role != "label"
                ]
            )
        static = [self._last(key, past, i) for i, feature in enumerate(self._carried) if feature.role == "static"]
        future = [
            [self._known(key, step, feature) for feature in self.spec.stream.features if feature.role == "future"]
            for step in range(origin, origin + window.horizon)
        ]
        return OracleWindow(name, origin, values, observed, future, static)

    def _last(self, key: _Key, past: range, i: int) -> np.float32:
        seen = [value for step in past if (value := key.closed.get(step, [None] * len(self._carried))[i]) is not None]
        return seen[-1] if seen else np.float32("nan")

    def _known(self, key: _Key, step: int, feature: Feature) -> np.float32:
        if feature.calendar:
            return self.phase(feature.calendar, step, feature.zone)
        assert feature.lead is not None
        return self._cell(key, step - feature.lead, self._carried.index(feature))[0]

    def _with_calendar(self, step: int, carried: list[np.float32]) -> list[np.float32]:
        row, rest = [], iter(carried)
        for feature in self.spec.stream.features:
            cell = self.phase(feature.calendar, step, feature.zone) if feature.calendar else next(rest)
            if feature.role != "label":
                row.append(cell)
        return row

    def phase(self, kind: str, step: int, zone: str = "UTC") -> np.float32:
        period, start = CALENDAR[kind]
        time_ms = step * self.spec.grid.step + self.spec.grid.offset
        offset = datetime.fromtimestamp(time_ms // 1000, ZoneInfo(zone)).utcoffset()
        assert offset is not None
        time_ms += round(offset.total_seconds()) * 1000
        return np.float32((time_ms - start) % period / period - 0.5)

    def _label(self, key: _Key) -> None:
        for window in key.windows:
            horizon = range(window.origin_step, window.origin_step + self.spec.window.horizon)
            if self._label_at is not None:
                told = [key.closed[step][self._label_at] for step in horizon if step in key.closed]
                classes = len(self._carried[self._label_at].categories)
                window.label = next((int(number) for number in told if number is not None and number < classes), -1)
                window.labelled = len(told) == len(horizon) and window.label >= 0
                continue
            window.labelled = all(step in key.closed for step in horizon) and all(
                sum(key.closed[step][i] is not None for step in horizon) >= self.spec.window.min_observed_target
                for i in self._targets
            )
