"""What the live path costs: `python -m tests.benchmarks.bench_streaming [--only NAME ...] [--repeat N] [--json FILE]`.

The script starts a real Kafka, and a model server that answers at once (`instant_model`). Everything runs on this
machine at the same time, so that only ratios within one run mean much; medians of the rounds are told.

    restart    kill -9, start again: seconds to the first committed prediction and until all is live (and of processor
               time), where some 50,000 events are replayed, or their windows read from the changelog
    replay     events a second of a replay, and of a bare loop that consumes and decodes the same events
    memory     seconds until ready and resident memory with 10,000 keys of 336x7 windows, and that of their own bytes
"""

from __future__ import annotations

import argparse
import json
import re
import statistics
import subprocess
import sys
import tempfile
import time
import uuid
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path
from threading import Event, Thread
from typing import Any

import grpc
import numpy as np
import orjson
import psutil
import yaml
from kafka import KafkaConsumer, KafkaProducer, TopicPartition

from deploy.local.kafka import KafkaNode, Ports
from deploy.local.ports import free_port
from deploy.local.state import claim, default_state_dir
from pipelines.kernels.windowing import Windowing
from schemas.event import EventReader
from schemas.spec import Spec, parse_spec
from streaming.partition import Partition
from streaming.restore import PARTITION_FETCH_BYTES, POLL_RECORDS, Restorer, replaying
from streaming.stream_topics import prepare_topics
from streaming.topics import TopicAdmin, connect

START_MS = 1_700_000_000_000
STEP_MS = 1_000


class Bench:
    """The parts that every cell uses: Kafka, and a folder."""

    def __init__(self, bootstrap: str, folder: Path, repeat: int) -> None:
        self.bootstrap, self.folder, self.repeat = bootstrap, folder, repeat

    def stream(self, *, features: int, past: int, partitions: int = 4, **kafka: Any) -> Stream:
        """A stream of its own: topics, group and model server."""
        name = f"bench-{uuid.uuid4().hex[:8]}"
        document = {
            "stream": {
                "name": name,
                "key": "key",
                "time": {"field": "time", "format": "epoch_ms"},
                "features": [{"name": f"f{n}", "role": "past" if n else "target"} for n in range(features)],
            },
            "grid": {"step": f"{STEP_MS}ms", "regular": True, "max_disorder": "1h"},
            "window": {"past": past, "horizon": 24},
            "kafka": {"bootstrap_servers": self.bootstrap, "input": {"name": name, "partitions": partitions}, **kafka},
            "serving": {"address": f"127.0.0.1:{free_port()}"},
        }
        spec_file = self.folder / f"{name}.yaml"
        spec_file.write_text(yaml.safe_dump(document))
        spec = parse_spec(document)
        with TopicAdmin(spec.kafka) as admin:
            prepare_topics(admin, spec, oldest_ms=None, now_ms=time.time_ns() // 10**6)
        return Stream(spec, spec_file)


class Stream:
    """One stream, and the processes of its consumer."""

    def __init__(self, spec: Spec, spec_file: Path) -> None:
        self.spec, self.spec_file = spec, spec_file

    def send(self, events: Iterator[tuple[str, int, Sequence[float]]]) -> int:
        """Sends (key, event time, values); how many."""
        producer = connect(KafkaProducer, self.spec.kafka, linger_ms=20, batch_size=262_144, compression_type="lz4")
        count = 0
        for key, time_ms, values in events:
            value = orjson.dumps({"key": key, "time": time_ms} | {f"f{n}": number for n, number in enumerate(values)})
            producer.send(self.spec.topics.input.name, key=key.encode(), value=value, timestamp_ms=time_ms)
            count += 1
        producer.flush(timeout=300)
        producer.close(timeout=10)
        return count

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

    def start(self) -> Consumer:
        """Starts the consumer."""
        return Consumer(self.spec_file)

    def committed(self) -> int:
        """How many predictions there are, as a reader of committed records sees it."""
        return sum(1 for _ in self.predictions())

    def predictions(self) -> Iterator[Any]:
        """The committed predictions there are."""
        topic = self.spec.topics.predictions.name
        consumer = connect(KafkaConsumer, self.spec.kafka, isolation_level="read_committed", enable_auto_commit=False)
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
        consumer = connect(
            KafkaConsumer,
            self.spec.kafka,
            isolation_level="read_committed",
            enable_auto_commit=False,
            fetch_max_wait_ms=20,
        )
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
    """`tidegauge stream` as a process, and what it says."""

    def __init__(self, spec_file: Path) -> None:
        self.began = time.monotonic()
        self.process = subprocess.Popen(
            [sys.executable, "-m", "tidegauge", "stream", "--spec", str(spec_file), "--from", "latest"],
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
        times = psutil.Process(self.process.pid).cpu_times()
        return times.user + times.system

    def kill(self) -> None:
        """kill -9."""
        self.process.kill()
        self.process.wait()
        self._listener.join(timeout=5)


def series(keys: int, steps: range, features: int) -> Iterator[tuple[str, int, Sequence[float]]]:
    """An event of each key in each step."""
    rows = np.random.default_rng(0).normal(size=(64, features)).round(4).tolist()
    for step in steps:
        for key in range(keys):
            yield f"key-{key}", START_MS + step * STEP_MS, rows[(step + key) % 64]


# --- cells ---


def restart(bench: Bench) -> dict[str, Any]:
    """kill -9 and start again, by how the windows are had back."""
    return {recovery: _restart(bench, recovery) for recovery in ("replay", "changelog")}


def _restart(bench: Bench, recovery: str) -> dict[str, Any]:
    keys, past = 50, 1_000
    stream = bench.stream(features=3, past=past, recovery=recovery)
    rounds = []
    with stream.instant_model():
        stream.send(series(keys, range(past), 3))
        consumer = stream.start()
        consumer.wait_until_live()
        for round_ in range(bench.repeat + 1):
            with stream.first_prediction() as first:
                if round_:  # before the first round every key is seen once, so that a changelog has them all
                    consumer.kill()
                stream.send(series(keys, range(past + round_, past + round_ + 1), 3))
                if round_:
                    consumer = stream.start()
                predicted_s = first() - consumer.began
                live_s, cpu_s = consumer.wait_until_live(), consumer.cpu_s()
            while stream.committed() < keys * (round_ + 1):
                time.sleep(0.2)
            if not round_:
                continue
            rounds.append(
                {"first_prediction_s": predicted_s, "live_s": live_s, "cpu_s": cpu_s, "replayed": consumer.replayed}
            )
        consumer.kill()
    return _medians(rounds)


def replay(bench: Bench) -> dict[str, Any]:
    """The rate of the restorer, and of a bare loop over the same events with the same settings."""
    stream = bench.stream(features=3, past=1_000)
    count = stream.send(series(200, range(1_000), 3))
    parts = [TopicPartition(stream.spec.topics.input.name, number) for number in range(4)]
    rounds = []
    for _ in range(bench.repeat):
        bare_s, restored_s = _bare(stream.spec, parts), _restored(stream.spec, parts)
        rounds.append(
            {"bare_per_s": count / bare_s, "replay_per_s": count / restored_s, "replay_over_bare": bare_s / restored_s}
        )
    return _medians(rounds) | {"events": count}


def _bare(spec: Spec, parts: Sequence[TopicPartition]) -> float:
    consumer = connect(
        KafkaConsumer,
        spec.kafka,
        isolation_level="read_committed",
        enable_auto_commit=False,
        max_poll_records=POLL_RECORDS,
        max_partition_fetch_bytes=PARTITION_FETCH_BYTES,
    )
    consumer.assign(list(parts))
    consumer.seek_to_beginning(*parts)
    ends = consumer.end_offsets(list(parts))
    began = time.monotonic()
    while any(consumer.position(tp) < end for tp, end in ends.items()):
        for records in consumer.poll(timeout_ms=100).values():
            for record in records:
                orjson.loads(record.value)
    took = time.monotonic() - began
    consumer.close(timeout_ms=1_000)
    return took


def _restored(spec: Spec, parts: Sequence[TopicPartition]) -> float:
    windowing, reader = Windowing(spec), EventReader(spec)
    restorer = Restorer(spec.kafka, "bench", lambda _: None)
    consumer = connect(KafkaConsumer, spec.kafka)
    ends = consumer.end_offsets(list(parts))
    consumer.close(timeout_ms=1_000)
    partitions = {
        tp: Partition(spec, windowing, reader, name=str(tp), partitions=len(parts), start_offset=0, live_from=ends[tp])
        for tp in parts
    }
    began = time.monotonic()
    restorer.begin({tp: replaying(tp, partition) for tp, partition in partitions.items()})
    while restorer.is_busy:
        restorer.step(1.0)
    took = time.monotonic() - began
    restorer.close()
    return took


def memory(bench: Bench) -> dict[str, Any]:
    """Readiness of a group without a past, and memory once every key has its window.

    A key's window has all its steps from its first event on, so a few events a key are enough to fill them.
    """
    keys, past, features = 10_000, 336, 7
    stream = bench.stream(features=features, past=past)
    with stream.instant_model():
        empty = []
        for _ in range(bench.repeat):
            consumer = stream.start()
            ready_s = consumer.wait_until_live()
            empty.append({"ready_s": ready_s, "ready_cpu_s": consumer.cpu_s(), "empty_mb": consumer.memory_mb("VmRSS")})
            consumer.kill()
        consumer = stream.start()
        consumer.wait_until_live()
        stream.send(series(keys, range(2), features))
        while stream.committed() < 2 * keys:
            time.sleep(1)
        time.sleep(2)
        resident_mb, peak_mb = consumer.memory_mb("VmRSS"), consumer.memory_mb("VmHWM")
        consumer.kill()
    windows_mb = keys * past * features * (4 + 1) / 1e6  # values and masks
    return _medians(empty) | {
        "resident_mb": resident_mb,
        "peak_mb": peak_mb,
        "windows_mb": windows_mb,
        "beyond_windows_mb": resident_mb - windows_mb,
    }


CELLS: Mapping[str, Callable[[Bench], dict[str, Any]]] = {"restart": restart, "replay": replay, "memory": memory}


def _medians(rounds: Sequence[Mapping[str, float]]) -> dict[str, Any]:
    median = {name: round(statistics.median(one[name] for one in rounds), 3) for name in rounds[0]}
    return median | {"rounds": [{name: round(value, 3) for name, value in one.items()} for one in rounds]}


def main() -> None:
    """Runs the cells and prints one JSON document."""
    parser = argparse.ArgumentParser(description="Measure the live path.")
    parser.add_argument("--only", nargs="+", choices=CELLS, default=list(CELLS))
    parser.add_argument("--repeat", type=int, default=5)
    parser.add_argument("--json", type=Path, help="also write the result to this file")
    arguments = parser.parse_args()
    results: dict[str, Any] = {}
    with ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="bench-streaming-")))
        node = KafkaNode(claim(folder / "state"), jars_dir=default_state_dir() / "jars" / "kafka")
        stack.callback(node.stop)
        bootstrap = node.start(Ports(0, 0)).endpoints["bootstrap"]
        for name in arguments.only:
            results[name] = CELLS[name](Bench(bootstrap, folder, arguments.repeat))
            print(f"{name}: {json.dumps(results[name])}", file=sys.stderr, flush=True)
    text = json.dumps(results, indent=2)
    print(text)
    if arguments.json:
        arguments.json.write_text(text + "\n")


if __name__ == "__main__":
    main()
