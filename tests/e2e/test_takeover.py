"""A group that cannot go on as it stood, and records that a broker would not take."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from threading import Thread
from typing import Any

import numpy as np
import orjson
import pytest
from kafka import KafkaAdminClient, KafkaConsumer, TopicPartition
from kafka.coordinator.assignors.cooperative_sticky import CooperativeStickyAssignor
from kafka.coordinator.consumer import ConsumerProtocolAssignment
from kafka.errors import KafkaTimeoutError

from deploy.local.ports import free_port
from flows.verify import verify_predictions
from pipelines.ingest import ingest
from pipelines.kernels.windowing import Windowing, window_digests
from schemas.dataset import DatasetFolder
from schemas.spec import Spec, parse_spec
from streaming.commits import Offsets, Outbox, Write
from streaming.consumer import StreamConsumer
from streaming.live_status import LiveStatus
from streaming.topics import NewTopic, TopicAdmin
from streaming.transactions import MOST_AHEAD_S, Transactions
from tests.benchmarks.instant_model import serve
from tests.e2e.conftest import MODEL, LiveStream, Message, Models, stream_spec
from tests.e2e.test_stream import START_MS, expected_windows, history, send, wait_for_predictions
from tests.oracle import Oracle, OracleEvent


@pytest.fixture(scope="module")
def models() -> Iterator[Models]:
    """A model that answers at once: what is looked at here are windows."""
    address = f"127.0.0.1:{(port := free_port())}"
    server = serve(stream_spec("any", serving={"address": address, "model": MODEL}), port)
    yield Models(address, Path())
    server.stop(None)


def run(spec: Spec, member: str = "0") -> tuple[dict[str, int], list[str]]:
    """The consumer's counts and what it said, once it is at the end."""
    said: list[str] = []
    return StreamConsumer(
        spec, member=member, start="earliest", until_end=True, report=said.append
    ).run().document(), said


def found(live: LiveStream, count: int) -> dict[tuple[str, int], str]:
    """The windows of `count` predictions; the end of a transaction is seen a moment after it is committed."""
    until = time.monotonic() + 30
    while len(live.predictions()) < count:
        assert time.monotonic() < until
        time.sleep(0.1)
    return {(m.document["key"], m.document["origin_ms"]): m.document["window_digest"] for m in live.predictions()}


def windows_of(spec: Spec, messages: list[Message]) -> dict[tuple[str, int], str]:
    events = []
    for number, message in enumerate(messages):
        document = message.document
        values = [np.nan if document[name] is None else document[name] for name in ("load", "heat")]
        events.append(OracleEvent(document["key"], document["time"], number, tuple(values)))
    digests = {}
    for window in Oracle(spec).run(events).windows:
        future = Windowing(spec).future_values(np.array([window.origin_step]))
        arrays = (np.array([window.values], np.float32), np.array([window.observed]), future)
        [digests[window.key, window.origin_step * 10]] = window_digests(*arrays)
    return digests


def test_where_retention_has_removed_events_windows_are_warming(live: LiveStream) -> None:
    topic = live.spec.topics.input.name
    events = [event for event in history(41, 300, "x") if event[1] >= START_MS]
    send(live, events[:200])
    first, _ = run(live.spec)
    before = found(live, first["predictions"])
    [partition] = {m.partition for m in live.read(topic)}
    expected_before = expected_windows(live)
    assert before == expected_before
    admin = KafkaAdminClient(bootstrap_servers=live.spec.kafka.bootstrap_servers)
    admin.delete_records({TopicPartition(topic, partition): 199})
    admin.close()
    log = [Message(topic, partition, 0, 0, b"x", value, {}) for _, _, value in events]
    send(live, events[200:])
    counts, said = run(live.spec)
    assert any("retention has removed offsets" in line for line in said)
    assert counts["warming"] > 0
    whole, now = windows_of(live.spec, log), found(live, first["predictions"] + counts["predictions"])
    assert now.items() <= whole.items()  # none is guessed
    # All whose past, and what could be held into it, begins after the first event that is left and the disorder.
    surely_ms = events[199][1] + live.spec.grid.max_disorder + 1 + 5 * 10
    assert {place for place in whole if place[1] >= surely_ms} <= now.keys()


def test_record_times_that_a_broker_refuses_are_not_kept(live: LiveStream) -> None:
    """The dead-letter topic is the user's own and takes nothing that is more than an hour ahead."""
    name, ahead_ms = f"{live.spec.stream.name}.own", time.time_ns() // 10**6 + 10 * 3_600_000
    document = live.spec.model_dump(mode="json", exclude_defaults=True)
    document["kafka"]["dead_letters"] = {"name": name, "partitions": 3}
    spec = parse_spec(document)
    with TopicAdmin(spec.kafka) as admin:
        admin.create([NewTopic(name, 3)])
    live.send([(ahead_ms, b"{"), (ahead_ms, orjson.dumps({"key": "x", "time": ahead_ms}))])
    counts, _ = run(spec)
    assert counts["dead"] == 2
    letters = live.read(name)
    assert [m.headers["tidegauge.error.reason"] for m in letters] == [b"decode", b"future"]
    assert all(m.timestamp < ahead_ms for m in letters)


def test_records_without_a_key(live: LiveStream) -> None:
    live.send([(START_MS, b"{"), (START_MS, orjson.dumps({"key": "x", "time": START_MS}))], key=None)
    counts, _ = run(live.spec)
    assert (counts["used"], counts["dead"]) == (1, 1)
    [letter] = live.read(live.spec.topics.dead_letters.name)
    assert (letter.key, letter.value) == (None, b"{")


class GivesNothing(CooperativeStickyAssignor):
    """As the group's leader, leaves every partition without a member."""

    @classmethod
    def assign(cls, cluster: Any, members: Any) -> dict[str, Any]:
        return {member.member_id: ConsumerProtocolAssignment(1, [], b"") for member in members}


def test_partitions_that_nobody_has_are_taken(live: LiveStream, monkeypatch: pytest.MonkeyPatch) -> None:
    """A process that dies in the midst of a rebalance leaves its successor what it had at that moment: nothing."""
    former = KafkaConsumer(
        bootstrap_servers=live.spec.kafka.bootstrap_servers,
        group_id=live.spec.group,
        group_instance_id=f"{live.spec.group}-0",
        partition_assignment_strategy=[GivesNothing],
        enable_auto_commit=False,
    )
    former.subscribe([live.spec.topics.input.name])
    while former.group_metadata().generation_id < 0:
        former.poll(timeout_ms=100)
    former.close(autocommit=False)
    send(live, history(42, 100, "xyz"))
    monkeypatch.setattr("streaming.group_loop.ORPHANS_S", 0.5)
    counts, said = run(live.spec)
    assert any(f"nobody has {live.spec.topics.input.name} [0, 1, 2]" in line for line in said)
    assert counts["in"] == 100


class Stumbling(Transactions):
    """Every third commit fails after its records were sent, and some were begun too long ago."""

    commits = 0

    def commit(self, write: Write, generation: Any) -> None:
        self.commits += 1
        if self._begun is not None and self.commits % 2:
            self._begun = replace(self._begun, at=self._begun.at - MOST_AHEAD_S)

        def failing(outbox: Outbox) -> Offsets:
            write(outbox)
            raise KafkaTimeoutError("as if the broker had been away")

        super().commit(write if self.commits % 3 else failing, generation)


def test_commits_that_fail_are_done_again(
    live_with: Callable[..., LiveStream], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Going back to the last commit restores the windows that have been restored before."""
    live = live_with(kafka={"max_poll_records": 50})
    send(live, history(43, 400, "xyz"))
    monkeypatch.setattr("streaming.group_loop.Transactions", Stumbling)
    counts, said = run(live.spec)
    assert sum("going back to the last commit" in line for line in said) > 2
    assert counts["in"] == 400
    assert found(live, counts["predictions"]) == expected_windows(live)
    assert len(live.predictions()) == counts["predictions"]


def test_the_windows_are_those_of_the_batch_dataset(live: LiveStream, tmp_path: Path) -> None:
    """With disorder, a second member that joins, and a kill and a restart of the first: every window, once."""
    events = history(44, 900, "vwxyz")
    send(live, events[:400])
    first = live.start("--member", "a")
    wait_for_predictions(live)
    status = LiveStatus()
    second = StreamConsumer(live.spec, member="b", start="earliest", status=status)
    thread = Thread(target=second.run, daemon=True)
    thread.start()
    until = time.monotonic() + 30
    while not status.partitions:
        assert time.monotonic() < until
        time.sleep(0.1)
    send(live, events[400:700])
    first.kill()
    first.wait()
    live.start("--member", "a")
    send(live, events[700:])
    windows = found(live, len(expected_windows(live)))
    second.stop()
    thread.join(timeout=20)

    topic = live.spec.topics
    ingest(live.spec, inputs=[f"kafka:{topic.input.name}"], output=str(tmp_path / "dataset"), all_origins=True)
    parity = verify_predictions(live.spec, DatasetFolder(tmp_path / "dataset"), topic.predictions.name)
    assert parity.holds
    assert parity.equal == len(windows) == len(live.predictions()) > 100
