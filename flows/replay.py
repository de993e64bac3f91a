"""Replay: plays files into the input topic: events in event-time order, as fast as told; documents as they come."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Self

import orjson
from kafka import KafkaProducer

from flows.history import History
from pipelines.sources.event_batch import DeadRow
from pipelines.sources.files import match_files, open_input
from pipelines.text_source import Document, TextSource
from schemas.dead_letter import DeadLetter
from schemas.errors import BrokerError, InputError
from schemas.spec import Spec
from schemas.text_spec import TextSpec
from streaming.dead_letters import to_headers, to_payload
from streaming.stream_topics import prepare_topics
from streaming.topics import TopicAdmin, broker_errors, connect

_FLUSH_EVERY = 20_000
"""kafka-python queues without a bound, so we wait for the broker now and then."""
_FLUSH_TIMEOUT_S = 60.0


def parse_speed(text: str) -> float | None:
    """Reads `60x` (a minute of event time a second) or `max`.

    Raises:
      InputError: it is neither.
    """
    if text == "max":
        return None
    try:
        if text.endswith("x") and (speed := float(text[:-1])) > 0:
            return speed
    except ValueError:
        pass
    raise InputError(f"--speed: expected a factor such as 60x, or max, got '{text}'")


@dataclass(frozen=True, slots=True)
class ReplaySummary:
    """rows = sent + dead."""

    rows: int
    sent: int
    dead: int
    seconds: float


def replay(
    spec: Spec,
    inputs: Sequence[str],
    *,
    speed: float | None = None,
    report: Callable[[str], None] = lambda _: None,
) -> ReplaySummary:
    """Sends the events of files to the stream's input topic, record time = event time; bad rows to the dead letters.

    Args:
      spec: the stream.
      inputs: files or patterns.
      speed: seconds of event time a second; None for as fast as the broker takes them.
      report: is told, in words, what a person should know.
    Raises:
      InputError: a file cannot be used.
      BrokerError: the broker is away, or refuses a record.
    """
    began = time.monotonic()
    history = History.read(spec, inputs)
    oldest_ms = int(history.time_ms[0]) if len(history) else None
    with TopicAdmin(spec.kafka) as admin:
        for warning in prepare_topics(admin, spec, oldest_ms=oldest_ms, now_ms=time.time_ns() // 1_000_000):
            report(warning)
    with Sender.to(spec, linger_ms=5 if speed is None else 0, report=report) as sender:
        for key, time_ms, payload in zip(history.key, history.time_ms.tolist(), history.payloads(spec), strict=True):
            if speed is not None and oldest_ms is not None:
                sender.wait_until(began + (time_ms - oldest_ms) / 1_000 / speed)
            sender.send(payload, key=key.encode(), time_ms=time_ms)
        for row in history.dead:
            sender.bury(row)
    return sender.summary(began)


def replay_texts(
    spec: TextSpec, inputs: Sequence[str], *, report: Callable[[str], None] = lambda _: None
) -> ReplaySummary:
    """Sends the documents of files to the stream's input topic, in the files' order; bad rows to the dead letters.

    An event has the document's text, and its key and label where the file tells them; record time is now.

    Args:
      spec: the stream.
      inputs: files or patterns.
      report: is told, in words, what a person should know.
    Raises:
      InputError: a file cannot be used.
      BrokerError: the broker is away, or refuses a record.
    """
    began = time.monotonic()
    files, source = match_files(inputs), TextSource(spec, labelled=False)
    with TopicAdmin(spec.kafka) as admin:
        for warning in prepare_topics(admin, spec, oldest_ms=None, now_ms=time.time_ns() // 1_000_000):
            report(warning)
    with Sender.to(spec, linger_ms=5, report=report) as sender:
        for file in files:
            with open_input(file.path) as opened:
                for found in source.read(opened, file.path):
                    if isinstance(found, Document):
                        sender.send(_document_event(spec, found), key=found.key.encode() or None, time_ms=None)
                    else:
                        sender.bury(found[1])
    return sender.summary(began)


def _document_event(spec: TextSpec, document: Document) -> bytes:
    stream = spec.stream
    event = {stream.text: document.text}
    if stream.key and document.key:
        event[stream.key] = document.key
    if document.label:
        event[stream.label] = document.label
    return orjson.dumps(event)


class Sender:
    """Sends rows to a stream's topics, and waits for the broker now and then."""

    def __init__(self, spec: Spec | TextSpec, producer: KafkaProducer, report: Callable[[str], None]) -> None:
        self._input, self._dead_letters = spec.topics.input.name, spec.topics.dead_letters.name
        self._producer, self._report = producer, report
        self._failures: list[BaseException] = []
        self._sent = self._dead = 0

    @classmethod
    @contextmanager
    def to(cls, spec: Spec | TextSpec, *, linger_ms: int, report: Callable[[str], None]) -> Iterator[Self]:
        """A sender; at the end the broker has everything.

        Raises:
          BrokerError: the broker is away, or refuses a record.
        """
        producer = connect(
            KafkaProducer,
            spec.kafka,
            enable_idempotence=True,
            acks="all",
            compression_type="lz4",
            batch_size=262_144,
            linger_ms=linger_ms,
        )
        sender = cls(spec, producer, report)
        try:
            with broker_errors(spec.topics.input.name):
                yield sender
                producer.flush(timeout=_FLUSH_TIMEOUT_S)
        finally:
            producer.close(timeout=5)
        if failures := sender._failures:
            raise BrokerError(f"{sender._input}: {len(failures)} records were refused: {failures[0]}")

    def send(self, payload: bytes, *, key: bytes | None, time_ms: int | None) -> None:
        """Sends an event; its record time is now where it has none."""
        future = self._producer.send(self._input, key=key, value=payload, timestamp_ms=time_ms)
        future.add_errback(self._failures.append)
        self._sent += 1
        if self._sent % _FLUSH_EVERY == 0:
            self.flush()
            self._report(f"{self._sent} events sent")

    def bury(self, row: DeadRow) -> None:
        """Sends a bad row to the dead letters."""
        letter = DeadLetter(row.source, row.reason, row.detail, row.payload)
        future = self._producer.send(self._dead_letters, value=to_payload(letter), headers=to_headers(letter))
        future.add_errback(self._failures.append)
        self._dead += 1

    def flush(self) -> None:
        """Waits until the broker has all that was sent."""
        self._producer.flush(timeout=_FLUSH_TIMEOUT_S)

    def wait_until(self, moment: float) -> None:
        """Sends nothing more until then, by the monotonic clock."""
        wait_s = moment - time.monotonic()
        if wait_s > 0:
            self.flush()
            time.sleep(wait_s)

    def summary(self, began: float) -> ReplaySummary:
        """What was sent since `began`."""
        return ReplaySummary(self._sent + self._dead, self._sent, self._dead, time.monotonic() - began)
