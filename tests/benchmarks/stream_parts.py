"""What the benchmarks of the live path are made of: Kafka, streams, and the processes that read them."""

from __future__ import annotations

import re
import statistics
import subprocess
import sys
import time
import uuid
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from threading import Event, Thread
from typing import Any

import grpc
import numpy as np
import orjson
import psutil
import yaml
from kafka import KafkaConsumer, KafkaProducer, TopicPartition

from deploy.local.ports import free_port
from deploy.local.stack import down
from deploy.local.state import claim
from flows.local_stack import start_model_server
from schemas.spec import parse_spec
from streaming.serving_client import ServingClient
from streaming.stream_topics import prepare_topics
from streaming.topics import NewTopic, TopicAdmin, connect

START_MS = 1_700_000_000_000
STEP_MS = 1_000
ARRAY = {"name": "f", "field": "values"}
ARRAY_TARGET = {"name": "target", "role": "target", "field": "values", "index": 0}


class Bench:
    """The parts that every cell uses: Kafka, and a folder; `quick` takes a tenth of the events under load.

    `quix` is the Python of an environment that has Quix Streams, if there is one.
    """

    def __init__(self, bootstrap: str, folder: Path, repeat: int, *, quick: bool, quix: str | None = None) -> None:
        self.bootstrap, self.folder, self.repeat, self.quick, self.quix = bootstrap, folder, repeat, quick, quix

    def events(self, count: int) -> int:
        """How many events to take in the place of `count`."""
        return count // 10 if self.quick else count

    def stream(
        self,
        *,
        features: int,
        past: int,
        horizon: int = 24,
        stride: int = 1,
        partitions: int = 4,
        model: Mapping[str, Any] | None = None,
        array: bool = False,
        **kafka: Any,
    ) -> Stream:
        """A stream of its own: topics, group and model server; `array`: its numbers are one member of an event."""
        name = f"bench-{uuid.uuid4().hex[:8]}"
        document = {
            "stream": {
                "name": name,
                "key": "key",
                "time": {"field": "time", "format": "epoch_ms"},
                "time_range": ["2020-01-01", "2100-01-01"],
                "features": [ARRAY | {"role": "past", "length": features}, ARRAY_TARGET | {"length": features}]
                if array
                else [{"name": f"f{n}", "role": "past" if n else "target"} for n in range(features)],
            },
            "grid": {"step": f"{STEP_MS}ms", "regular": True, "max_disorder": "1h"},
            "window": {"past": past, "horizon": horizon, "stride": stride},
            "kafka": {"bootstrap_servers": self.bootstrap, "input": {"name": name, "partitions": partitions}, **kafka},
            "serving": {"address": f"127.0.0.1:{free_port()}"},
            "paths": {"models": str(self.folder / "models")},
        }
        if model is not None:
            document["model"] = model
        return Stream(document, self.folder)


class Stream:
    """One stream: its topics, its group, and a file with its spec for processes."""

    def __init__(self, document: Mapping[str, Any], folder: Path) -> None:
        self._document, self._folder = document, folder
        self.spec = parse_spec(document)
        self.spec_file = folder / f"{self.spec.group}.yaml"
        self.spec_file.write_text(yaml.safe_dump(document))
        large = NewTopic(
            self.spec.topics.input.name,
            self.spec.topics.input.partitions,
            {"retention.ms": "-1", "max.message.bytes": str(8 * 2**20)},
        )
        with TopicAdmin(self.spec.kafka) as admin:
            admin.create([large])
            prepare_topics(admin, self.spec, oldest_ms=None, now_ms=time.time_ns() // 10**6)

    def again(self, **kafka: Any) -> Stream:
        """The same events for another group, which writes to topics of its own."""
        group = f"bench-{uuid.uuid4().hex[:8]}"
        partitions = self.spec.topics.input.partitions
        own: dict[str, Any] = {"group": group}
        for topic in ("predictions", "dead_letters"):
            own[topic] = {"name": f"{group}.{topic}", "partitions": partitions}
        return Stream({**self._document, "kafka": {**self._document["kafka"], **own, **kafka}}, self._folder)

    def send(self, events: Iterator[tuple[str, int, Sequence[float]]]) -> int:
        """Sends (key, event time, values); how many."""
        return self.send_raw((key, time_ms, as_json(key, time_ms, values)) for key, time_ms, values in events)

    def send_raw(self, records: Iterator[tuple[str, int, bytes | None]]) -> int:
        """Sends (key, record time, value); how many."""
        count = 0
        with self.producer(linger_ms=20) as producer:
            for key, time_ms, value in records:
                producer.send(self.spec.topics.input.name, key=key.encode(), value=value, timestamp_ms=time_ms)
                count += 1
        return count

    @contextmanager
    def producer(self, linger_ms: int) -> Iterator[KafkaProducer]:
        """Writes to the stream's input; all of it is there at the end."""
        producer = connect(
            KafkaProducer,
            self.spec.kafka,
            linger_ms=linger_ms,
            batch_size=262_144,
            compression_type="lz4",
            max_request_size=8 * 2**20,
        )
        yield producer
        producer.flush(timeout=300)
        producer.close(timeout=10)

    @contextmanager
    def instant_model(self) -> Iterator[None]:
        """The model server, in a process of its own."""
        address = self.spec.serving.address
        process = subprocess.Popen(
            [sys.executable, "-m", "tests.benchmarks.instant_model", str(self.spec_file), address.rpartition(":")[2]]
        )
        try:
            with grpc.insecure_channel(address) as channel:
                grpc.channel_ready_future(channel).result(timeout=60)
            yield
        finally:
            process.kill()
            process.wait()

    @contextmanager
    def real_model(self) -> Iterator[int]:
        """The model server with the spec's model, untrained; gives its number of parameters."""
        made = subprocess.run(
            [sys.executable, "-m", "tests.benchmarks.untrained_model", str(self.spec_file)],
            capture_output=True,
            text=True,
            check=True,
        )
        state = claim(self._folder / self.spec.group)
        start_model_server(self.spec, state)
        try:
            with ServingClient(self.spec) as client:
                client.wait_until_available(120)
            yield int(made.stdout.split()[-1])
        finally:
            down(state)

    def start(self, *options: str) -> Consumer:
        """Starts the consumer; from the topic's end on unless told."""
        command = ["tidegauge", "stream", "--spec", str(self.spec_file), *(options or ("--from", "latest"))]
        return Consumer(*command)

    def start_plain(self, work: str) -> Consumer:
        """Starts what it is measured against."""
        return Consumer("tests.benchmarks.plain_consumer", str(self.spec_file), work)

    def start_quix(self, python: str) -> Consumer:
        """Starts Quix Streams, in an environment that has it."""
        topics, folder = self.spec.topics, self._folder / f"{self.spec.group}.quix"
        names = (self.spec.group, topics.input.name, topics.predictions.name, str(folder), str(self.spec.window.past))
        return Consumer("tests.benchmarks.quix_consumer", self.spec.kafka.bootstrap_servers, *names, python=python)

    def rate(self, consumer: Consumer, events: int) -> dict[str, float]:
        """How fast a consumer that was just started commits the first `events` of its input; then it is killed.

        The first quarter is left out, in which it starts and joins its group.

        Returns:
          Events a second of time, microseconds of processor time an event, of all its processes, and at the end
          resident memory of the first.
        """
        watcher = connect(KafkaConsumer, self.spec.kafka, group_id=self.spec.group, enable_auto_commit=False)
        partitions = [
            TopicPartition(self.spec.topics.input.name, number) for number in range(self.spec.topics.input.partitions)
        ]

        def wait(least: int) -> tuple[int, float, float]:
            give_up = time.monotonic() + 300
            while True:
                done = sum(watcher.committed(tp, timeout_ms=10_000) or 0 for tp in partitions)
                if time.monotonic() > give_up or consumer.process.poll() is not None:
                    raise RuntimeError(f"{done} of {least} events: {''.join(consumer.lines)}")
                if done >= least:
                    return done, time.monotonic(), consumer.cpu_s()
                time.sleep(0.02)

        try:
            first, last = wait(events // 4), wait(events)
            resident_mb = consumer.memory_mb("VmRSS")
        finally:
            consumer.kill()
            watcher.close(timeout_ms=1_000)
        count = last[0] - first[0]
        return {
            "per_s": count / (last[1] - first[1]),
            "cpu_us": (last[2] - first[2]) / count * 1e6,
            "resident_mb": resident_mb,
        }

    def committed(self) -> int:
        """How many predictions there are, as a reader of committed records sees it."""
        return sum(1 for _ in self.predictions())

    def reader(self, **settings: Any) -> KafkaConsumer:
        """Reads committed records, in no group."""
        return connect(
            KafkaConsumer, self.spec.kafka, isolation_level="read_committed", enable_auto_commit=False, **settings
        )

    def predictions(self) -> Iterator[Any]:
        """The committed predictions there are."""
        return self.records(self.spec.topics.predictions.name)

    def records(self, topic: str) -> Iterator[Any]:
        """The committed records that a topic has now."""
        consumer = self.reader()
        try:
            parts = [TopicPartition(topic, number) for number in consumer.partitions_for_topic(topic)]
            consumer.assign(parts)
            consumer.seek_to_beginning(*parts)
            ends = consumer.end_offsets(parts)
            while any(consumer.position(tp) < end for tp, end in ends.items()):
                for records in consumer.poll(timeout_ms=100, max_records=10_000).values():
                    yield from records
        finally:
            consumer.close(timeout_ms=1_000)

    @contextmanager
    def first_prediction(self) -> Iterator[Callable[[], float]]:
        """Listens from now on; the call gives the time of the first committed prediction, by `time.monotonic`."""
        topic = self.spec.topics.predictions.name
        consumer = self.reader(fetch_max_wait_ms=20)
        parts = [TopicPartition(topic, number) for number in consumer.partitions_for_topic(topic)]
        consumer.assign(parts)
        for tp, end in consumer.end_offsets(parts).items():
            consumer.seek(tp, end)

        def wait() -> float:
            give_up = time.monotonic() + 120
            while not consumer.poll(timeout_ms=20):
                if time.monotonic() > give_up:
                    raise RuntimeError("no prediction came")
            return time.monotonic()

        try:
            yield wait
        finally:
            consumer.close(timeout_ms=1_000)


class Consumer:
    """`tidegauge stream`, or another module that consumes, as a process, and what it says."""

    def __init__(self, *command: str, python: str = sys.executable) -> None:
        self.began = time.monotonic()
        self.process = subprocess.Popen(
            [python, "-m", *command],
            stdout=subprocess.DEVNULL,
            stderr=subprocess.PIPE,
            text=True,
        )
        self.lines: list[str] = []
        self.live_s: float | None = None
        self._live = Event()
        self._listener = Thread(target=self._listen, daemon=True)
        self._listener.start()

    def _listen(self) -> None:
        assert self.process.stderr is not None
        for line in self.process.stderr:
            self.lines.append(line)
            if "partitions are live" in line:
                self.live_s = self.live_s or time.monotonic() - self.began
                self._live.set()

    def wait_until_live(self) -> float:
        """Seconds from the start of the process until all its partitions were live."""
        if not self._live.wait(120) or self.live_s is None:
            raise RuntimeError("".join(self.lines))
        return self.live_s

    @property
    def replayed(self) -> int:
        """How many offsets were to be replayed."""
        return sum(int(found[1]) for line in self.lines if (found := re.search(r"(\d+) before it to warm", line)))

    def memory_mb(self, field: str) -> float:
        """`VmRSS` or `VmHWM` of the process."""
        status = Path(f"/proc/{self.process.pid}/status").read_text()
        return int(re.search(rf"{field}:\s+(\d+) kB", status)[1]) / 1_000  # type: ignore[index]

    def cpu_s(self) -> float:
        """Seconds of processor time that the process has taken: what is left of a duration on a busy machine."""
        first = psutil.Process(self.process.pid)
        times = [process.cpu_times() for process in (first, *first.children(recursive=True))]
        return float(sum(one.user + one.system for one in times))

    def kill(self) -> None:
        """kill -9, of its members too."""
        if self.process.poll() is None:
            for member in psutil.Process(self.process.pid).children(recursive=True):
                member.kill()
            self.process.kill()
        self.process.wait()
        self._listener.join(timeout=5)


def as_json(key: str, time_ms: int, values: Sequence[float]) -> bytes:
    """An event."""
    return orjson.dumps({"key": key, "time": time_ms} | {f"f{n}": number for n, number in enumerate(values)})


def as_array_json(key: str, time_ms: int, values: Sequence[float]) -> bytes:
    """An event whose numbers are one member."""
    return orjson.dumps({"key": key, "time": time_ms, "values": values})


def series(keys: int, steps: range, features: int) -> Iterator[tuple[str, int, Sequence[float]]]:
    """An event of each key in each step."""
    rows = np.random.default_rng(0).normal(size=(64, features)).round(4).tolist()
    for step in steps:
        for key in range(keys):
            yield f"key-{key}", START_MS + step * STEP_MS, rows[(step + key) % 64]


def medians(rounds: Sequence[Mapping[str, float]]) -> dict[str, Any]:
    median = {name: round(statistics.median(one[name] for one in rounds), 3) for name in rounds[0]}
    return median | {"rounds": [{name: round(value, 3) for name, value in one.items()} for one in rounds]}
