"""The live path on real parts: what is read from the predictions topic, whatever happens to the consumer."""

from __future__ import annotations

import hashlib
import json
import random
import signal
import subprocess
import sys
import time
from collections import defaultdict
from collections.abc import Callable

import numpy as np
import orjson
import pytest

from pipelines.kernels.windowing import Windowing, window_digests
from schemas.errors import BrokerError, FingerprintMismatch, ServingError
from schemas.spec import Spec
from streaming.consumer import StreamConsumer
from streaming.input_topic import parse_start
from tests.conftest import Kafka
from tests.e2e.conftest import LiveStream, Models
from tests.oracle import Oracle, OracleEvent

START_MS = 1_700_000_000_000


def payload(key: str, time_ms: int, load: float | None) -> bytes:
    return orjson.dumps({"key": key, "time": time_ms, "load": load, "heat": load})


def history(seed: int, count: int, keys: str) -> list[tuple[str, int, bytes]]:
    """(key, event time, value) with disorder, gaps, ties and missing values, keys taking turns."""
    rng = random.Random(seed)
    time_ms, events = START_MS, []
    for _ in range(count):
        time_ms += rng.choice([0, 1, 2, 5])
        late_ms = rng.choice([0] * 12 + [15, 40, 300])
        load = None if rng.random() < 0.05 else round(rng.gauss(10, 3), 3)
        key = rng.choice(keys)
        events.append((key, time_ms - late_ms, payload(key, time_ms - late_ms, load)))
    return events


def send(live: LiveStream, events: list[tuple[str, int, bytes]]) -> None:
    """Each key into its partition; across keys of a partition the order of `events`."""
    by_key: defaultdict[str, list[tuple[int, bytes | None]]] = defaultdict(list)
    for key, time_ms, value in events:
        by_key[key].append((time_ms, value))
    for key, payloads in by_key.items():
        live.send(payloads, key=key.encode())


def expected_windows(live: LiveStream) -> dict[tuple[str, int], str]:
    """The oracle's windows of what now stands in the input topic: digest by key and origin."""
    spec = live.spec
    found: dict[tuple[str, int], str] = {}
    by_partition = defaultdict(list)
    for message in live.read(spec.topics.input.name):
        by_partition[message.partition].append(message)
    for messages in by_partition.values():
        events = []
        for message in messages:
            document = message.document
            values = [np.nan if document[name] is None else document[name] for name in ("load", "heat")]
            events.append(OracleEvent(document["key"], document["time"], message.offset, tuple(values)))
        for window in Oracle(spec).run(events).windows:
            origin_ms = window.origin_step * spec.grid.step + spec.grid.offset
            future = Windowing(spec).future_values(np.array([window.origin_step]))
            arrays = (np.array([window.values], np.float32), np.array([window.observed]), future)
            [found[window.key, origin_ms]] = window_digests(*arrays)
    return found


def assert_exactly_once(live: LiveStream) -> None:
    """Every window of the oracle was predicted once, with the oracle's content; nothing else was."""
    messages = live.predictions()
    ids = [message.headers["ce_id"] for message in messages]
    assert len(set(ids)) == len(ids)
    expected = expected_windows(live)
    assert len(expected) > 50
    found = {(m.document["key"], m.document["origin_ms"]): m.document["window_digest"] for m in messages}
    assert found == expected


def test_a_log_with_everything_in_it(live: LiveStream) -> None:
    """Disorder, late, duplicate and bad events: all accounted for, each prediction as CONTRACTS says."""
    spec = live.spec
    bad = [b"{", b'{"key": "x"}', b'{"key": "x", "time": 253402300799000}', None, b'{"key":"x","time":5,"load":"text"}']
    huge = b'"' + b"a" * 900_001
    send(live, history(1, 600, "xyz"))
    live.send([(START_MS, value) for value in [*bad, huge]], key=b"x")
    counts = live.run_to_end()

    assert counts["in"] == 606 == counts["used"] + counts["duplicate"] + counts["late"] + counts["dead"]
    assert counts["dead"] == 6
    assert min(counts["late"], counts["duplicate"], counts["used"]) > 0
    dead = live.read(spec.topics.dead_letters.name)
    assert [m.value for m in dead[:5]] == bad
    reasons = [m.headers["tidegauge.error.reason"] for m in dead]
    assert reasons == [b"decode", b"missing", b"time_range", b"decode", b"type", b"decode"]
    source = dead[0].headers["tidegauge.error.source"].decode()
    assert source.startswith(f"{spec.topics.input.name}[")
    assert dead[5].value == huge[:900_000]
    assert dead[5].headers["tidegauge.error.sha256"] == hashlib.sha256(huge).hexdigest().encode()
    assert len(live.read(spec.topics.late.name)) == counts["late"]

    messages = live.predictions()
    assert len(messages) == counts["predictions"]
    one = messages[-1]
    document = one.document
    assert one.key == document["key"].encode()
    assert one.timestamp == document["origin_ms"]
    assert one.headers["ce_type"] == b"tidegauge.prediction.v1"
    assert one.headers["model_version"] == str(document["model"]["version"]).encode()
    assert document["model"]["window_fingerprint"] == spec.window_fingerprint
    [target] = document["targets"]
    assert (target["name"], target["unit"]) == ("load", "MW")
    assert target["mean"] == [target["last_observed"]] * spec.window.horizon
    assert target["last_observed_ms"] <= document["origin_ms"] - spec.grid.step


def test_windows_are_the_oracle_s(live: LiveStream) -> None:
    send(live, history(2, 500, "xyz"))
    live.run_to_end()
    assert_exactly_once(live)


@pytest.mark.parametrize(
    ("kills", "settings"),
    [
        (4, {}),
        (2, {"recovery": "changelog", "delivery": "at_least_once"}),
    ],
)
def test_killed_at_random_moments_nothing_is_lost_or_doubled(
    live_with: Callable[..., LiveStream], kills: int, settings: dict[str, str]
) -> None:
    """kill -9, again and again, while events flow in; small polls make many commits."""
    live = live_with(kafka={"max_poll_records": 20} | settings)
    rng = random.Random(3)
    events = history(4, 300 * (kills + 1), "vwxyz")
    for part in range(kills):
        send(live, events[part * 300 : (part + 1) * 300])
        process = live.start()
        time.sleep(rng.uniform(0.9, 1.8))
        process.kill()
        process.wait()
    send(live, events[kills * 300 :])
    live.run_to_end()
    if live.spec.kafka.delivery == "exactly_once":
        assert_exactly_once(live)
    else:
        messages = live.predictions()
        by_id: defaultdict[bytes, set[str]] = defaultdict(set)
        for message in messages:
            by_id[message.headers["ce_id"]].add(message.document["window_digest"])
        assert all(len(digests) == 1 for digests in by_id.values())  # written twice, it is the same
        found = {(m.document["key"], m.document["origin_ms"]): m.document["window_digest"] for m in messages}
        assert found == expected_windows(live)


def test_members_come_and_go(live: LiveStream) -> None:
    events = history(5, 1_200, "vwxyz")
    first = live.start("--member", "a")
    send(live, events[:400])
    second = live.start("--member", "b")
    time.sleep(2)
    send(live, events[400:800])
    time.sleep(1)
    first.send_signal(signal.SIGTERM)
    assert first.wait(timeout=20) == 0
    send(live, events[800:])
    time.sleep(1)
    second.send_signal(signal.SIGTERM)
    assert second.wait(timeout=20) == 0
    live.run_to_end("--member", "c")
    assert_exactly_once(live)


def test_from_latest_predicts_the_first_new_window(live: LiveStream) -> None:
    """Windows are warmed from the history before the start; only what came after is predicted."""
    events = history(6, 400, "xyz")
    send(live, events[:350])
    consumer = StreamConsumer(live.spec, start="latest", until_end=True)
    assert consumer.run().document()["predictions"] == 0
    assert consumer.summary.warmed > 0
    before = expected_windows(live)
    send(live, events[350:])
    consumer = StreamConsumer(live.spec, start="latest", until_end=True)
    consumer.run()
    found = {(m.document["key"], m.document["origin_ms"]): m.document["window_digest"] for m in live.predictions()}
    assert found
    assert found == {place: digest for place, digest in expected_windows(live).items() if place not in before}


def test_from_a_time(live: LiveStream) -> None:
    """The first live event is the first in each partition at or after the time; windows before it are not predicted."""
    send(live, [event for event in history(7, 300, "x") if event[1] >= START_MS])
    middle = START_MS + 250
    StreamConsumer(live.spec, start=middle, until_end=True).run()
    log = live.read(live.spec.topics.input.name)
    first_live = next(message.offset for message in log if message.timestamp >= middle)
    silent = Oracle(live.spec).run(
        OracleEvent("x", m.document["time"], m.offset, (m.document["load"] or np.nan, np.nan))
        for m in log
        if m.offset < first_live
    )
    skipped = {("x", window.origin_step * 10) for window in silent.windows}
    expected = {place: digest for place, digest in expected_windows(live).items() if place not in skipped}
    found = {(m.document["key"], m.document["origin_ms"]): m.document["window_digest"] for m in live.predictions()}
    assert found == expected


def test_a_new_version_takes_over_and_a_wrong_one_does_not(live: LiveStream, models: Models) -> None:
    def next_versions(events: list[tuple[str, int, bytes]], wanted: int) -> set[int]:
        """Runs until the server has made up its mind about a newly pushed version."""
        send(live, events)
        live.run_to_end()
        return {m.document["model"]["version"] for m in live.predictions()[wanted:]}

    events = history(8, 400, "x")
    assert next_versions(events[:100], 0) == {1}
    seen = len(live.predictions())
    models.push(live.spec, 2, shift=5.0)
    wait_for_version(live.spec, 2)
    assert next_versions(events[100:200], seen) == {2}
    assert live.predictions()[-1].document["targets"][0]["mean"][0] == pytest.approx(
        live.predictions()[-1].document["targets"][0]["last_observed"] + 5
    )


def wait_for_version(spec: Spec, version: int) -> None:
    from streaming.serving_client import ServingClient

    with ServingClient(spec) as client:
        until = time.monotonic() + 30
        while client.wait_until_available(10) != version:
            assert time.monotonic() < until
            time.sleep(0.2)


def wait_for_predictions(live: LiveStream) -> None:
    until = time.monotonic() + 30
    while not live.predictions():
        assert time.monotonic() < until
        time.sleep(0.2)


def test_a_model_of_other_windows_is_refused(live_with: Callable[..., LiveStream]) -> None:
    live = live_with(window={"past": 5, "horizon": 2})
    with pytest.raises(FingerprintMismatch, match=r"expected a model of the windows .* got version \d+ of"):
        StreamConsumer(live.spec, until_end=True, wait_s=1).run()


def test_a_server_without_the_model(live_with: Callable[..., LiveStream], models: Models) -> None:
    live = live_with(serving={"address": models.address, "model": "nobody"})
    with pytest.raises(ServingError, match=r"model 'nobody' at .*NOT_FOUND"):
        StreamConsumer(live.spec, until_end=True, wait_s=0.5).run()


def test_a_broker_that_is_down(live: LiveStream) -> None:
    spec = live.spec.model_copy(
        update={"kafka": live.spec.kafka.model_copy(update={"bootstrap_servers": "127.0.0.1:1"})}
    )
    with pytest.raises(BrokerError, match=r"broker 127\.0\.0\.1:1 does not answer"):
        StreamConsumer(spec).run()


def test_two_processes_with_one_member_name(live: LiveStream) -> None:
    """The newer one takes over; the older one ends with a clear line, and nothing is predicted twice."""
    older = live.start()
    send(live, history(9, 200, "xyz"))
    wait_for_predictions(live)
    newer = live.start()
    send(live, history(10, 200, "xyz"))
    assert older.wait(timeout=40) == 2
    [line] = live.complaint(0)
    assert "another process runs under this member name" in line
    newer.send_signal(signal.SIGTERM)
    assert newer.wait(timeout=20) == 0
    live.run_to_end()
    assert_exactly_once(live)


def test_a_broker_restart_is_survived(live: LiveStream, kafka: Kafka) -> None:
    events = history(11, 600, "xyz")
    process = live.start()
    send(live, events[:300])
    wait_for_predictions(live)
    kafka.restart()
    send(live, events[300:])
    time.sleep(3)
    process.send_signal(signal.SIGTERM)
    assert process.wait(timeout=30) == 0
    live.run_to_end()
    assert_exactly_once(live)


def test_the_consumer_s_process_is_light(live: LiveStream) -> None:
    """Neither TensorFlow nor Beam is ever loaded, from the start to the last commit."""
    send(live, history(12, 50, "x"))
    program = (
        "import json, sys\n"
        "from pathlib import Path\n"
        "from schemas.spec import load_spec\n"
        "from streaming.consumer import StreamConsumer\n"
        "summary = StreamConsumer(load_spec(sys.argv[1]), start='earliest', until_end=True).run()\n"
        "status = Path('/proc/self/status')\n"
        "peak = [l for l in status.read_text().splitlines() if l.startswith('VmHWM')] if status.exists() else []\n"
        "heavy = [n for n in ('tensorflow', 'keras', 'apache_beam', 'pandas', 'scipy') if n in sys.modules]\n"
        "print(json.dumps({'in': summary.counts['in'], 'heavy': heavy, 'peak': peak}))\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", program, str(live.spec_file)], capture_output=True, text=True, timeout=60, check=True
    )
    found = json.loads(done.stdout)
    assert found["in"] == 50
    assert found["heavy"] == []


@pytest.mark.parametrize(("text", "start"), [("latest", "latest"), ("2023-11-14T22:13:20Z", START_MS)])
def test_where_to_start(text: str, start: object) -> None:
    assert parse_start(text) == start
