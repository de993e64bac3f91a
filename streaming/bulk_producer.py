"""A producer that takes many records at once.

kafka-python's `send` checks, measures, encodes and locks for each record, and keeps a future for each: some 25
microseconds for a record with headers, which is more than all else that a prediction costs. What a batch of input
yields is known as a whole, so its records are encoded here in one go (record batch format 2, KIP-98) and handed over as
finished batches; how these are sent, tried again and numbered stays kafka-python's matter.

What is used of kafka-python's inside is the accumulator's queues and the batch builder's buffer. Its version is bound
in `pyproject.toml`, and the tests that read records back would tell if that did not hold any more.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Sequence
from functools import lru_cache
from typing import NamedTuple

from kafka import KafkaProducer, TopicPartition
from kafka.producer.future import FutureProduceResult
from kafka.producer.producer_batch import ProducerBatch
from kafka.record.memory_records import MemoryRecordsBuilder

Header = tuple[str, bytes | None]

MAGIC = 2
MOST_KEYS = 100_000
"""Of so many keys it is remembered in which partition they belong."""
SHORT = 64
"""Headers up to this length are remembered in their encoded form: most records of a stream have most of theirs in
common."""


class OutRecord(NamedTuple):
    """A record that is to be sent; `timestamp_ms` in epoch milliseconds."""

    key: bytes | None
    value: bytes | None
    headers: Sequence[Header]
    timestamp_ms: int


class BulkProducer(KafkaProducer):  # type: ignore[misc]
    """A `KafkaProducer` with `send_all`."""

    def __init__(self, **configs: object) -> None:
        super().__init__(**configs)
        self._partitions_of: dict[tuple[str, int], dict[bytes, int]] = {}

    def send_all(self, topic: str, records: Sequence[OutRecord]) -> list[FutureProduceResult]:
        """Sends records; those of a partition stay in order, and after what was sent before.

        Returns:
          What becomes of each batch that they make up: its value is (offset, time, exceptions), of which the last is
          None where all is well.
        Raises:
          KafkaError: the topic is not known, or a record is larger than a request may be.
        """
        if not records:
            return []  # without asking for a topic that there may not be
        by_partition: defaultdict[int, list[OutRecord]] = defaultdict(list)
        known, keyless = self._known_partitions(topic), None
        for record in records:
            if (key := record.key) is None:
                if keyless is None:  # any will do, another one the next time
                    keyless = self._partition(topic, None, None, None, None, None)
                partition = keyless
            elif (partition := known.get(key)) is None:
                partition = self._partition_of(topic, key, known)
            by_partition[partition].append(record)
        return [
            future
            for partition, rows in by_partition.items()
            for future in self._send_partition(TopicPartition(topic, partition), rows)
        ]

    def expect(self, topic: str, keys: Iterable[bytes]) -> None:
        """Makes the partitions of some keys part of the transaction, if there is one, before they have records.

        A partition that then gets none has the transaction's end written to it all the same.

        Raises:
          KafkaError: the topic is not known.
        """
        if not self._transaction_manager.is_transactional():
            return
        known = self._known_partitions(topic)
        for partition in {known[key] if key in known else self._partition_of(topic, key, known) for key in keys}:
            self._transaction_manager.maybe_add_partition_to_transaction(TopicPartition(topic, partition))
        self._sender.wakeup()

    def _partition_of(self, topic: str, key: bytes, known: dict[bytes, int]) -> int:
        partition: int = self._partition(topic, None, key, None, key, None)
        if len(known) < MOST_KEYS:
            known[key] = partition
        return partition

    def _known_partitions(self, topic: str) -> dict[bytes, int]:
        """The partition of each key that has had a record, while the topic has as many as now."""
        if self._metadata.partitions_for_topic(topic) is None:
            self._wait_on_metadata(topic, self.config["max_block_ms"])
        place = topic, len(self._metadata.partitions_for_topic(topic))
        if place not in self._partitions_of:
            self._partitions_of = {old: keys for old, keys in self._partitions_of.items() if old[0] != topic}
            self._partitions_of[place] = {}
        return self._partitions_of[place]

    def _send_partition(self, tp: TopicPartition, records: Sequence[OutRecord]) -> list[FutureProduceResult]:
        if self._transaction_manager.is_transactional():
            self._transaction_manager.maybe_add_partition_to_transaction(tp)
        accumulator, most = self._accumulator, self.config["batch_size"]
        accumulator._appends_in_progress.increment()
        try:
            batches = [
                ProducerBatch(tp, builder)
                for builder in encoded_batches(records, accumulator.config["compression_attrs"], most)
            ]
            for batch in batches:
                self._ensure_valid_record_size(batch.records.size_in_bytes())
            with accumulator._tp_lock(tp):
                for batch in batches:
                    accumulator._batches[tp].append(batch)
                    accumulator._incomplete.add(batch)
        finally:
            accumulator._appends_in_progress.decrement()
        self._sender.wakeup()
        return [batch.produce_future for batch in batches]


def encoded_batches(records: Sequence[OutRecord], compression: int, most_bytes: int) -> list[MemoryRecordsBuilder]:
    """Record batches of at most so many bytes, but for a record that is larger alone."""
    made = []
    start = 0
    while start < len(records):
        builder = MemoryRecordsBuilder(MAGIC, compression, most_bytes)
        first_ms = records[start].timestamp_ms
        parts: list[bytes] = []
        size, last_ms = builder.size_in_bytes(), first_ms
        for number, (key, value, headers, timestamp_ms) in enumerate(records[start:]):
            body = b"".join(
                (
                    b"\0",  # attributes, of which there are none
                    _varint(timestamp_ms - first_ms),
                    _varint(number),
                    _sized(key),
                    _sized(value),
                    _varint(len(headers)),
                    *[_header(name, content) for name, content in headers],
                )
            )
            record = _varint(len(body)) + body
            if parts and size + len(record) > most_bytes:
                break
            size += len(record)
            last_ms = max(last_ms, timestamp_ms)
            parts.append(record)
        inner = builder._builder
        inner._first_timestamp, inner._max_timestamp = first_ms, last_ms
        inner._num_records, inner._last_offset = len(parts), len(parts) - 1
        inner._buffer += b"".join(parts)
        builder._next_offset = len(parts)
        made.append(builder)
        start += len(parts)
    return made


def _header(name: str, value: bytes | None) -> bytes:
    return _short_header(name, value) if value is None or len(value) <= SHORT else _sized(name.encode()) + _sized(value)


@lru_cache(maxsize=4_096)
def _short_header(name: str, value: bytes | None) -> bytes:
    return _sized(name.encode()) + _sized(value)


def _sized(value: bytes | None) -> bytes:
    """A value after its length, which is -1 where there is none."""
    return b"\1" if value is None else _varint(len(value)) + value


@lru_cache(maxsize=65_536)
def _varint(number: int) -> bytes:
    """Zigzag and base 128, as records have all their numbers."""
    rest = (number << 1) ^ (number >> 63)
    out = bytearray()
    while rest > 0x7F:
        out.append(rest & 0x7F | 0x80)
        rest >>= 7
    out.append(rest)
    return bytes(out)
