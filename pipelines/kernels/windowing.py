"""Windows of one key: the past that a model sees at each origin, and the horizon that it must forecast.

`Windowing.push` runs the grid and yields every window whose last past step it closed. A window exists at an origin if
and only if the origin is on the stride (counted from the epoch) and every target was really observed in at least
`min_observed` of the past steps and at least once in the last `max_gap` + 1 of them; of a stream with a label, any
feature of the role `past` was. Training also needs the horizon: `labelled` tells which windows have one.

A label is a column of the steps, and never one of a window's past.

Axes are (window, time, feature).
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from functools import cache
from typing import TypeVar

import numpy as np
from numpy.lib.stride_tricks import as_strided
from numpy.typing import NDArray

from pipelines.kernels.grid import NO_POSITION, Bool, Events, Float32, Grid, GridState, Int64, Steps
from schemas.spec import Spec

T = TypeVar("T", bound=np.generic)
Columns = list[int] | slice

FEW = 8
"""So many windows are cut faster one by one than by a view of all of them."""


@dataclass(frozen=True, slots=True)
class KeyState:
    """What a key remembers between pushes: its grid, and the last closed steps.

    `tail` holds the `past` - 1 steps before `grid.next`, None before any step is closed; `recent_position` int64 the
    event positions of the last `past` + `max_gap` closed steps.
    """

    grid: GridState
    tail: Steps | None
    recent_position: Int64

    @property
    def lowest_position(self) -> int:
        """The lowest position of an event that a window of this key can still need; NO_POSITION where none."""
        lowest = self.recent_position.min(initial=NO_POSITION)
        return int(self.grid.open.position.min(initial=lowest))


@dataclass(frozen=True, slots=True)
class Windows:
    """Windows over one run of consecutive steps.

    `steps` are the run's steps with the `past` - 1 before it; window i sees the `past` of them that end in row
    `end[i]` (int64, exclusive), and its origin is the start of step `origin_step[i]`. `inputs` are the columns of the
    steps that a window's past has.
    """

    steps: Steps
    end: Int64
    past: int
    inputs: Columns

    def __len__(self) -> int:
        return len(self.end)

    @property
    def origin_step(self) -> Int64:
        """int64 (window,): the first horizon step of each window."""
        return self.steps.first + self.end

    def past_values(self) -> Float32:
        """float32 (window, past, input), NaN where masked."""
        return self._cut(self.steps.values)

    def past_observed(self) -> Bool:
        """bool (window, past, input)."""
        return self._cut(self.steps.observed)

    def _cut(self, rows: NDArray[T]) -> NDArray[T]:
        rows = rows[:, self.inputs]
        if len(self.end) <= FEW:
            cut = np.empty((len(self.end), self.past, rows.shape[1]), rows.dtype)
            for window, end in enumerate(self.end.tolist()):
                cut[window] = rows[end - self.past : end]
            return cut
        shape, strides = (len(rows) - self.past + 1, self.past, rows.shape[1]), (rows.strides[0], *rows.strides)
        return np.ascontiguousarray(as_strided(rows, shape, strides, writeable=False)[self.end - self.past])


class Windowing:
    """The windows of one spec."""

    def __init__(self, spec: Spec) -> None:
        self.grid = Grid(spec)
        window, features, inputs = spec.window, spec.stream.features, spec.stream.inputs
        self.past, self.horizon = window.past, window.horizon
        self._stride, self._min_observed = window.stride, window.min_observed
        self._min_observed_target = window.min_observed_target
        self._recent = min(spec.grid.max_gap + 1, window.past)
        self._needed = window.past + spec.grid.max_gap
        self._targets = [index for index, feature in enumerate(features) if feature.role == "target"]
        self._covariates = [index for index, feature in enumerate(features) if feature.role == "past"]
        self._label = next((index for index, feature in enumerate(features) if feature.role == "label"), None)
        self._classes = len(spec.classes)
        self.inputs: Columns = slice(None)
        """The columns of the steps that a window's past has."""
        if self._label is not None:
            self.inputs = [index for index in range(len(features)) if index != self._label]
        self._statics = [index for index, feature in enumerate(inputs) if feature.role == "static"]
        future = [(index, feature.lead) for index, feature in enumerate(inputs) if feature.role == "future"]
        self._future = len(future)
        self._calendars = [column for column, (_, lead) in enumerate(future) if lead is None]
        self._announced = [(column, index, lead) for column, (index, lead) in enumerate(future) if lead is not None]

    def empty(self) -> KeyState:
        """The state of a key without events."""
        return KeyState(self.grid.empty(), None, np.empty(0, np.int64))

    def push(
        self, state: KeyState, events: Events, partition_clock_ms: Int64 | None = None
    ) -> tuple[KeyState, list[Windows], NDArray[np.int8]]:
        """Takes events of one key in arrival order; arguments and outcomes are those of `Grid.push`.

        Returns:
          The new state; the windows whose last past step was closed, one `Windows` for each run of steps (it may hold
          none); and an `Outcome` for each event.
        """
        grid_state, runs, outcomes = self.grid.push(state.grid, events, partition_clock_ms)
        tail, recent = state.tail, state.recent_position
        windows = []
        for run in runs:
            if tail is None or tail.first + len(tail) != run.first:
                tail, recent = self._blank_before(run), recent[:0]
            steps = _join(tail, run)
            windows.append(Windows(steps, self._ends(steps), self.past, self.inputs))
            tail = _last(steps, self.past - 1)
            recent = np.concatenate((recent[-self._needed :], run.position))[-self._needed :].copy()
        if grid_state.next is None:  # the key started anew and has closed nothing since
            tail, recent = None, recent[:0]
        return KeyState(grid_state, tail, recent), windows, outcomes

    def closed_by(self, state: KeyState, clock_ms: int) -> Windows | None:
        """The windows that would end if the key's clock showed `clock_ms` without another event; None if no step would.

        They are provisional: an event that is still to come can change them. The state stays as it is.
        """
        run = self.grid.closed_by(state.grid, clock_ms)
        if run is None:
            return None
        steps = _join(state.tail if state.tail is not None else self._blank_before(run), run)
        return Windows(steps, self._ends(steps), self.past, self.inputs)

    def future_values(self, origin_step: Int64, past_values: Float32 | None = None) -> Float32:
        """The known-future features of each window's horizon.

        Args:
          origin_step: int64 (window,).
          past_values: float32 (window, past, input); needed where a feature has a lead, because what it tells of the
            horizon has been announced in the past of the same window.
        Returns:
          float32 (window, horizon, future feature), NaN where nothing was announced.
        Raises:
          ValueError: `past_values` is needed.
        """
        future = np.empty((len(origin_step), self.horizon, self._future), np.float32)
        if not len(origin_step):
            return future
        if self._calendars:
            first = int(origin_step.min())
            known = self.grid.calendar(first, int(origin_step.max()) - first + self.horizon)
            future[:, :, self._calendars] = known[(origin_step - first)[:, None] + np.arange(self.horizon)]
        for column, index, lead in self._announced:
            if past_values is None:
                raise ValueError("expected the past of the windows, which has what was announced, got none")
            announced = self.past - lead
            future[:, :, column] = past_values[:, announced : announced + self.horizon, index]
        return future

    def static_values(self, past_values: Float32, past_observed: Bool) -> Float32:
        """Each static feature's last observed value in the past of each window.

        Not a key's first value ever: which event that was, a replay from the last commit could not tell.

        Args:
          past_values: float32 (window, past, input).
          past_observed: bool, the same shape.
        Returns:
          float32 (window, static feature), NaN where none was observed.
        """
        seen = past_observed[:, :, self._statics]
        last = self.past - 1 - np.argmax(seen[:, ::-1], axis=1)
        value = np.take_along_axis(past_values[:, :, self._statics], last[:, None], axis=1)[:, 0]
        return np.where(seen.any(axis=1), value, np.float32(np.nan))

    def labelled(self, windows: Windows) -> Bool:
        """bool (window,): whose horizon lies within the run and has a label, or every target in enough steps."""
        if self._label is not None:
            told: Bool = self.labels(windows.steps, windows.end) >= 0
            return told & (windows.end + self.horizon <= len(windows.steps))
        seen = _running_count(windows.steps.observed[:, self._targets])
        complete = windows.end + self.horizon < len(seen)
        end = np.where(complete, windows.end, 0)
        enough = seen[np.minimum(end + self.horizon, len(seen) - 1)] - seen[end] >= self._min_observed_target
        labelled: Bool = complete & enough.all(axis=1)
        return labelled

    def labels(self, steps: Steps, end: Int64) -> Int64:
        """The class of windows: that of the first step of the horizon that has one of the spec's classes.

        Args:
          steps: with the horizons, as far as they are known.
          end: int64 (window,), the row after each window's last past step.
        Returns:
          int64 (window,): numbers of classes; -1 where the horizon has none.
        Raises:
          ValueError: the spec has no label.
        """
        if self._label is None:
            raise ValueError("expected a spec with a label, got one without")
        column, rows = steps.values[:, self._label], len(steps)
        told = steps.observed[:, self._label] & (column < self._classes)
        never = rows + self.horizon
        following = np.full(rows + 1, never)  # of each row, the first from it on that tells a class
        following[:-1] = np.minimum.accumulate(np.where(told, np.arange(rows), never)[::-1])[::-1]
        first = following[end]
        return np.where(first < end + self.horizon, column[np.minimum(first, rows - 1)], -1).astype(np.int64)

    def _blank_before(self, run: Steps) -> Steps:
        """The context of a run that nothing is known before."""
        return self.grid.blank(run.first - self.past + 1, self.past - 1)

    def _ends(self, steps: Steps) -> Int64:
        """The rows after which a window ends, for `past` - 1 context steps followed by new ones."""
        end: Int64 = np.arange(self.past, len(steps) + 1)
        if self._stride > 1:
            end = end[(steps.first + end) % self._stride == 0]
        observed = self._needed_cells(steps.observed)
        if observed.all():
            return end
        seen = _running_count(observed)
        enough = seen[end] - seen[end - self.past] >= self._min_observed
        fresh = seen[end] - seen[end - self._recent] >= 1
        ends: Int64 = end[(enough & fresh).all(axis=1)]
        return ends

    def _needed_cells(self, observed: Bool) -> Bool:
        """What must have been observed where there is a window: (row, feature) -> (row, column)."""
        if self._label is None:
            return observed[:, self._targets]
        return np.logical_or.reduce(observed[:, self._covariates], axis=1, keepdims=True)


def window_digests(past_values: Float32, past_observed: Bool, future_values: Float32) -> list[str]:
    """blake2b-64 of each window's bytes (values, mask, future covariates), as 16 hexadecimal digits.

    Arguments are (window, time, feature), little-endian in memory, as models take them.
    """
    arrays = (past_values, past_observed, future_values)
    parts = [(np.ascontiguousarray(array).reshape(-1).view(np.uint8).data, array[:1].nbytes) for array in arrays]
    digests = []
    for window in range(len(past_values)):
        digest = hashlib.blake2b(digest_size=8)
        for content, size in parts:
            digest.update(content[window * size : (window + 1) * size])
        digests.append(digest.hexdigest())
    return digests


def _running_count(seen: Bool) -> Int64:
    """How often each column was seen before each row: int64 (row + 1, column)."""
    count = np.zeros((len(seen) + 1, seen.shape[1]), np.int64)
    np.cumsum(seen, axis=0, out=count[1:])
    return count


def _join(left: Steps, right: Steps) -> Steps:
    return Steps(
        left.first,
        np.concatenate((left.values, right.values)),
        np.concatenate((left.observed, right.observed)),
        np.concatenate((left.position, right.position)),
    )


def _last(steps: Steps, count: int) -> Steps:
    # A view keeps the whole run in memory, so that of a long one is copied. Positions are remembered in
    # `recent_position`, and only there.
    start = len(steps) - count
    values, observed = steps.values[start:], steps.observed[start:]
    if start > count // 16:
        values, observed = values.copy(), observed.copy()
    return Steps(steps.first + start, values, observed, _unknown_positions(count))


@cache
def _unknown_positions(count: int) -> Int64:
    """Read-only: the positions of steps that nothing is known of any more; int64 (step,)."""
    return np.broadcast_to(np.int64(NO_POSITION), count)
