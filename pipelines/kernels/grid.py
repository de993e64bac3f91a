"""Events of one key on a regular time grid.

`Grid.push` takes the key's events in arrival order, a whole series, a chunk or a single event at a time, and returns
the steps that they close. However the series is cut, the same steps come out: every decision follows from clocks (the
greatest event time that the key and its partition have seen), never from what was processed when.

The rules:

- Step n is [n * step + offset, (n + 1) * step + offset). It closes when its end + lateness <= the key's clock; of a
  `regular` grid without lateness, when its event has come.
- An event of a closed step, or further behind its partition's clock than `max_disorder`, is late.
- Of events with the same time (of a `regular` grid: in the same step) the first to arrive counts; the others are
  duplicates.
- An event that is `spec.span_ms` or more ahead of the key's clock starts the key anew: what was open is dropped.
- Within a step events are reduced in the order (time, arrival), in float64, stored as float32.
- A cell without an event is filled (hold, zero) for at most `max_gap` steps after the last observed one; beyond, and
  under `none`, it is NaN. `observed` tells real cells from filled ones.

Axes are (time, feature). States are values: `push` returns a new one and never changes the old.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import IntEnum
from itertools import pairwise

import numpy as np
from numpy.typing import NDArray

from pipelines.kernels import calendar
from schemas.spec import Spec

Int64 = NDArray[np.int64]
Float32 = NDArray[np.float32]
Float64 = NDArray[np.float64]
Bool = NDArray[np.bool_]

NO_POSITION = np.iinfo(np.int64).max
_NEVER = np.iinfo(np.int64).min // 2  # a step far before any; halved so that differences do not overflow


class Outcome(IntEnum):
    """What became of an event that was pushed."""

    USED = 0
    DUPLICATE = 1
    LATE = 2


@dataclass(frozen=True, slots=True)
class Events:
    """Events of one key in arrival order.

    `time_ms` int64 (event,); `position` int64 (event,): where each came from (offset, or row); `values` float64
    (event, carried feature), NaN where missing.
    """

    time_ms: Int64
    position: Int64
    values: Float64

    def __len__(self) -> int:
        return len(self.time_ms)

    def take(self, index: NDArray[np.generic] | slice) -> Events:
        """The events at `index` (integers, a mask or a slice)."""
        return Events(self.time_ms[index], self.position[index], self.values[index])

    def copy(self) -> Events:
        """The same events in arrays of their own, so that those they were taken from can be freed."""
        return Events(self.time_ms.copy(), self.position.copy(), self.values.copy())


@dataclass(frozen=True, slots=True)
class Steps:
    """Consecutive closed steps of one key.

    `first` is the number of the first step; `values` float32 (step, feature), NaN where masked; `observed` bool, the
    same shape; `position` int64 (step,): the lowest position of an event in the step, NO_POSITION where none.
    """

    first: int
    values: Float32
    observed: Bool
    position: Int64

    def __len__(self) -> int:
        return len(self.values)


@dataclass(frozen=True, slots=True)
class GridState:
    """What a key remembers between pushes.

    `clock_ms` is the greatest event time, None before the first event; `open` holds the events of steps that are not
    closed; `next` is the first step after the last closed one, None before any; `held` float32 (carried feature,) and
    `held_step` int64 are each feature's last observed value and its step.
    """

    clock_ms: int | None
    open: Events
    next: int | None
    held: Float32
    held_step: Int64


class Grid:
    """The grid of one spec."""

    def __init__(self, spec: Spec) -> None:
        grid, features = spec.grid, spec.stream.features
        self.step_ms, self.offset_ms = grid.step, grid.offset
        self.width = len(features)
        self._lateness_ms, self._max_gap = grid.lateness, grid.max_gap
        self._max_disorder_ms, self._span_ms = grid.max_disorder, spec.span_ms
        self._regular = grid.regular
        self._closes_on_arrival = grid.regular and grid.lateness == 0

        carried = [index for index, feature in enumerate(features) if feature.calendar is None]
        self._carried = np.array(carried)
        self._calendars = [
            (index, feature.calendar, feature.zone) for index, feature in enumerate(features) if feature.calendar
        ]
        self._aggregates = np.array([features[index].aggregate for index in carried])
        self._takes_last = bool((self._aggregates == "last").all())
        self._held = np.array([features[index].fill == "hold" for index in carried])
        self._zeroed = np.array([features[index].fill == "zero" for index in carried])

    def empty(self) -> GridState:
        """The state of a key without events."""
        carried = len(self._carried)
        none = np.empty(0, np.int64)
        return GridState(
            clock_ms=None,
            open=Events(none, none, np.empty((0, carried))),
            next=None,
            held=np.full(carried, np.nan, np.float32),
            held_step=np.full(carried, _NEVER, np.int64),
        )

    def step_of(self, time_ms: Int64) -> Int64:
        """The steps that hold `time_ms`."""
        return (time_ms - self.offset_ms) // self.step_ms

    def start_ms(self, step: int) -> int:
        """When a step starts, which is also the origin of the window whose last past step is the one before."""
        return step * self.step_ms + self.offset_ms

    def blank(self, first: int, count: int) -> Steps:
        """Steps without events: calendar features are known, everything else is masked."""
        values = np.full((count, self.width), np.nan, np.float32)
        observed = np.zeros((count, self.width), np.bool_)
        self._set_calendars(first, values, observed)
        return Steps(first, values, observed, np.full(count, NO_POSITION))

    def calendar(self, first: int, count: int) -> Float32:
        """The calendar features of `count` steps from `first` on: float32 (step, calendar feature)."""
        starts = self.start_ms(first) + np.arange(count, dtype=np.int64) * self.step_ms
        columns = [calendar.phase(kind, starts, zone) for _, kind, zone in self._calendars]
        return np.stack(columns, axis=1) if columns else np.empty((count, 0), np.float32)

    def push(
        self, state: GridState, events: Events, partition_clock_ms: Int64 | None = None
    ) -> tuple[GridState, list[Steps], NDArray[np.int8]]:
        """Takes events of one key in arrival order and closes the steps that their times close.

        Args:
          state: what the last push returned, or `empty()`.
          events: the next events of the key.
          partition_clock_ms: int64 (event,), the greatest event time that the partition had seen when the event came;
            None where arrival order means nothing, as in files: then no event is too far behind.
        Returns:
          The new state; the closed steps, one run for each time that the key started anew, none empty; and an `Outcome`
          for each event, int8 (event,).
        """
        if (following := self._following(state.next, events, partition_clock_ms)) is not None:
            return self._followed(state, events, following), [following], np.zeros(len(events), np.int8)
        outcomes = np.full(len(events), Outcome.LATE, np.int8)
        if partition_clock_ms is None:
            kept = np.arange(len(events))
        else:
            kept = np.flatnonzero(events.time_ms >= partition_clock_ms - self._max_disorder_ms)
        if not len(kept):
            return state, [], outcomes
        kept_events = events if len(kept) == len(events) else events.take(kept)

        clock = np.maximum.accumulate(kept_events.time_ms)
        if state.clock_ms is not None:
            clock = np.maximum(clock, state.clock_ms)
        before = np.empty_like(clock)
        before[0] = clock[0] if state.clock_ms is None else state.clock_ms
        before[1:] = clock[:-1]
        restarts = np.flatnonzero(kept_events.time_ms - before >= self._span_ms)
        bounds = [0, *restarts.tolist(), len(kept_events)]

        closed: list[Steps] = []
        for start, end in pairwise(bounds):
            if start in restarts:
                state = self.empty()
            if start == end:
                continue
            run = slice(start, end)
            state, steps, outcomes[kept[run]] = self._push_run(
                state, kept_events.take(run), before[run], clock[end - 1]
            )
            if steps is not None:
                closed.append(steps)
        return state, closed, outcomes

    def closed_by(self, state: GridState, clock_ms: int) -> Steps | None:
        """The steps that would be closed if the key's clock showed `clock_ms` without another event.

        Steps without an event are closed for as long as a window can end there, which is `max_gap` + 1 of them.

        Returns:
          The steps from the first open one on; None where there are none, or the key would have started anew.
        """
        if state.clock_ms is None or clock_ms - state.clock_ms >= self._span_ms:
            return None
        held = self.step_of(state.open.time_ms)
        known = [int(held[0])] if state.next is None and len(held) else [state.next] if state.next is not None else []
        if not known:
            return None
        first, after = known[0], max(int(held[-1]) + 1, known[0]) if len(held) else known[0]
        end = min((clock_ms - self.offset_ms - self._lateness_ms) // self.step_ms, after + self._max_gap)
        if end <= first:
            return None
        closing = state.open.take(slice(int(np.searchsorted(held, end))))
        return self._close(closing, first, end - first, state)[0]

    def _following(self, first: int | None, events: Events, partition_clock_ms: Int64 | None) -> Steps | None:
        """The steps of events that are as a regular series should be; None where they are not.

        That is, each is complete, and in the step after the one before it, the first in step `first`. What `push` makes
        of such events by its rules is the events themselves, so there is no need to go through the rules.
        """
        count = len(events)
        if not (self._closes_on_arrival and self._takes_last) or first is None or not count:
            return None
        if (self.step_of(events.time_ms) != np.arange(first, first + count)).any():
            return None
        if partition_clock_ms is not None and (events.time_ms < partition_clock_ms - self._max_disorder_ms).any():
            return None
        cells = events.values.astype(np.float32)
        if not np.isfinite(cells).all():
            return None
        if not self._calendars:
            return Steps(first, cells, np.ones(cells.shape, np.bool_), events.position)
        steps = self.blank(first, count)
        steps.values[:, self._carried] = cells
        steps.observed[:, self._carried] = True
        return Steps(first, steps.values, steps.observed, events.position)

    def _followed(self, state: GridState, events: Events, steps: Steps) -> GridState:
        """The state after events that are all of `steps`."""
        after = steps.first + len(steps)
        held = steps.values[-1, self._carried]
        return GridState(int(events.time_ms[-1]), state.open, after, held, np.full(len(held), after - 1))

    def _push_run(
        self, state: GridState, events: Events, before: Int64, clock: np.int64
    ) -> tuple[GridState, Steps | None, NDArray[np.int8]]:
        """`push` for events among which the key does not start anew; `before` is the key's clock before each event."""
        step = self.step_of(events.time_ms)
        late = step < self._first_open(before)
        if state.clock_ms is None:
            late[0] = False  # no clock yet, so nothing is closed
        outcomes = np.where(late, np.int8(Outcome.LATE), np.int8(Outcome.USED))
        if self._closes_on_arrival:
            # The clock's own step is closed because its event has come: a further one is a duplicate, not late.
            outcomes[late & (step == self.step_of(before))] = Outcome.DUPLICATE
        fresh = np.flatnonzero(~late)

        waiting = len(state.open)
        merged = _concatenate(state.open, events.take(fresh))
        slot = self.step_of(merged.time_ms) if self._regular else merged.time_ms
        order = np.argsort(slot, kind="stable")  # stable: of equal slots the first to arrive stays first
        repeated = np.zeros(len(order), np.bool_)
        repeated[1:] = slot[order[1:]] == slot[order[:-1]]
        outcomes[fresh[order[repeated] - waiting]] = Outcome.DUPLICATE
        merged = merged.take(order[~repeated])

        first_open = self._first_open(np.array([clock])).item()
        count_closing = int(np.searchsorted(self.step_of(merged.time_ms), first_open))
        closing, still_open = merged.take(slice(count_closing)), merged.take(slice(count_closing, None)).copy()
        if state.next is None and not count_closing:
            return GridState(int(clock), still_open, None, state.held, state.held_step), None, outcomes
        first = self.step_of(closing.time_ms[:1]).item() if state.next is None else state.next
        if first >= first_open:
            return GridState(int(clock), still_open, state.next, state.held, state.held_step), None, outcomes
        steps, held, held_step = self._close(closing, first, first_open - first, state)
        return GridState(int(clock), still_open, first_open, held, held_step), steps, outcomes

    def _first_open(self, clock_ms: Int64) -> Int64:
        """The first step that is not closed when a key's clock shows each of `clock_ms`."""
        step: Int64 = (clock_ms - self.offset_ms - self._lateness_ms) // self.step_ms
        return step + 1 if self._closes_on_arrival else step

    def _close(self, events: Events, first: int, count: int, state: GridState) -> tuple[Steps, Float32, Int64]:
        """Reduces events, in time order, to `count` steps from `first` on, and fills what is missing."""
        row = self.step_of(events.time_ms) - first
        cells = self._reduce(row, events.values, count)
        seen = np.isfinite(cells)

        # The last observed step of each cell's feature, which may lie before `first`.
        number = np.arange(first, first + count)[:, None]
        last = np.maximum.accumulate(np.where(seen, number, state.held_step), axis=0)
        last_value = np.where(last >= first, np.take_along_axis(cells, np.maximum(last - first, 0), axis=0), state.held)
        fillable = ~seen & (number - last <= self._max_gap)
        cells = np.where(fillable & self._held, last_value, cells)
        cells[fillable & self._zeroed] = 0

        steps = self.blank(first, count)
        steps.values[:, self._carried] = cells
        steps.observed[:, self._carried] = seen
        np.minimum.at(steps.position, row, events.position)
        return steps, last_value[-1].copy(), last[-1].copy()

    def _reduce(self, row: Int64, values: Float64, count: int) -> Float32:
        """The aggregate of each cell as float32 (count, carried feature), NaN in a cell without a value."""
        width, missing = len(self._carried), np.isnan(values)
        if self._takes_last and not missing.any():  # the common case: whole rows, of which the last stays
            whole = np.full((count, width), np.nan, np.float32)
            whole[row] = values
            return whole
        event, column = np.nonzero(~missing)  # in row-major order, so by time within a cell
        cell, value = row[event] * width + column, values[event, column]
        # `bincount` adds one weight after the other: the sum depends on the order of the events alone.
        size, how = count * width, self._aggregates
        flat = np.full(size, np.nan)
        flat[cell] = value  # where an index is repeated the last value stays
        cells = flat.reshape(count, width)
        if not self._takes_last:
            number = np.bincount(cell, minlength=size).reshape(count, width).astype(np.float64)
            total = np.bincount(cell, weights=value, minlength=size).reshape(count, width)
            empty = number == 0
            for name, reduced in (
                ("count", number),
                ("sum", total),
                ("mean", total / np.where(empty, 1, number)),
                ("min", _extreme(np.minimum, cell, value, np.inf, cells.shape)),
                ("max", _extreme(np.maximum, cell, value, -np.inf, cells.shape)),
            ):
                cells = np.where((how == name) & ~empty, reduced, cells)
        with np.errstate(over="ignore"):  # a sum beyond float32 becomes infinite, which is not observed
            stored = cells.astype(np.float32)
        stored[~np.isfinite(stored)] = np.nan
        return stored

    def _set_calendars(self, first: int, values: Float32, observed: Bool) -> None:
        if self._calendars:
            columns = [index for index, *_ in self._calendars]
            values[:, columns] = self.calendar(first, len(values))
            observed[:, columns] = True


def _extreme(ufunc: np.ufunc, cell: Int64, value: Float64, start: float, shape: tuple[int, int]) -> Float64:
    flat = np.full(shape[0] * shape[1], start)
    ufunc.at(flat, cell, value)
    return flat.reshape(shape)


def _concatenate(left: Events, right: Events) -> Events:
    if not len(left):
        return right
    return Events(
        np.concatenate((left.time_ms, right.time_ms)),
        np.concatenate((left.position, right.position)),
        np.concatenate((left.values, right.values)),
    )
