"""The input topic: where it begins and ends, and what the group has committed of it."""

from __future__ import annotations

from typing import Literal, cast

from kafka import KafkaConsumer, TopicPartition

from schemas.errors import InputError
from schemas.units import iso_to_ms
from streaming.checkpoint import Checkpoint
from streaming.restore import REQUEST_TIMEOUT_MS

Start = Literal["latest", "earliest"] | int
"""Where a group without commits begins: an end of the topic, or a record time in epoch milliseconds."""


def parse_start(text: str) -> Start:
    """Reads `latest`, `earliest` or an ISO time.

    Raises:
      InputError: it is none of them.
    """
    if text in ("latest", "earliest"):
        return cast(Start, text)
    try:
        return iso_to_ms(text)
    except ValueError as exc:
        raise InputError(f"--from: expected latest, earliest or an ISO time, got '{text}'") from exc


class InputTopic:
    """Looks things up in the input topic; a KafkaError says that the broker does not answer.

    Args:
      consumer: a member of the group.
      topic: the topic's name.
    """

    def __init__(self, consumer: KafkaConsumer, topic: str) -> None:
        self._consumer, self._topic = consumer, topic

    def count(self) -> int:
        """How many partitions it has."""
        return len(self._consumer.partitions_for_topic(self._topic) or ())

    def places(self) -> list[TopicPartition]:
        """Its partitions."""
        return [TopicPartition(self._topic, number) for number in range(self.count())]

    def committed(self, tp: TopicPartition) -> tuple[Checkpoint | None, int | None]:
        """The checkpoint, where the last commit holds one of ours, and the offset; both None where there is none."""
        committed = self._consumer.committed(tp, metadata=True, timeout_ms=REQUEST_TIMEOUT_MS)
        if committed is None:
            return None, None
        return Checkpoint.read(committed.offset, committed.metadata), committed.offset

    def beginning(self, tp: TopicPartition) -> int:
        """The first offset that there still is."""
        return int(self._consumer.beginning_offsets([tp], timeout_ms=REQUEST_TIMEOUT_MS)[tp])

    def end(self, tp: TopicPartition) -> int:
        """The offset of the next record."""
        return int(self._consumer.end_offsets([tp], timeout_ms=REQUEST_TIMEOUT_MS)[tp])

    def offset_at(self, tp: TopicPartition, time_ms: int, *, default: int) -> int:
        """The first offset of a record time of at least `time_ms`, epoch milliseconds."""
        found = self._consumer.offsets_for_times({tp: time_ms}, timeout_ms=REQUEST_TIMEOUT_MS)[tp]
        return default if found is None else int(found.offset)

    def first_ms(self, tp: TopicPartition) -> int | None:
        """The record time of the first record that there still is, epoch milliseconds."""
        found = self._consumer.offsets_for_times({tp: 0}, timeout_ms=REQUEST_TIMEOUT_MS)[tp]
        return None if found is None else int(found.timestamp)

    def first_live_offset(self, tp: TopicPartition, start: Start) -> int:
        """Where a group without commits begins."""
        if start == "latest":
            return self.end(tp)
        if start == "earliest":
            return self.beginning(tp)
        return self.offset_at(tp, start, default=self.end(tp))


def name(tp: TopicPartition) -> str:
    """`topic[partition]`."""
    return f"{tp.topic}[{tp.partition}]"
