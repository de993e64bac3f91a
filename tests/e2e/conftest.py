"""A stream on real parts: Kafka, the model server, a model that repeats the last value."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
import uuid
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import orjson
import pytest
import yaml
from kafka import KafkaConsumer, KafkaProducer, TopicPartition

from deploy.local.ports import free_port
from deploy.local.stack import down
from deploy.local.state import claim
from flows.local_stack import start_model_server
from schemas.spec import Spec, load_spec
from streaming.stream_topics import prepare_topics
from streaming.topics import TopicAdmin, connect
from tests.conftest import Kafka
from tests.specs import tiny_spec

MODEL = "last-value"
WINDOW = {"past": 4, "horizon": 2, "min_observed": 2}
GRID = {"step": "10ms", "max_gap": 1, "lateness": "20ms", "max_disorder": "200ms"}


@dataclass(frozen=True)
class Models:
    """A model server, and the folder that it watches."""

    address: str
    folder: Path

    def push(self, spec: Spec, version: int, shift: float = 0.0) -> None:
        """Publishes a version; in a process of its own, since the consumer's must stay free of TensorFlow."""
        subprocess.run(
            [sys.executable, "-m", "tests.e2e.persistence_model", str(self.folder / str(version)), str(shift)],
            input=json.dumps(spec.semantic_document()).encode(),
            check=True,
            capture_output=True,
            env=os.environ | {"TF_CPP_MIN_LOG_LEVEL": "3"},
        )


@dataclass(frozen=True)
class Message:
    """A record that was read back."""

    topic: str
    partition: int
    offset: int
    timestamp: int
    key: bytes | None
    value: bytes | None
    headers: dict[str, bytes]

    @property
    def document(self) -> dict[str, Any]:
        found: dict[str, Any] = orjson.loads(self.value or b"")
        return found


@dataclass
class LiveStream:
    """One test's stream: its own topics and group, and a file with its spec for processes."""

    spec: Spec
    spec_file: Path
    processes: list[subprocess.Popen[str]] = field(default_factory=list)

    def send(self, payloads: Sequence[tuple[int, bytes | None]], *, key: bytes | None = b"k") -> None:
        """Sends (record time, value) pairs to the input topic, in order, into one partition for each key."""
        producer = connect(KafkaProducer, self.spec.kafka.bootstrap_servers, linger_ms=5)
        futures = [
            producer.send(self.spec.topics.input.name, key=key, value=value, timestamp_ms=time_ms)
            for time_ms, value in payloads
        ]
        producer.flush(timeout=30)
        for future in futures:
            future.get(timeout=10)
        producer.close(timeout=5)

    def read(self, topic: str) -> list[Message]:
        """Everything that is committed in a topic, by partition and offset."""
        consumer = connect(
            KafkaConsumer,
            self.spec.kafka.bootstrap_servers,
            isolation_level="read_committed",
            enable_auto_commit=False,
        )
        try:
            parts = [TopicPartition(topic, number) for number in consumer.partitions_for_topic(topic) or ()]
            consumer.assign(parts)
            consumer.seek_to_beginning(*parts)
            ends = consumer.end_offsets(parts)
            found = []
            while any(consumer.position(tp) < end for tp, end in ends.items()):
                for records in consumer.poll(timeout_ms=200).values():
                    found += [
                        Message(r.topic, r.partition, r.offset, r.timestamp, r.key, r.value, dict(r.headers))
                        for r in records
                    ]
        finally:
            consumer.close(timeout_ms=1_000)
        return sorted(found, key=lambda message: (message.partition, message.offset))

    def predictions(self) -> list[Message]:
        return self.read(self.spec.topics.predictions.name)

    def command(self, *arguments: str) -> list[str]:
        return [sys.executable, "-m", "tidegauge", "stream", "--spec", str(self.spec_file), "--json", *arguments]

    def start(self, *arguments: str) -> subprocess.Popen[str]:
        """Starts the consumer as a process that goes on until it is stopped; the test's end kills it."""
        command = self.command("--from", "earliest", *arguments)
        errors = self.spec_file.with_suffix(f".{len(self.processes)}.err").open("w+")
        self.processes.append(subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=errors, text=True))
        errors.close()
        return self.processes[-1]

    def complaint(self, number: int) -> list[str]:
        """What the process that was started as the `number`th said to its user."""
        text = self.spec_file.with_suffix(f".{number}.err").read_text()
        return [line for line in text.splitlines() if line.startswith("tidegauge: ")]

    def end(self) -> None:
        """Kills what still runs."""
        for process in self.processes:
            process.kill()
            process.wait(timeout=20)

    def run_to_end(self, *arguments: str, timeout_s: float = 90) -> dict[str, int]:
        """Runs the consumer as a process until it has read all there is; its counts."""
        command = self.command("--from", "earliest", "--until-end", *arguments)
        environment = os.environ | {"PYTHONFAULTHANDLER": "1"}
        with subprocess.Popen(
            command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=environment
        ) as process:
            try:
                output, errors = process.communicate(timeout=timeout_s)
            except subprocess.TimeoutExpired:
                process.send_signal(signal.SIGABRT)  # it says where each of its threads is
                _, errors = process.communicate()
                pytest.fail(f"it did not end within {timeout_s:g} s:\n{errors}")
        assert process.returncode == 0, errors
        counts: dict[str, int] = json.loads(output)
        return counts


@pytest.fixture(scope="session")
def models(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Models]:
    """A model server with version 1 of the last-value model."""
    state = claim(tmp_path_factory.mktemp("models-state"))
    base = tmp_path_factory.mktemp("models")
    address = f"127.0.0.1:{free_port()}"
    spec = stream_spec("any", serving={"address": address, "model": MODEL}, paths={"models": str(base)})
    (base / MODEL).mkdir()
    models = Models(address, base / MODEL)
    models.push(spec, 1)
    start_model_server(spec, state)
    yield models
    down(state)


SHIFT = 1.0


@pytest.fixture(scope="session")
def shifted(models: Models, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Another model, which forecasts `SHIFT` more; nobody serves it yet."""
    folder = tmp_path_factory.mktemp("shifted")
    Models(models.address, folder).push(stream_spec("any"), 1, SHIFT)
    return folder / "1"


@pytest.fixture
def live_with(kafka: Kafka, models: Models, tmp_path: Path) -> Iterator[Callable[..., LiveStream]]:
    """Makes streams with sections of the test's own."""
    made: list[LiveStream] = []

    def make(**sections: Any) -> LiveStream:
        made.append(_live(kafka, models, tmp_path, sections))
        return made[-1]

    yield make
    for live in made:
        live.end()


@pytest.fixture
def live(live_with: Callable[..., LiveStream]) -> LiveStream:
    """A stream of its own for one test, with three partitions."""
    return live_with()


def _live(kafka: Kafka, models: Models, folder: Path, sections: Mapping[str, Any]) -> LiveStream:
    name = f"test-{uuid.uuid4().hex[:12]}"
    settings = {
        "kafka": {"bootstrap_servers": kafka.bootstrap, "input": {"name": f"{name}.events", "partitions": 3}},
        "serving": {"address": models.address, "model": MODEL},
    }
    spec = stream_spec(
        name, **(settings | {section: settings.get(section, {}) | own for section, own in sections.items()})
    )
    document = spec.model_dump(mode="json", exclude_defaults=True)
    spec_file = folder / f"{name}.yaml"
    spec_file.write_text(yaml.safe_dump(document))
    with TopicAdmin(kafka.bootstrap) as admin:
        prepare_topics(admin, spec, oldest_ms=None, now_ms=time.time_ns() // 1_000_000)
    return LiveStream(load_spec(spec_file, {}), spec_file)


def stream_spec(name: str, **sections: Any) -> Spec:
    return tiny_spec(**({"stream": {"name": name}, "grid": GRID, "window": WINDOW} | sections))
