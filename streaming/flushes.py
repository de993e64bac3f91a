"""At least once: what a batch yields is written first, and when the broker has it, the offsets are committed.

A process that dies between the two writes the same records again when it is back: those who read must expect records
twice, with the same id. So offsets are committed while the next batch is worked on; only where that went wrong, the
next commit is waited for.
"""

from __future__ import annotations

from contextlib import suppress
from threading import Event
from threading import Event as StopFlag
from typing import Any

from kafka import KafkaConsumer
from kafka.errors import KafkaError

from schemas.settings_spec import Kafka
from streaming.bulk_producer import BulkProducer
from streaming.commits import (
    CLOSE_TIMEOUT_S,
    COMMIT_TIMEOUT_S,
    PRODUCER_SETTINGS,
    STOPPING_TIMEOUT_S,
    Aborted,
    Offsets,
    Outbox,
    Write,
    is_away,
    refusal,
    within_limits,
)
from streaming.topics import connect

REQUEST_TIMEOUT_MS = 10_000


class Flushes:
    """Writes records, then commits offsets.

    Args:
      brokers: as for `connect`.
      member: this process, for messages.
      consumer: a member of the group, which commits.
      stopping: told to end, a commit is given up soon.
    Raises:
      BrokerError: no broker answers.
    """

    def __init__(self, brokers: Kafka | str, member: str, consumer: KafkaConsumer, stopping: StopFlag) -> None:
        self._member, self._consumer, self._stopping = member, consumer, stopping
        self._offsets: Offsets = {}
        self._under_way: Any = None
        self._ended = Event()
        self._producer = connect(
            BulkProducer,
            brokers,
            client_id=member,
            delivery_timeout_ms=int(COMMIT_TIMEOUT_S * 1_000),
            request_timeout_ms=REQUEST_TIMEOUT_MS,
            **PRODUCER_SETTINGS,
        )

    def close(self) -> None:
        """Closes the connection; what is not flushed is written again by the next process."""
        with suppress(KafkaError):
            if self._offsets and not self._came_through():
                self._commit(self._offsets)
        with suppress(KafkaError):
            self._producer.close(timeout=CLOSE_TIMEOUT_S)

    def begin(self, write: Write, generation: Any) -> bool:  # noqa: ARG002
        """Nothing: offsets come last."""
        return False

    def abandon(self) -> None:
        """Nothing was begun."""

    def commit(self, write: Write, generation: Any) -> None:  # noqa: ARG002 (the consumer has its own)
        """Writes, flushes and commits; see `Commits`."""
        offsets: Offsets = {}

        def flush() -> None:
            nonlocal offsets
            outbox = Outbox(self._producer)
            offsets = write(outbox)
            outbox.flush()

        try:
            within_limits(flush, self._stopping, f"{self._member}-flush")
            if self._came_through():
                self._commit_beside(offsets)
            else:
                self._commit(offsets)
        except TimeoutError as exc:
            raise Aborted("the broker did not answer in time", broker_away=True) from exc
        except KafkaError as exc:
            if fatal := refusal(self._member, exc):
                raise fatal from exc
            raise Aborted(repr(exc), broker_away=is_away(exc)) from exc

    def _commit_beside(self, offsets: Offsets) -> None:
        """Commits offsets, and does not wait for it."""
        self._ended = ended = Event()
        self._offsets, self._under_way = offsets, self._consumer.commit_async(dict(offsets))
        self._under_way.add_both(lambda _: ended.set())

    def _came_through(self) -> bool:
        """Whether the last offsets were committed, if there were any; waits for that."""
        if self._under_way is None:
            return True
        return self._ended.wait(STOPPING_TIMEOUT_S) and bool(self._under_way.succeeded())

    def _commit(self, offsets: Offsets) -> None:
        """Commits offsets in place of those before. Tries again where that helps, and says what is wrong."""
        self._offsets, self._under_way = {}, None
        self._consumer.commit(dict(offsets), timeout_ms=int(STOPPING_TIMEOUT_S * 1_000))
