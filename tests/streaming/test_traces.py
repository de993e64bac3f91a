"""Which event closed a window: found by feeding events one at a time."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import orjson
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.specs import tiny_spec
from tests.streaming.test_partition import NOW_MS, Log, partition

GRIDS = [
    {"step": "10ms", "max_gap": 1},
    {"step": "10ms", "max_gap": 1, "regular": True},
    {"step": "10ms", "max_gap": 1, "lateness": "15ms", "max_disorder": "100ms"},
    {"step": "10ms", "max_gap": 1, "regular": True, "lateness": "15ms", "max_disorder": "100ms"},
]


def log(events: Sequence[tuple[str, int, bool]]) -> list[Log]:
    return [
        Log(
            offset,
            orjson.dumps({"key": key, "time": time_ms, "load": 1.0, "heat": None}),
            headers=[("traceparent", b"trace %d" % offset)] if traced else [],
        )
        for offset, (key, time_ms, traced) in enumerate(events)
    ]


@pytest.mark.parametrize("grid", GRIDS, ids=["steps", "regular", "late", "late and regular"])
@given(
    moves=st.lists(
        st.tuples(st.sampled_from("ab"), st.sampled_from([-20, 0, 3, 10, 10, 10, 25]), st.booleans()),
        min_size=5,
        max_size=60,
    )
)
@settings(max_examples=40, deadline=None)
def test_the_event_that_closed_a_window(grid: dict[str, Any], moves: list[tuple[str, int, bool]]) -> None:
    clock, events = {"a": 1_000, "b": 1_000}, []
    for key, move_ms, traced in moves:
        events.append((key, clock[key] + move_ms, traced))
        clock[key] = max(clock[key], clock[key] + move_ms)
    records = log(events)
    spec = tiny_spec(grid=grid)
    one_by_one, expected = partition(spec), {}
    for record in records:
        stage = one_by_one.stage([record], NOW_MS)
        one_by_one.apply(stage)
        for key, run in stage.windows:
            for origin in (run.origin_step * 10).tolist():
                if record.headers:
                    expected[key, origin] = record.headers[0][1]
    assert partition(spec).stage(records, NOW_MS).parents == expected
