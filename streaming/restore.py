"""Restoring: brings the partitions that a process takes over to where the group has committed them.

A consumer of its own reads what is needed, the events of the live windows or the rows of the changelog, in large
pieces. It works a slice at a time, so that the partitions that are live already go on meanwhile.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from kafka import KafkaConsumer, TopicPartition
from kafka.errors import KafkaTimeoutError

from schemas.settings_spec import Kafka
from streaming.commits import CLOSE_TIMEOUT_S
from streaming.event_partition import EventPartition
from streaming.stage import LivePartition, Record
from streaming.topics import connect

POLL_RECORDS = 20_000
POLL_MS = 100
PARTITION_FETCH_BYTES = 8 * 2**20
STALLED_S = 90.0
"""An open transaction of a process that is gone hides what comes after it, until the broker ends it after a minute."""
REPORT_S = 1.0
REQUEST_TIMEOUT_MS = 5_000
"""What one look-up may take; a broker that is away for longer is asked again."""


@dataclass(slots=True)
class Reading:
    """What is read for one input partition.

    `place` is read from `position` to `end`; `take` gets the records, and `finish` makes the partition of them.
    """

    place: TopicPartition
    position: int
    end: int
    take: Callable[[Sequence[Record]], None]
    finish: Callable[[], LivePartition]


def replaying(tp: TopicPartition, partition: EventPartition[Any]) -> Reading:
    """Reads the events that what a partition remembers is made of."""

    def finish() -> LivePartition:
        partition.end_replay(partition.live_from)
        return partition

    return Reading(tp, partition.next_offset, partition.live_from, partition.replay, finish)


class Restorer:
    """Restores partitions.

    Args:
      brokers: as for `connect`.
      client_id: for the broker's log.
      report: is told, in words, how far it is, every second or so.
    Raises:
      BrokerError: no broker answers.
    """

    def __init__(self, brokers: Kafka | str, client_id: str, report: Callable[[str], None]) -> None:
        self._consumer = connect(
            KafkaConsumer,
            brokers,
            client_id=client_id,
            enable_auto_commit=False,
            auto_offset_reset="none",  # a gap must be seen, not jumped over
            isolation_level="read_committed",
            max_poll_records=POLL_RECORDS,
            max_partition_fetch_bytes=PARTITION_FETCH_BYTES,
            allow_auto_create_topics=False,
        )
        self._report = report
        self._readings: dict[TopicPartition, Reading] = {}
        self._total = 0
        self._began_at = self._reported_at = self._moved_at = time.monotonic()

    @property
    def is_busy(self) -> bool:
        """Whether a partition is being restored."""
        return bool(self._readings)

    @property
    def partitions(self) -> Iterable[TopicPartition]:
        """The input partitions that are being restored."""
        return self._readings.keys()

    @property
    def progress(self) -> tuple[int, int]:
        """How many offsets have been read, and of how many."""
        left = sum(max(reading.end - reading.position, 0) for reading in self._readings.values())
        return self._total - left, self._total

    def close(self) -> None:
        """Closes the connection."""
        self._consumer.close(timeout_ms=int(CLOSE_TIMEOUT_S * 1_000))

    def begin(self, readings: Mapping[TopicPartition, Reading]) -> None:
        """Restores further partitions, beside those at work."""
        if not self._readings:
            self._total, self._began_at = 0, time.monotonic()
            self._reported_at = self._moved_at = self._began_at
        self._readings.update(readings)
        self._total += sum(max(reading.end - reading.position, 0) for reading in readings.values())
        self._assign()

    def drop(self, partitions: Iterable[TopicPartition]) -> None:
        """Gives up restoring some partitions, or none."""
        gone = [self._readings.pop(tp) for tp in partitions if tp in self._readings]
        if gone:
            self._total -= sum(max(reading.end - reading.position, 0) for reading in gone)
            self._assign()

    def step(self, slice_s: float) -> dict[TopicPartition, LivePartition]:
        """Works for about `slice_s` seconds.

        Returns:
          The partitions that are whole now, by input partition.
        Raises:
          KafkaError: the broker does not answer; OffsetOutOfRangeError where retention has overtaken it.
        """
        until = time.monotonic() + slice_s
        done: dict[TopicPartition, LivePartition] = {}
        while self._readings and time.monotonic() < until:
            if any(reading.position < reading.end for reading in self._readings.values()):
                self._read()
            for tp, reading in list(self._readings.items()):
                if reading.position >= reading.end:
                    del self._readings[tp]
                    self._consumer.pause(reading.place)
                    done[tp] = reading.finish()
            self._tell()
        return done

    def _read(self) -> None:
        batch: dict[TopicPartition, list[Any]] = self._consumer.poll(timeout_ms=POLL_MS)
        now = time.monotonic()
        for reading in self._readings.values():
            if records := [record for record in batch.get(reading.place, ()) if record.offset < reading.end]:
                reading.take(records)
            position = self._consumer.position(reading.place, timeout_ms=REQUEST_TIMEOUT_MS)
            if position > reading.position:  # also where only the end of a transaction was passed
                reading.position, self._moved_at = position, now
        if now > self._moved_at + STALLED_S:
            names = ", ".join(f"{r.place.topic}[{r.place.partition}]@{r.position}" for r in self._readings.values())
            raise KafkaTimeoutError(
                f"nothing to read at {names} for {STALLED_S:g} s, though a commit says that there is"
            )

    def _assign(self) -> None:
        places = [reading.place for reading in self._readings.values()]
        self._consumer.assign(places)
        self._consumer.resume(*places)  # one that was restored before is assigned, and paused, still
        for reading in self._readings.values():
            self._consumer.seek(reading.place, reading.position)

    def _tell(self) -> None:
        now = time.monotonic()
        if now < self._reported_at + REPORT_S:
            return
        self._reported_at = now
        done, total = self.progress
        rate = done / (now - self._began_at)
        self._report(f"restoring: {done} of {total} events ({done / max(total, 1):.0%}), {rate:.0f} a second")
