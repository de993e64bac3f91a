"""A topic as input: a backfill makes the windows that the live path made of the same records."""

from __future__ import annotations

import uuid
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import orjson
import pytest
from kafka import KafkaProducer

from flows.history import History
from pipelines.ingest import ingest
from pipelines.kernels.windowing import Windowing
from pipelines.sources.inputs import match_inputs
from schemas.errors import BrokerError, InputError
from schemas.event import EventReader
from schemas.spec import Spec
from streaming.partition import Partition
from streaming.topics import NewTopic, TopicAdmin
from tests.conftest import Kafka
from tests.pipelines.records import read_windows
from tests.specs import tiny_spec

PARTITIONS = 2


class Record:
    def __init__(self, offset: int, value: bytes | None) -> None:
        self.offset, self.value, self.timestamp, self.key, self.headers = offset, value, 0, None, ()


def spec_of(kafka: Kafka, topic: str) -> Spec:
    grid = {"step": "10ms", "max_gap": 1, "lateness": "20ms", "max_disorder": "60ms"}
    return tiny_spec(grid=grid, kafka={"bootstrap_servers": kafka.bootstrap, "input": {"name": topic}})


def random_values(seed: int, count: int = 400) -> list[bytes | None]:
    """Events that wander on in time and come back too late now and then, with some that are none."""
    rng = np.random.default_rng(seed)
    values: list[bytes | None] = []
    for number in range(count):
        time_ms = max(0, number * 3 + int(rng.normal(0, 40)))
        event: dict[str, Any] = {"time": time_ms, "key": f"{seed}-{rng.integers(3)}", "load": float(rng.normal())}
        values.append(None if number % 97 == 50 else b"{" if number % 89 == 3 else orjson.dumps(event))
    return values


@pytest.fixture(scope="module")
def topic(kafka: Kafka) -> str:
    """Two partitions, with an aborted transaction among the records."""
    name = f"backfill-{uuid.uuid4().hex[:8]}"
    with TopicAdmin(kafka.bootstrap) as admin:
        admin.create([NewTopic(name, PARTITIONS, {"retention.ms": "-1"})])
    with KafkaProducer(bootstrap_servers=kafka.bootstrap, transactional_id=name, retry_backoff_ms=5) as producer:
        producer.init_transactions()
        for some, commit in ((slice(0, 200), True), (slice(0, 50), False), (slice(200, None), True)):
            producer.begin_transaction()
            for partition in range(PARTITIONS):
                for number, value in enumerate(random_values(partition)[some]):
                    producer.send(
                        name,
                        value=value,
                        key=b"any",
                        partition=partition,
                        timestamp_ms=1_000 + (some.start or 0) + number,
                    )
            if commit:
                producer.commit_transaction()
            else:
                producer.flush()
                producer.abort_transaction()
    return name


def live(spec: Spec, seed: int) -> tuple[dict[tuple[str, int], bytes], dict[str, int]]:
    """The windows of a partition as the consumer makes them, and its counts."""
    windowing = Windowing(spec)
    partition = Partition(
        spec, windowing, EventReader(spec), name="t[0]", partitions=PARTITIONS, start_offset=0, live_from=0
    )
    windows: dict[tuple[str, int], bytes] = {}
    stage = partition.stage([Record(*item) for item in enumerate(random_values(seed))], now_ms=10**9)
    for key, run in stage.windows:
        for origin, values in zip(run.origin_step.tolist(), run.past_values(), strict=True):
            windows[key, origin] = values.tobytes()
    return windows, dict(stage.counts)


def test_a_backfill_makes_the_windows_of_the_live_path(kafka: Kafka, topic: str, tmp_path: Path) -> None:
    spec = spec_of(kafka, topic)
    manifest = ingest(spec, inputs=[f"kafka:{topic}"], output=str(tmp_path / "dataset"), all_origins=True)
    expected: dict[tuple[str, int], bytes] = {}
    totals = dict.fromkeys(("used", "duplicate", "late", "dead"), 0)
    for partition in range(PARTITIONS):
        windows, counts = live(spec, partition)
        expected |= windows
        totals = {name: total + counts[name] for name, total in totals.items()}
    found = {place: window.past.tobytes() for place, window in read_windows(tmp_path / "dataset", "all").items()}
    assert found == expected
    events = manifest.events
    assert {name: getattr(events, name) for name in totals} == totals
    assert min(totals["used"], totals["late"], totals["dead"]) > 5
    assert events.rows == 2 * 400
    letters = [
        orjson.loads(line)
        for path in sorted((tmp_path / "dataset" / "dead-letters").iterdir())
        for line in path.read_bytes().splitlines()
    ]
    assert letters[0] == {"source": f"{topic}[0]@3", "reason": "decode", "detail": letters[0]["detail"], "text": "{"}


def test_ranges_by_offset_and_by_record_time(kafka: Kafka, topic: str) -> None:
    def paths(query: str) -> list[str]:
        return [
            file.path.removeprefix(f"kafka:{topic}")
            for file in match_inputs(spec_of(kafka, topic), [f"kafka:{topic}{query}"])
        ]

    assert paths("?start=10&end=20") == ["[0]@10-20", "[1]@10-20"]
    assert paths("?start=1970-01-01T00:00:01.100Z&end=1970-01-01T00:00:01.110Z") == ["[0]@100-110", "[1]@100-110"]
    assert paths("?end=5") == ["[0]@0-5", "[1]@0-5"]
    with pytest.raises(InputError, match="expected records, got none"):
        paths("?start=5&end=5")


@pytest.mark.parametrize(
    ("pattern", "message"),
    [
        ("kafka:a b", r"expected kafka:TOPIC"),
        ("kafka:t?from=1", r"expected kafka:TOPIC"),
        ("kafka:TOPIC?start=soon", r"expected an ISO time or an offset, got 'soon'"),
    ],
)
def test_a_pattern_that_is_none(kafka: Kafka, topic: str, pattern: str, message: str) -> None:
    with pytest.raises(InputError, match=message):
        match_inputs(spec_of(kafka, topic), [pattern.replace("TOPIC", topic)])


def test_a_topic_that_is_not_there_and_a_broker_that_does_not_answer(
    kafka: Kafka, monkeypatch: pytest.MonkeyPatch
) -> None:
    with pytest.raises(BrokerError, match="missing: expected a topic, got none of this name"):
        match_inputs(spec_of(kafka, "missing"), ["kafka:missing"])
    monkeypatch.setattr("pipelines.sources.kafka_source._BOOTSTRAP_MS", 300)
    away = tiny_spec(kafka={"bootstrap_servers": "127.0.0.1:9"})
    with pytest.raises(BrokerError, match=r"broker 127\.0\.0\.1:9 does not answer"):
        match_inputs(away, ["kafka:x"])


def test_spans_of_a_topic_laid_end_to_end_are_one_backfill_of_the_whole(
    kafka: Kafka, topic: str, tmp_path: Path
) -> None:
    spec = spec_of(kafka, topic)
    spec = spec.model_copy(update={"grid": spec.grid.model_copy(update={"max_skew": 20})})
    whole = ingest(spec, inputs=[f"kafka:{topic}"], output=str(tmp_path / "whole"), all_origins=True)
    cuts = ("1969-12-31", "1970-01-01T00:00:00.400Z", "1970-01-01T00:00:01.150Z", "1970-01-02")
    spans = [
        ingest(spec, inputs=[f"kafka:{topic}"], output=str(tmp_path / "spans"), all_origins=True, interval=interval)
        for interval in pairwise(cuts)
    ]
    parts = [read_windows(path, "all") for path in sorted((tmp_path / "spans" / "spans").iterdir())]
    found = {place: window for part in parts for place, window in part.items()}
    assert sum(map(len, parts)) == len(found)
    assert {place: window.past.tobytes() for place, window in found.items()} == {
        place: window.past.tobytes() for place, window in read_windows(tmp_path / "whole", "all").items()
    }
    for outcome in ("used", "duplicate"):
        assert sum(getattr(span.events, outcome) for span in spans) == getattr(whole.events, outcome)
    assert spans[-1].inputs[0] != whole.inputs[0]  # it did not begin at the topic's first record


def test_files_and_topics_do_not_mix(kafka: Kafka) -> None:
    with pytest.raises(InputError, match="either files or topics"):
        match_inputs(spec_of(kafka, "x"), ["kafka:x", "x.csv"])
    with pytest.raises(InputError, match="expected files, got a topic"):
        History.read(spec_of(kafka, "x"), ["kafka:x"])
