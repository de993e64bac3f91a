"""A partition that is rebuilt from its checkpoint goes on as if nothing had happened."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import orjson
from hypothesis import given, settings
from hypothesis import strategies as st

from pipelines.kernels.windowing import Windowing
from schemas.event import EventReader
from schemas.spec import Spec
from streaming.checkpoint import MAX_METADATA_BYTES, Checkpoint
from streaming.partition import Partition, Stage
from tests.oracle import Oracle, OracleEvent
from tests.specs import tiny_spec

NOW_MS = 100_000


@dataclass
class Log:
    """A stand-in for a consumed record."""

    offset: int
    value: bytes | None
    timestamp: int = 0
    key: bytes | None = b"k"
    headers: Sequence[tuple[str, bytes]] = field(default_factory=list)


def record(offset: int, key: str, time_ms: int, load: Any = 1.0) -> Log:
    return Log(offset, orjson.dumps({"key": key, "time": time_ms, "load": load, "heat": None}))


def partition(spec: Spec, start_offset: int = 0, live_from: int = 0, **place: Any) -> Partition:
    return Partition(
        spec,
        Windowing(spec),
        EventReader(spec),
        name="tiny.events[0]",
        partitions=1,
        start_offset=start_offset,
        live_from=live_from,
        **place,
    )


def outputs(stage: Stage) -> dict[str, list[Any]]:
    """What a stage would write: windows, late events and dead letters."""
    return {
        "windows": [
            (key, int(origin), values.tobytes(), mask.tobytes())
            for key, run in stage.windows
            for origin, values, mask in zip(run.origin_step, run.past_values(), run.past_observed(), strict=True)
        ],
        "late": [record.offset for record in stage.late],
        "dead": [(record.offset, letter.reason) for record, letter in stage.dead],
    }


@st.composite
def logs(draw: st.DrawFn) -> list[Log]:
    move = st.one_of(st.integers(0, 20), st.integers(-40, 60), st.sampled_from([0, 10, 70, 150, 400]))
    ahead = st.sampled_from([0] * 8 + [NOW_MS, 3 * NOW_MS])  # now and then an event from the future
    time_ms, offset, log = draw(st.integers(98_000, NOW_MS)), 0, []
    for _ in range(draw(st.integers(1, 60))):
        time_ms += draw(move)
        offset += draw(st.sampled_from([1, 1, 1, 2]))  # transaction markers and compaction leave holes
        value = draw(st.sampled_from([1.0, 2.5, -3.0, None, "x"]))
        log.append(record(offset, draw(st.sampled_from("xyz")), time_ms + draw(ahead), value))
    return log


@st.composite
def specs(draw: st.DrawFn) -> Spec:
    return tiny_spec(
        grid={
            "regular": draw(st.booleans()),
            "lateness": f"{draw(st.sampled_from([0, 15]))}ms",
            "max_disorder": f"{draw(st.sampled_from([0, 30, 500]))}ms",
            "max_skew": "1s",
            "max_gap": draw(st.integers(0, 2)),
        },
        window={"past": draw(st.integers(1, 4)), "stride": draw(st.integers(1, 2))},
    )


def valid_times(log: list[Log]) -> dict[int, int]:
    """The event times by offset, without the dead letters."""
    events = {one.offset: orjson.loads(one.value or b"") for one in log}
    return {
        offset: event["time"]
        for offset, event in events.items()
        if event["load"] != "x" and event["time"] <= NOW_MS + 1_000
    }


@settings(max_examples=300, deadline=None)
@given(specs(), logs(), st.data())
def test_crashes_change_nothing(spec: Spec, log: list[Log], data: st.DataObject) -> None:
    """At every batch the process may die, before or after its commit; the wall clock has moved when it is back."""
    whole = partition(spec).stage(log, NOW_MS)
    expected = outputs(whole)
    found: dict[str, list[Any]] = {"windows": [], "late": [], "dead": []}
    counts: Counter[str] = Counter()
    committed: Checkpoint | None = None
    current, position = partition(spec), 0
    while position < len(log):
        batch = log[position : position + data.draw(st.integers(1, 12))]
        stage = current.stage(batch, NOW_MS)
        fate = data.draw(st.sampled_from(["commits", "commits", "commits, then dies", "dies"]))
        if fate != "dies":
            committed = current.checkpoint(stage)
            current.apply(stage)
            before = [time for offset, time in valid_times(log).items() if offset < committed.replay_offset]
            assert committed.clock_ms == max(before, default=None)
            counts += stage.counts
            for kind, some in outputs(stage).items():
                found[kind] += some
            position += len(batch)
        if "dies" in fate:
            if committed is None:
                current = partition(spec)
                continue
            restored = Checkpoint.read(committed.offset, committed.metadata())
            assert restored == committed
            assert restored.refused is not None
            current = partition(
                spec,
                restored.replay_offset,
                restored.offset,
                clock_ms=restored.clock_ms,
                refused=frozenset(restored.refused),
            )
            replayed = [record for record in log if restored.replay_offset <= record.offset < restored.offset]
            if replayed:
                current.apply(current.stage(replayed, NOW_MS + 10_000_000))

    assert sorted(found["windows"]) == sorted(expected["windows"])
    assert found["late"] == expected["late"]
    assert found["dead"] == expected["dead"]
    assert counts["in"] == counts["used"] + counts["duplicate"] + counts["late"] + counts["dead"] == len(log)


@settings(max_examples=150, deadline=None)
@given(specs(), logs())
def test_forgetting_idle_keys_is_invisible(spec: Spec, log: list[Log]) -> None:
    """Event by event, with keys forgotten as soon as they may be, the windows are those of the forgetless oracle."""
    live, found = partition(spec), []
    for one in log:
        stage = live.stage([one], NOW_MS)
        live.apply(stage)
        found += outputs(stage)["windows"]
    events = []
    for one in log:
        event = orjson.loads(one.value or b"")
        if one.offset in valid_times(log):
            load = float("nan") if event["load"] is None else event["load"]
            events.append(OracleEvent(event["key"], event["time"], one.offset, (load, float("nan"))))
    oracle = Oracle(spec).run(events)
    assert found == [
        (w.key, w.origin_step, np.array(w.values, np.float32).tobytes(), np.array(w.observed).tobytes())
        for w in oracle.windows
    ]


def test_idle_keys_are_forgotten() -> None:
    spec = tiny_spec(grid={"max_disorder": "0s"})
    live = partition(spec)
    live.apply(live.stage([record(0, "old", 1_000), record(1, "new", 1_000)], NOW_MS))
    live.apply(live.stage([record(2, "new", 50_000)], NOW_MS))
    assert live.keys == 1
    assert live.checkpoint(live.stage([record(3, "new", 50_010)], NOW_MS)).replay_offset == 2


def test_an_event_from_the_future_makes_no_other_late() -> None:
    live = partition(tiny_spec(grid={"max_skew": "1s"}))
    stage = live.stage([record(0, "x", 2_000), record(1, "x", NOW_MS + 1_001), record(2, "x", 2_010)], NOW_MS)
    assert [letter.reason for _, letter in stage.dead] == ["future"]
    assert stage.counts["used"] == 2


def test_what_is_no_event_is_a_dead_letter_with_its_reason() -> None:
    bad = {
        b"{": "decode",
        b"[1]": "decode",
        b"null": "decode",
        b'{"time": 5}': "missing",
        b'{"key": "x"}': "missing",
        b'{"key": ["x"], "time": 5}': "type",
        b'{"key": "x", "time": "noon"}': "time",
        b'{"key": "x", "time": 5.5}': "time",
        b'{"key": "x", "time": 253402300799000}': "time_range",
        b'{"key": "x", "time": 5, "load": "1.0"}': "type",
        b'{"key": "x", "time": 5, "load": true}': "type",
        b'{"key": "x", "time": 5, "load": 1e39}': "range",
    }
    log = [Log(offset, payload) for offset, payload in enumerate(bad)] + [Log(len(bad), None)]
    stage = partition(tiny_spec()).stage(log, NOW_MS)
    assert [letter.reason for _, letter in stage.dead] == [*bad.values(), "decode"]
    assert [letter.payload for _, letter in stage.dead] == [*bad, None]
    assert [letter.source for _, letter in stage.dead] == [f"tiny.events[0]@{n}" for n in range(len(bad) + 1)]
    assert stage.counts == Counter({"in": len(log), "dead": len(log)})


def test_a_checkpoint_that_would_be_too_long_leaves_the_refused_offsets_out() -> None:
    checkpoint = Checkpoint(90_000, 1, 5, tuple(range(1, 80_000, 7)), "f" * 32, 3)
    text = checkpoint.metadata()
    assert len(text) <= MAX_METADATA_BYTES
    restored = Checkpoint.read(90_000, text)
    assert restored is not None
    assert (restored.refused, restored.replay_offset, restored.clock_ms) == (None, 1, 5)


def test_the_commit_of_somebody_else_is_no_checkpoint() -> None:
    assert Checkpoint.read(5, "") is None
    assert Checkpoint.read(5, '{"note": "by hand"}') is None
