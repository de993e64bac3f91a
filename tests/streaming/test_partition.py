"""A partition that is restored from its checkpoint goes on as if nothing had happened."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import orjson
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from kafka import TopicPartition

from pipelines.kernels.windowing import Windowing
from schemas.event import EventReader
from schemas.spec import Spec
from streaming.changelog import Changelog
from streaming.checkpoint import MAX_METADATA_BYTES, Checkpoint
from streaming.event_partition import UNKNOWN_MS, Landmarks
from streaming.key_states import VERSION, encode_state, row_offset
from streaming.partition import Partition, WindowStage
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


def outputs(stage: WindowStage) -> dict[str, list[Any]]:
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


def pieces(log: list[Log], data: st.DataObject) -> list[list[Log]]:
    cut = data.draw(st.integers(0, len(log)))
    return [some for some in (log[:cut], log[cut:]) if some]


@dataclass
class Sent:
    """Stands for the future of a record that was sent."""

    offset: int

    def get(self, timeout: float) -> Sent:
        return self


@dataclass
class Rows:
    """A changelog's partition in memory; also the outbox that writes to it."""

    log: list[Log] = field(default_factory=list)

    def send(self, topic: str, value: bytes | None, *, key: bytes, partition: int) -> Sent:
        self.log.append(Log(len(self.log), value, key=key))
        return Sent(len(self.log) - 1)

    def flush(self) -> None:
        pass


PLACE = TopicPartition("tiny.events", 0)


@pytest.mark.parametrize("recovery", ["replay", "changelog", "changelog without transactions"])
@settings(max_examples=100, deadline=None)
@given(spec=specs(), log=logs(), most=st.sampled_from([1, 4096]), data=st.data())
def test_crashes_change_nothing(recovery: str, spec: Spec, log: list[Log], most: int, data: st.DataObject) -> None:
    """At every batch the process may die, before or after its commit; the wall clock has moved when it is back."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Landmarks, "MOST", most)
        _crash_and_restore(recovery, spec, log, data)


def _crash_and_restore(recovery: str, spec: Spec, log: list[Log], data: st.DataObject) -> None:
    whole = partition(spec).stage(log, NOW_MS)
    expected = outputs(whole)
    found: dict[str, list[Any]] = {"windows": [], "late": [], "dead": []}
    counts: Counter[str] = Counter()
    committed: Checkpoint | None = None
    rows = Rows()
    has_changelog = recovery != "replay"
    changelog = Changelog("tiny.changelog", spec.window_fingerprint)
    current, position = partition(spec, has_changelog=has_changelog), 0
    while position < len(log):
        batch = log[position : position + data.draw(st.integers(1, 12))]
        stage = current.stage(batch, NOW_MS)
        written = len(rows.log)
        point = current.checkpoint(stage)
        if has_changelog:
            [point] = changelog.save(rows, {PLACE: stage}, {PLACE: current}).values()  # type: ignore[arg-type]
        fate = data.draw(st.sampled_from(["commits", "commits", "commits, then dies", "dies"]))
        if fate != "dies":
            committed = point
            current.apply(stage)
            before = [time for offset, time in valid_times(log).items() if offset < committed.replay_offset]
            assert committed.clock_ms == max(before, default=None)
            counts += stage.counts
            for kind, some in outputs(stage).items():
                found[kind] += some
            position += len(batch)
        elif recovery == "changelog":
            del rows.log[written:]  # aborted with its transaction
        if "dies" in fate:
            changelog = Changelog("tiny.changelog", spec.window_fingerprint)
            if committed is None:
                current = partition(spec, has_changelog=has_changelog)
                continue
            restored = Checkpoint.read(committed.offset, committed.metadata())
            assert restored == committed
            assert restored.refused is not None
            states = {}
            if has_changelog:
                assert restored.changelog is not None
                reader = changelog.reader(PLACE, restored)
                reader.take(rows.log[: restored.changelog])
                states = reader.states()
            current = partition(
                spec,
                restored.replay_offset,
                restored.offset,
                clock_ms=restored.clock_ms,
                refused=frozenset(restored.refused),
                keys=states,
                has_changelog=has_changelog,
            )
            replayed = [record for record in log if restored.replay_offset <= record.offset < restored.offset]
            assert not (has_changelog and replayed)
            for some in pieces(replayed, data):
                current.replay(some)
            current.end_replay(restored.offset)

    assert sorted(found["windows"]) == sorted(expected["windows"])
    assert found["late"] == expected["late"]
    assert found["dead"] == expected["dead"]
    assert counts["in"] == counts["used"] + counts["duplicate"] + counts["late"] + counts["dead"] == len(log)


@settings(max_examples=150, deadline=None)
@given(specs(), logs(), st.data())
def test_a_window_that_may_lack_events_is_not_guessed(spec: Spec, log: list[Log], data: st.DataObject) -> None:
    """Of a history that is cut, every window is either what it was in the whole one, or counted as warming."""
    cut = data.draw(st.integers(0, len(log) - 1))
    times = valid_times(log)
    lost = [time for offset, time in times.items() if offset < log[cut].offset]
    left = [time for offset, time in times.items() if offset >= log[cut].offset]
    if lost and left and left[0] < max(lost) - spec.grid.max_disorder:
        return  # the first event that is left must not be late itself
    whole, rest = partition(spec), partition(spec, log[cut].offset, whole_from_ms=UNKNOWN_MS)
    if cut:
        whole.apply(whole.stage(log[:cut], NOW_MS))
    expected = outputs(whole.stage(log[cut:], NOW_MS))["windows"]
    stage = rest.stage(log[cut:], NOW_MS)
    found = outputs(stage)["windows"]
    assert set(found) <= set(expected)
    assert stage.counts["warming"] >= 0
    if left:
        surely_whole_ms = left[0] + spec.grid.max_disorder + 1 + (spec.window.past + spec.grid.max_gap) * spec.grid.step
        assert {w for w in expected if w[1] * spec.grid.step >= surely_whole_ms} == set(found)


def test_windows_that_reach_back_before_what_is_known_are_counted_as_warming() -> None:
    spec = tiny_spec(grid={"max_disorder": "0s", "max_gap": 0})
    log = [record(offset, "x", 1_000 + 10 * offset) for offset in range(8)]
    cut = partition(spec, whole_from_ms=UNKNOWN_MS)
    stage = cut.stage(log, NOW_MS)
    # Origins 101 to 107 (and their past of 3 steps); what begins at 1_001 or later is whole.
    assert [origin for _, origin, *_ in outputs(stage)["windows"]] == [104, 105, 106, 107]
    assert stage.counts["warming"] == 3
    assert cut.checkpoint(stage).whole_from_ms == 1_001
    cut.apply(stage)
    cut.apply(cut.stage([record(9, "x", 90_000)], NOW_MS))
    assert cut.checkpoint(cut.idle()).whole_from_ms is None


def test_rows_of_other_windows_or_another_version_are_not_ours() -> None:
    spec = tiny_spec()
    row = encode_state(Windowing(spec).empty(), offset=7, fingerprint=spec.window_fingerprint)
    assert row_offset(row, spec.window_fingerprint) == 7
    assert row_offset(row, "0" * 32) is None
    assert row_offset(bytes([VERSION + 1]) + row[1:], spec.window_fingerprint) is None
    assert row_offset(b"", spec.window_fingerprint) is None


def test_after_a_replay_the_changelog_fills_little_by_little(monkeypatch: pytest.MonkeyPatch) -> None:
    """Until every key has its row a restart replays; what is forgotten meanwhile gets a tombstone."""
    monkeypatch.setattr("streaming.changelog.ROWS_A_COMMIT", 2)
    spec = tiny_spec(grid={"max_disorder": "0s"})
    live = partition(spec, 0, 5, has_changelog=True)
    live.replay([record(offset, f"k{offset}", 1_000) for offset in range(5)])
    live.end_replay(5)
    changelog, rows, points = Changelog("c", spec.window_fingerprint), Rows(), []
    for offset in range(5, 8):
        stage = live.stage([record(offset, "k0", 1_001 + offset)], NOW_MS)
        points += changelog.save(rows, {PLACE: stage}, {PLACE: live}).values()  # type: ignore[arg-type]
        live.apply(stage)
    assert [point.changelog for point in points] == [None, 6, 7]
    assert {one.key for one in rows.log} == {b"k0", b"k1", b"k2", b"k3", b"k4"}
    for offset, time_ms in ((8, 50_000), (9, 50_010)):
        stage = live.stage([record(offset, "k9", time_ms)], NOW_MS)
        changelog.save(rows, {PLACE: stage}, {PLACE: live})  # type: ignore[arg-type]
        live.apply(stage)
    assert list(live.keys) == ["k9"]
    assert {one.key for one in rows.log if one.value is None} <= {b"k0", b"k1", b"k2", b"k3", b"k4"}
    assert sum(one.value is None for one in rows.log) == 2


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
    assert list(live.keys) == ["new"]
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
