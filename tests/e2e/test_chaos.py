"""The proof of the live path: whatever is killed, the predictions are those of an undisturbed run."""

from __future__ import annotations

import random
import signal
import subprocess
import time
from collections.abc import Callable
from pathlib import Path
from threading import Thread

import numpy as np
import pytest
import yaml
from kafka import KafkaProducer

from flows.verify import verify_predictions
from pipelines.ingest import ingest
from schemas.dataset import DatasetFolder
from schemas.spec import load_spec
from streaming.stream_topics import prepare_topics
from streaming.topics import TopicAdmin, connect
from tests.conftest import Kafka
from tests.e2e.conftest import LiveStream, Message
from tests.e2e.test_stream import START_MS, payload

EVENTS = 100_000
KEYS = 50
KILLS = 20
SECONDS = 150
"""How long the events take to flow in."""


def events(seed: int) -> list[tuple[str, int, bytes]]:
    """(key, event time, value): every key now and then, with disorder, late events, repeats and missing values."""
    rng = random.Random(seed)
    time_ms, found = START_MS, []
    for _ in range(EVENTS):
        time_ms += rng.choice([0, 0, 1])
        behind_ms = rng.choice([0] * 12 + [15, 40, 300])
        load = None if rng.random() < 0.05 else round(rng.gauss(10, 3), 3)
        key = f"key-{rng.randrange(KEYS)}"
        found.append((key, time_ms - behind_ms, payload(key, time_ms - behind_ms, load)))
    return found


def flow(live: LiveStream, seed: int) -> None:
    """Sends the events at an even pace, through restarts of the broker."""
    producer = connect(
        KafkaProducer, live.spec.kafka.bootstrap_servers, linger_ms=20, batch_size=65_536, delivery_timeout_ms=300_000
    )
    began = time.monotonic()
    for number, (key, time_ms, value) in enumerate(events(seed)):
        ahead_s = number * SECONDS / EVENTS - (time.monotonic() - began)
        if ahead_s > 0.05:
            time.sleep(ahead_s)
        producer.send(live.spec.topics.input.name, key=key.encode(), value=value, timestamp_ms=time_ms)
    producer.flush(timeout=300)
    producer.close(timeout=10)


def undisturbed(live: LiveStream) -> LiveStream:
    """The same events, another group and another predictions topic; names that the ids are made of stay the same."""
    document = live.spec.model_dump(mode="json", exclude_defaults=True)
    name = f"{live.spec.stream.name}.undisturbed"
    document["kafka"] |= {"group": name, "recovery": "replay"}
    for topic in ("predictions", "late", "dead_letters"):
        document["kafka"][topic] = {"name": f"{name}.{topic}", "partitions": 6}
    spec_file = live.spec_file.with_name(f"{name}.yaml")
    spec_file.write_text(yaml.safe_dump(document))
    spec = load_spec(spec_file, {})
    with TopicAdmin(spec.kafka) as admin:
        prepare_topics(admin, spec, oldest_ms=None, now_ms=time.time_ns() // 10**6)
    return LiveStream(spec, spec_file)


def disturb(live: LiveStream, kafka: Kafka, sending: Thread) -> None:
    """20 times kill -9 of a random member at a random moment; members 1, 3, 2; two restarts of the broker."""
    rng = random.Random(5)
    members: dict[str, subprocess.Popen[str]] = {"a": live.start("--member", "a")}
    for number in range(KILLS):
        time.sleep(rng.uniform(0.5, 1.9 * SECONDS / KILLS))
        victim = rng.choice(sorted(members))
        members[victim].kill()
        members[victim].wait()
        members[victim] = live.start("--member", victim)
        if number == 4:
            members["b"], members["c"] = live.start("--member", "b"), live.start("--member", "c")
        if number in (7, 15):
            kafka.restart()
        if number == 11:
            end([members.pop("c")])
    sending.join(timeout=600)
    assert not sending.is_alive()
    end(list(members.values()))
    subprocess.run(
        live.command("--from", "earliest", "--until-end", "--member", "a"), check=True, timeout=300, capture_output=True
    )


def end(processes: list[subprocess.Popen[str]]) -> None:
    for process in processes:
        process.send_signal(signal.SIGTERM)
    for process in processes:
        # One that has only just been started may die of the signal before it listens to it.
        assert process.wait(timeout=60) in (0, -signal.SIGTERM)


@pytest.mark.slow
@pytest.mark.timeout(1200)
@pytest.mark.parametrize("recovery", ["replay", "changelog"])
def test_chaos(recovery: str, live_with: Callable[..., LiveStream], kafka: Kafka, tmp_path: Path) -> None:
    name = f"chaos-{recovery}-{time.time_ns()}"
    live = live_with(kafka={"recovery": recovery, "input": {"name": name, "partitions": 6}})
    sending = Thread(target=flow, args=(live, 1), daemon=True)
    sending.start()
    disturb(live, kafka, sending)
    calm = undisturbed(live)
    calm.run_to_end(timeout_s=600)

    def by_id(messages: list[Message]) -> dict[bytes, Message]:
        found = {message.headers["ce_id"]: message for message in messages}
        assert len(found) == len(messages)  # none twice
        return found

    wanted, found = by_id(calm.predictions()), by_id(live.predictions())
    assert len(wanted) > EVENTS // 4
    assert found.keys() == wanted.keys()
    for id_, message in found.items():
        left, right = message.document, wanted[id_].document
        assert left["window_digest"] == right["window_digest"]
        np.testing.assert_allclose(left["targets"][0]["mean"], right["targets"][0]["mean"], rtol=1e-6)
    for kind in ("late", "dead_letters"):
        topics = [getattr(stream.spec.topics, kind).name for stream in (live, calm)]
        left_records, right_records = (stream.read(topic) for stream, topic in zip((live, calm), topics, strict=True))
        assert sorted((m.key, m.value) for m in left_records) == sorted((m.key, m.value) for m in right_records)

    ingest(live.spec, inputs=[f"kafka:{name}"], output=str(tmp_path / "dataset"), all_origins=True)
    parity = verify_predictions(live.spec, DatasetFolder(tmp_path / "dataset"), live.spec.topics.predictions.name)
    assert parity.holds
    assert parity.equal == len(found)
