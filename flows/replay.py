"""Replay: plays files into the input topic, in event-time order, as fast as told."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from kafka import KafkaProducer

from flows.history import History
from schemas.dead_letter import DeadLetter
from schemas.errors import BrokerError, InputError
from schemas.spec import Spec
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
    producer = connect(
        KafkaProducer,
        spec.kafka,
        enable_idempotence=True,
        acks="all",
        compression_type="lz4",
        batch_size=262_144,
        linger_ms=5 if speed is None else 0,
    )
    failures: list[BaseException] = []
    try:
        with broker_errors(spec.topics.input.name):
            for count, (key, time_ms, payload) in enumerate(
                zip(history.key, history.time_ms.tolist(), history.payloads(spec), strict=True), start=1
            ):
                if speed is not None and oldest_ms is not None:
                    _sleep_until(began + (time_ms - oldest_ms) / 1_000 / speed, producer)
                future = producer.send(spec.topics.input.name, key=key.encode(), value=payload, timestamp_ms=time_ms)
                future.add_errback(failures.append)
                if count % _FLUSH_EVERY == 0:
                    producer.flush(timeout=_FLUSH_TIMEOUT_S)
                    report(f"{count} of {len(history)} events sent")
            for row in history.dead:
                letter = DeadLetter(row.source, row.reason, row.detail, row.payload)
                future = producer.send(
                    spec.topics.dead_letters.name, value=to_payload(letter), headers=to_headers(letter)
                )
                future.add_errback(failures.append)
            producer.flush(timeout=_FLUSH_TIMEOUT_S)
    finally:
        producer.close(timeout=5)
    if failures:
        raise BrokerError(f"{spec.topics.input.name}: {len(failures)} records were refused: {failures[0]}")
    sent, dead = len(history), len(history.dead)
    return ReplaySummary(sent + dead, sent, dead, time.monotonic() - began)


def _sleep_until(moment: float, producer: KafkaProducer) -> None:
    wait_s = moment - time.monotonic()
    if wait_s > 0:
        producer.flush(timeout=_FLUSH_TIMEOUT_S)
        time.sleep(wait_s)
