"""A range of a Kafka topic as batches of events: what the live path was given, for a backfill.

    kafka:TOPIC                                   all that the topic holds now
    kafka:TOPIC?start=2024-01-01&end=2024-02-01   record times, ISO 8601; the end is exclusive
    kafka:TOPIC?start=1000&end=2000               offsets, of every partition

A partition is read in the order of its offsets, and its clock goes with the events: an event that was late when it came
is late here too. Only committed records are read. The broker is the spec's.
"""

from __future__ import annotations

import re
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any
from urllib.parse import parse_qsl

import numpy as np
from kafka import KafkaConsumer, TopicPartition
from kafka.errors import KafkaError

from pipelines.sources.event_batch import EventBatch, Int64, SourceBatch
from pipelines.sources.files import InputFile
from pipelines.sources.json_source import JsonSource
from pipelines.sources.records import Records
from schemas.errors import BrokerError, InputError
from schemas.spec import Spec
from schemas.units import iso_to_ms

_PATH = re.compile(r"kafka:(?P<topic>[^?\[]+)\[(?P<partition>\d+)\]@(?P<first>\d+)-(?P<last>\d+)")
_PATTERN = re.compile(r"kafka:(?P<topic>[A-Za-z0-9._-]+)(?:\?(?P<query>.*))?")
_POLL_MS = 1_000
_POLL_RECORDS = 20_000
_PATIENCE_S = 30.0
_BOOTSTRAP_MS = 5_000


def match_ranges(spec: Spec, pattern: str) -> list[str]:
    """The ranges of offsets that a pattern names now, one for each partition that has records in it.

    Raises:
      InputError: it is no pattern of a topic.
      BrokerError: the broker does not answer, or has no such topic.
    """
    match = _PATTERN.fullmatch(pattern)
    query = dict(parse_qsl(match["query"] or "", strict_parsing=bool(match["query"]))) if match else {}
    if match is None or not query.keys() <= {"start", "end"}:
        raise InputError(f"{pattern}: expected kafka:TOPIC, kafka:TOPIC?start=...&end=... with ISO times or offsets")
    topic = match["topic"]
    with _consumer(spec, topic) as consumer:
        numbers = consumer.partitions_for_topic(topic)
        if not numbers:
            raise BrokerError(f"{topic}: expected a topic, got none of this name")
        places = [TopicPartition(topic, number) for number in sorted(numbers)]
        earliest, latest = consumer.beginning_offsets(places), consumer.end_offsets(places)
        first = _offsets(consumer, pattern, query.get("start"), earliest, latest)
        last = _offsets(consumer, pattern, query.get("end"), latest, latest)
    ranges = [(place, max(first[place], earliest[place]), min(last[place], latest[place])) for place in places]
    return [f"kafka:{topic}[{place.partition}]@{low}-{high}" for place, low, high in ranges if low < high]


def _offsets(
    consumer: KafkaConsumer,
    pattern: str,
    text: str | None,
    default: dict[TopicPartition, int],
    latest: dict[TopicPartition, int],
) -> dict[TopicPartition, int]:
    """The offset that one end of the range means in each partition."""
    if text is None:
        return default
    if text.isdecimal():
        return dict.fromkeys(default, int(text))
    try:
        time_ms = iso_to_ms(text)
    except ValueError as exc:
        raise InputError(f"{pattern}: expected an ISO time or an offset, got '{text}'") from exc
    found = consumer.offsets_for_times(dict.fromkeys(default, time_ms))
    return {place: latest[place] if found[place] is None else found[place].offset for place in default}


class KafkaSource:
    """Reads ranges of a topic whose values are the events of one spec, as JSON."""

    def __init__(self, spec: Spec) -> None:
        self._spec = spec
        self._json = JsonSource(spec)

    def read(self, file: InputFile) -> Iterator[SourceBatch]:
        """Reads one range of a partition, as `match_ranges` names it.

        Raises:
          BrokerError: the range cannot be read to its end.
        """
        match = _PATH.fullmatch(file.path)
        if match is None:
            raise InputError(f"{file.path}: expected a range of a topic")
        first, last = int(match["first"]), int(match["last"])
        place = TopicPartition(match["topic"], int(match["partition"]))
        named = InputFile(file.index, f"{place.topic}[{place.partition}]")
        text = self._json.rows(named, mark="@")
        clock_ms, row = np.int64(np.iinfo(np.int64).min), 0
        for offsets, values in self._poll(place, first, last):
            batch = text.block(_records(offsets, values))
            events = batch.events
            clock = np.maximum.accumulate(np.concatenate(([clock_ms], events.time_ms)))[1:]
            clock_ms = clock[-1] if len(clock) else clock_ms
            located = EventBatch(events.keys, events.time_ms, offsets[events.row - row], events.values, clock)
            dead = tuple((int(offsets[number - row]), letter) for number, letter in batch.dead)
            yield SourceBatch(batch.rows, located, dead)
            row += len(offsets)

    def _poll(self, place: TopicPartition, first: int, last: int) -> Iterator[tuple[Int64, list[bytes]]]:
        """The records of a range, some at a time: int64 (record,) offsets, and values; a tombstone's is empty."""
        with _consumer(self._spec, place.topic) as consumer:
            consumer.assign([place])
            consumer.seek(place, first)
            patience = time.monotonic() + _PATIENCE_S
            while (position := consumer.position(place)) < last:
                records: Sequence[Any] = consumer.poll(timeout_ms=_POLL_MS).get(place, ())
                wanted = [record for record in records if record.offset < last]
                if wanted:
                    offsets = np.array([record.offset for record in wanted], np.int64)
                    yield offsets, [record.value or b"" for record in wanted]
                if consumer.position(place) > position:
                    patience = time.monotonic() + _PATIENCE_S
                elif time.monotonic() > patience:
                    raise BrokerError(f"{place.topic}[{place.partition}]@{position}: no records for {_PATIENCE_S:g} s")


def _records(offsets: Int64, values: list[bytes]) -> Records:
    size = np.array([len(value) for value in values], np.int64)
    end = np.cumsum(size + 1) - 1
    return Records(b"\n".join([*values, b""]), end - size, end, offsets)


@contextmanager
def _consumer(spec: Spec, topic: str) -> Iterator[KafkaConsumer]:
    bootstrap = spec.kafka.bootstrap_servers
    try:
        consumer = KafkaConsumer(
            bootstrap_servers=bootstrap,
            **spec.kafka.security.client_settings(),
            bootstrap_timeout_ms=_BOOTSTRAP_MS,
            isolation_level="read_committed",
            auto_offset_reset="none",
            enable_auto_commit=False,
            allow_auto_create_topics=False,
            max_poll_records=_POLL_RECORDS,
            max_partition_fetch_bytes=8 << 20,
        )
    except KafkaError as exc:
        raise BrokerError(f"broker {bootstrap} does not answer: {exc}") from exc
    try:
        yield consumer
    except KafkaError as exc:
        raise BrokerError(f"{topic}: {exc}") from exc
    finally:
        consumer.close(timeout_ms=1_000)
