"""The kernels against the naive oracle, and against themselves on any cut of the input."""

from __future__ import annotations

from itertools import pairwise
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pipelines.kernels.grid import NO_POSITION, Events, Outcome
from pipelines.kernels.windowing import KeyState, Windowing, Windows, window_digests
from schemas.spec import Spec
from tests.oracle import Oracle, OracleEvent
from tests.specs import tiny_spec

STEP = 10
CARRIED = 4
ZONES = ["UTC", "Europe/Berlin", "Asia/Kathmandu", "America/St_Johns"]


@st.composite
def specs(draw: st.DrawFn, labelled: bool = False, *, plain: bool = False) -> Spec:
    """Any spec, with targets or with a label in the place of the first.

    A plain one is regular, closes steps on arrival, and takes values as they come.
    """
    aggregate = st.just("last") if plain else st.sampled_from(["last", "mean", "sum", "min", "max", "count"])
    fill = st.sampled_from(["hold", "zero", "none"])
    past, horizon = draw(st.integers(1, 6)), draw(st.integers(1, 3))
    ahead = {"role": "future", "lead": draw(st.integers(horizon, past))} if horizon <= past else {"role": "past"}
    features: list[dict[str, Any]] = [
        {"name": "size", "role": "static", "fill": draw(fill)},
        {"name": "a", "role": "target", "aggregate": draw(aggregate), "fill": draw(fill)},
        {"name": "ahead", "aggregate": draw(aggregate), "fill": draw(fill), **ahead},
        {"name": "day", "role": "future", "calendar": "time_of_day", "zone": draw(st.sampled_from(ZONES))},
        {
            "name": "b",
            "role": "past" if labelled else draw(st.sampled_from(["target", "past"])),
            "aggregate": draw(aggregate),
            "fill": draw(fill),
        },
    ]
    if labelled:
        features[1] = {"name": "a", "role": "label", "type": "category", "categories": ["p", "q"]}
    return tiny_spec(
        stream={"features": features},
        grid={
            "step": f"{STEP}ms",
            "offset": f"{draw(st.integers(0, STEP - 1))}ms",
            "regular": plain or draw(st.booleans()),
            "lateness": f"{0 if plain else draw(st.sampled_from([0, 0, 5, 10, 25]))}ms",
            "max_disorder": f"{draw(st.sampled_from([0, 15, 40, 1000]))}ms",
            "max_gap": draw(st.integers(0, 3)),
        },
        window={
            "past": past,
            "horizon": horizon,
            "stride": draw(st.integers(1, 3)),
            "min_observed": draw(st.integers(1, past)),
            "min_observed_target": 1 if labelled else draw(st.integers(1, horizon)),
        },
    )


@st.composite
def logs(draw: st.DrawFn, labelled: bool = False) -> list[OracleEvent]:
    """A partition's log: mostly forward, with disorder, ties, gaps, jumps and missing values.

    Labels are classes 0 and 1, 2 for one that the spec has not, or missing.
    """
    move = st.one_of(st.integers(0, 2 * STEP), st.integers(-40, 60), st.sampled_from([0, 0, STEP, 70, 150, 400]))
    value = st.sampled_from([float("nan"), 0.0, 1.0, -2.5, 0.1, 3e7, 1e-7, 7.75])
    events, time_ms = [], draw(st.integers(-500, 1_000))
    for position in range(draw(st.integers(0, 60))):
        time_ms += draw(move)
        key = draw(st.sampled_from("xy"))
        values = [draw(value) for _ in range(CARRIED)]
        if labelled:
            values[1] = draw(st.sampled_from([float("nan"), float("nan"), 0.0, 1.0, 2.0]))
        events.append(OracleEvent(key, time_ms, position, tuple(values)))
    return events


@st.composite
def plain_logs(draw: st.DrawFn) -> list[OracleEvent]:
    """A partition's log of regular, complete series: seldom a gap, a duplicate, disorder, or a missing value."""
    steps = {"x": draw(st.integers(-5, 5)), "y": draw(st.integers(-5, 5))}
    move = st.sampled_from([1] * 12 + [0, 2, 3, -1, 9])
    value = st.sampled_from([1.0, -2.5, 0.1, -0.0, 3e7] * 4 + [float("nan")])
    events = []
    for position in range(draw(st.integers(0, 60))):
        key = draw(st.sampled_from("xy"))
        steps[key] += draw(move)
        time_ms = steps[key] * STEP + draw(st.integers(0, STEP - 1))
        events.append(OracleEvent(key, time_ms, position, tuple(draw(value) for _ in range(CARRIED))))
    return events


def as_events(events: list[OracleEvent]) -> Events:
    width = len(events[0].values) if events else CARRIED
    return Events(
        np.array([event.time_ms for event in events], np.int64),
        np.array([event.position for event in events], np.int64),
        np.array([event.values for event in events], np.float64).reshape(len(events), width),
    )


def partition_clock(log: list[OracleEvent]) -> np.ndarray[Any, np.dtype[np.int64]]:
    return np.maximum.accumulate(np.array([event.time_ms for event in log], np.int64)) if log else np.empty(0, np.int64)


Found = dict[tuple[str, int], tuple[bytes, ...]]


def collect(windowing: Windowing, key: str, windows: list[Windows], found: Found) -> None:
    for run in windows:
        values, mask = run.past_values(), run.past_observed()
        future, static = windowing.future_values(run.origin_step, values), windowing.static_values(values, mask)
        for origin, *arrays in zip(run.origin_step, values, mask, future, static, strict=True):
            assert (key, int(origin)) not in found
            found[key, int(origin)] = tuple(array.tobytes() for array in arrays)


def push_in_chunks(spec: Spec, log: list[OracleEvent], cuts: list[int], live: bool) -> tuple[Found, list[str]]:
    """Runs the kernel over the log, cut after the given numbers of events, each key's events of a chunk together."""
    windowing, found = Windowing(spec), Found()
    states: dict[str, KeyState] = {}
    outcomes = np.empty(len(log), np.int8)
    clock = partition_clock(log)
    for start, end in pairwise([0, *sorted(cuts), len(log)]):
        for key in sorted({event.key for event in log[start:end]}):
            index = np.array([i for i in range(start, end) if log[i].key == key])
            state = states.get(key) or windowing.empty()
            events = as_events([log[i] for i in index])
            states[key], windows, outcomes[index] = windowing.push(state, events, clock[index] if live else None)
            collect(windowing, key, windows, found)
    return found, [Outcome(code).name.lower() for code in outcomes]


def oracle_windows(oracle: Oracle) -> Found:
    return {
        (window.key, window.origin_step): (
            np.array(window.values, np.float32).tobytes(),
            np.array(window.observed, np.bool_).tobytes(),
            np.array(window.future, np.float32).tobytes(),
            np.array(window.static, np.float32).tobytes(),
        )
        for window in oracle.windows
    }


@settings(max_examples=400, deadline=None)
@given(st.booleans(), st.booleans(), st.data())
def test_any_cut_of_the_log_gives_the_windows_of_the_oracle(labelled: bool, live: bool, data: st.DataObject) -> None:
    spec, log = data.draw(specs(labelled)), data.draw(logs(labelled))
    oracle = Oracle(spec, live=live).run(log)
    expected = oracle_windows(oracle)
    some_cuts = data.draw(st.lists(st.integers(0, len(log)), max_size=5))
    for cuts in ([], list(range(len(log))), some_cuts):
        found, outcomes = push_in_chunks(spec, log, cuts, live)
        assert outcomes == oracle.outcomes
        assert found == expected


@settings(max_examples=200, deadline=None)
@given(specs(plain=True), plain_logs(), st.booleans(), st.data())
def test_regular_series_have_the_windows_of_the_oracle(
    spec: Spec, log: list[OracleEvent], live: bool, data: st.DataObject
) -> None:
    oracle = Oracle(spec, live=live).run(log)
    for cuts in (list(range(len(log))), data.draw(st.lists(st.integers(0, len(log)), max_size=5))):
        found, outcomes = push_in_chunks(spec, log, cuts, live)
        assert outcomes == oracle.outcomes
        assert found == oracle_windows(oracle)


@settings(max_examples=150, deadline=None)
@given(st.booleans(), st.data())
def test_labelled_windows_are_those_of_the_oracle(labelled: bool, data: st.DataObject) -> None:
    spec, log = data.draw(specs(labelled)), data.draw(logs(labelled))
    log = sorted((event for event in log if event.key == "x"), key=lambda event: event.time_ms)
    oracle = Oracle(spec, live=False).run(log)
    windowing = Windowing(spec)
    _, runs, _ = windowing.push(windowing.empty(), as_events(log))
    found = {int(origin) for run in runs for origin in run.origin_step[windowing.labelled(run)]}
    assert found == {window.origin_step for window in oracle.windows if window.labelled}
    if labelled:
        labels = [windowing.labels(run.steps, run.end).tolist() for run in runs]
        assert [number for of_run in labels for number in of_run] == [window.label for window in oracle.windows]


@settings(max_examples=150, deadline=None)
@given(specs(), logs(), st.data())
def test_nothing_before_the_lowest_position_is_needed(spec: Spec, log: list[OracleEvent], data: st.DataObject) -> None:
    """A state that is rebuilt from `lowest_position` on yields the same later windows as the one that was lost."""
    log = [event for event in log if event.key == "x"]
    cut = data.draw(st.integers(0, len(log)))
    windowing, clock = Windowing(spec), partition_clock(log)
    events = as_events(log)
    before, _, _ = windowing.push(windowing.empty(), events.take(slice(cut)), clock[:cut])
    rest = (events.take(slice(cut, None)), clock[cut:])

    first = int(np.searchsorted(events.position[:cut], before.lowest_position))
    rebuilt, _, _ = windowing.push(windowing.empty(), events.take(slice(first, cut)), clock[first:cut])

    expected, found = Found(), Found()
    collect(windowing, "x", windowing.push(before, *rest)[1], expected)
    collect(windowing, "x", windowing.push(rebuilt, *rest)[1], found)
    assert found == expected


def test_states_are_values() -> None:
    windowing = Windowing(tiny_spec())
    log = [OracleEvent("x", 10 * n, n, (float(n), 1.0)) for n in range(20)]
    state, _, _ = windowing.push(windowing.empty(), as_events(log[:10]))
    once = windowing.push(state, as_events(log[10:]))[1]
    again = windowing.push(state, as_events(log[10:]))[1]
    assert [run.past_values().tobytes() for run in once] == [run.past_values().tobytes() for run in again]


def test_an_empty_key_needs_no_event() -> None:
    assert Windowing(tiny_spec()).empty().lowest_position == NO_POSITION


def test_future_values_are_the_calendar_of_the_horizon() -> None:
    spec = tiny_spec()
    oracle, windowing = Oracle(spec), Windowing(spec)
    future = windowing.future_values(np.array([7, 3]))
    expected = [[[oracle.phase("time_of_day", origin + h)] for h in range(2)] for origin in (7, 3)]
    assert future.tobytes() == np.array(expected, np.float32).tobytes()


def test_what_was_announced_is_asked_of_the_past() -> None:
    features = [{"name": "load", "role": "target"}, {"name": "price", "role": "future", "lead": 2}]
    windowing = Windowing(tiny_spec(stream={"features": features}))
    past = np.arange(6, dtype=np.float32).reshape(1, 3, 2)
    assert windowing.future_values(np.array([7]), past).tolist() == [[[3.0], [5.0]]]
    with pytest.raises(ValueError, match="what was announced"):
        windowing.future_values(np.array([7]))


def test_digests_tell_windows_apart() -> None:
    values = np.arange(6, dtype=np.float32).reshape(2, 3, 1)
    seen, future = np.ones((2, 3, 1), np.bool_), np.empty((2, 2, 0), np.float32)
    one, other = window_digests(values, seen, future)
    assert len(one) == 16
    assert one != other
    assert window_digests(values[:1], ~seen[:1], future[:1]) != [one]
    assert window_digests(values[:1], seen[:1], future[:1]) == [one]


@settings(max_examples=150, deadline=None)
@given(specs(), logs(), st.integers(0, 12))
def test_the_wall_clock_closes_what_an_event_would(spec: Spec, log: list[OracleEvent], ahead: int) -> None:
    """Without changing the state: the windows are those that an event without values at that time would end."""
    windowing, events = Windowing(spec), as_events([event for event in log if event.key == "x"])
    state, _, _ = windowing.push(windowing.empty(), events)
    if state.grid.clock_ms is None:
        assert windowing.closed_by(state, 1_000) is None
        return
    grid = windowing.grid
    step = int(grid.step_of(np.array([state.grid.clock_ms]))[0]) + ahead
    clock_ms = grid.start_ms(step) + spec.grid.lateness
    found = windowing.closed_by(state, clock_ms)
    if clock_ms <= state.grid.clock_ms:
        return
    nothing = Events(np.array([clock_ms]), np.array([10**6]), np.full((1, CARRIED), np.nan))
    _, runs, _ = windowing.push(state, nothing)
    wanted = {
        int(origin): (values.tobytes(), observed.tobytes())
        for run in runs
        for origin, values, observed in zip(run.origin_step, run.past_values(), run.past_observed(), strict=True)
        if origin <= step
    }
    got = {}
    if found is not None:
        got = {
            int(origin): (values.tobytes(), observed.tobytes())
            for origin, values, observed in zip(
                found.origin_step, found.past_values(), found.past_observed(), strict=True
            )
        }
    assert got == wanted
