"""Dead letters in Kafka: the refused record's own bytes, with headers that say why and where it came from."""

from __future__ import annotations

import hashlib

from kafka import KafkaConsumer, TopicPartition

from schemas.dead_letter import DeadLetter
from schemas.spec import Spec
from streaming.topics import broker_errors, connect

MAX_PAYLOAD_BYTES = 900_000
"""What surely fits into a topic's default of about 1 MB, headers included; a longer payload is cut."""

_POLL_MS = 1_000
_TIMEOUT_MS = 30_000


def to_payload(letter: DeadLetter) -> bytes | None:
    """The record's value: the payload, cut at `MAX_PAYLOAD_BYTES`."""
    return letter.payload[:MAX_PAYLOAD_BYTES] if letter.payload is not None else None


def to_headers(letter: DeadLetter) -> list[tuple[str, bytes]]:
    """Why it was refused and where it came from; of a cut payload also the size and sha256 of the whole."""
    headers = letter.headers()
    if letter.payload is not None and len(letter.payload) > MAX_PAYLOAD_BYTES:
        headers += [
            ("tidegauge.error.size", str(len(letter.payload)).encode()),
            ("tidegauge.error.sha256", hashlib.sha256(letter.payload).hexdigest().encode()),
        ]
    return headers


def refused_offsets(spec: Spec, partition: int, wanted: range) -> list[int]:
    """The offsets within `wanted` of an input partition whose events the wall clock refused, read from their topic.

    Raises:
      BrokerError: the topic cannot be read.
    """
    topic, source = spec.topics.dead_letters.name, f"{spec.topics.input.name}[{partition}]@"
    found = []
    consumer = connect(KafkaConsumer, spec.kafka, isolation_level="read_committed", enable_auto_commit=False)
    try:
        with broker_errors(topic):
            parts = [TopicPartition(topic, number) for number in consumer.partitions_for_topic(topic) or ()]
            consumer.assign(parts)
            consumer.seek_to_beginning(*parts)
            ends = consumer.end_offsets(parts, timeout_ms=_TIMEOUT_MS)
            while any(consumer.position(tp, timeout_ms=_TIMEOUT_MS) < end for tp, end in ends.items()):
                for records in consumer.poll(timeout_ms=_POLL_MS).values():
                    for record in records:
                        headers = dict(record.headers)
                        where = headers.get("tidegauge.error.source", b"").decode()
                        if headers.get("tidegauge.error.reason") == b"future" and where.startswith(source):
                            found.append(int(where.removeprefix(source)))
    finally:
        consumer.close(timeout_ms=_POLL_MS)
    return sorted(offset for offset in found if offset in wanted)
