"""Commits: what a batch yields, written to its topics together with the offsets up to which the input is done.

There are two kinds, `Transactions` (exactly once) and `Flushes` (at least once). What can go wrong is of three kinds:

- retriable: the broker is away, a leader moves. kafka-python tries again by itself, within our deadline.
- abortable: nothing was committed, and the process goes on from its last commit (`Aborted`).
- fatal: it would go wrong again and again, or another process has this one's place (`BrokerError`).
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from concurrent.futures import Future
from threading import Event as StopFlag
from threading import Thread
from typing import Any, Protocol, TypeVar

from kafka import TopicPartition
from kafka.errors import (
    AuthorizationError,
    FencedInstanceIdError,
    InvalidRecordError,
    InvalidTimestampError,
    InvalidTopicError,
    KafkaError,
    KafkaTimeoutError,
    MessageSizeTooLargeError,
    OffsetMetadataTooLargeError,
    PolicyViolationError,
    ProducerFencedError,
    RecordListTooLargeError,
    SaslAuthenticationFailedError,
    UnsupportedForMessageFormatError,
    UnsupportedVersionError,
)
from kafka.structs import OffsetAndMetadata

from schemas.errors import BrokerError
from streaming.bulk_producer import BulkProducer, OutRecord

COMMIT_TIMEOUT_S = 30.0
STOPPING_TIMEOUT_S = 3.0
"""What a commit may still take once the process has been told to end."""
CLOSE_TIMEOUT_S = 1.0

# The default of 16 KiB halves the rate of transactions; a new one must not wait long for the last one's markers.
PRODUCER_SETTINGS: Mapping[str, Any] = {
    "enable_idempotence": True,
    "acks": "all",
    "compression_type": "lz4",
    "batch_size": 262_144,
    "max_request_size": 8 * 2**20,
    "max_block_ms": int(COMMIT_TIMEOUT_S * 1_000),
    "retry_backoff_ms": 5,
}

FENCED = (ProducerFencedError, FencedInstanceIdError)
REFUSED = (
    AuthorizationError,
    InvalidRecordError,
    InvalidTimestampError,
    InvalidTopicError,
    MessageSizeTooLargeError,
    OffsetMetadataTooLargeError,
    PolicyViolationError,
    RecordListTooLargeError,
    SaslAuthenticationFailedError,
    UnsupportedForMessageFormatError,
    UnsupportedVersionError,
)
"""What a broker refuses today it refuses tomorrow."""

Offsets = Mapping[TopicPartition, OffsetAndMetadata]
T = TypeVar("T")


class Aborted(Exception):
    """A commit did not come to be; the process can go on from its last one.

    `broker_away` tells that waiting is all there is to do.
    """

    def __init__(self, reason: str, *, broker_away: bool) -> None:
        super().__init__(reason)
        self.broker_away = broker_away


class Outbox:
    """Sends the records of one commit, and knows what became of them."""

    def __init__(self, producer: BulkProducer) -> None:
        self._producer = producer
        self._sent: list[Any] = []
        self._batches: list[Any] = []

    def expect(self, topic: str, keys: Iterable[bytes]) -> None:
        """Makes what it can ready for records of these keys, which are still to come."""
        self._producer.expect(topic, keys)

    def send_all(self, topic: str, records: Sequence[OutRecord]) -> None:
        """Sends records."""
        self._batches += self._producer.send_all(topic, records)

    def send(
        self,
        topic: str,
        value: bytes | None,
        *,
        key: bytes,
        partition: int,
    ) -> Any:
        """Sends a record, stamped with the wall clock; the future that comes back has its offset after `flush`."""
        future = self._producer.send(topic, value, key=key, partition=partition)
        self._sent.append(future)
        return future

    def flush(self) -> None:
        """Waits until the broker has all that was sent.

        Raises:
          KafkaError: it has not.
        """
        self._producer.flush(timeout=COMMIT_TIMEOUT_S)
        self.check()

    def check(self) -> None:
        """Looks for records that have failed so far: one that never got as far as a partition fails no transaction.

        Raises:
          KafkaError: the first one's.
        """
        for future in self._sent:
            if future.failed():
                raise future.exception
        for batch in self._batches:
            if batch.is_done and (failure := batch.value[2]) is not None:
                raise failure(0)


Write = Callable[[Outbox], Offsets]
"""Sends a batch's records, and tells the offsets to be committed with them."""


class Commits(Protocol):
    """How a member of the group commits: it may begin while the records are still being made."""

    def begin(self, write: Write, generation: Any) -> bool:
        """Begins a commit, and does not wait for it; `commit` or `abandon` ends it.

        Args:
          write: tells offsets that are known by now, on a thread of its own; it may be called once more in `commit`.
          generation: as for `commit`.
        Returns:
          Whether it has begun; else there would be nothing to gain, and `commit` does everything.
        """
        ...

    def commit(self, write: Write, generation: Any) -> None:
        """Writes records and commits offsets, those of `begin` and what is told here.

        Args:
          write: sends the records and tells the offsets.
          generation: the consumer's group metadata, taken right after the poll that read the records.
        Raises:
          Aborted: the offsets were not committed, and this process can go on from its last commit.
          BrokerError: it cannot.
        """
        ...

    def abandon(self) -> None:
        """Takes back what was begun, if anything was.

        Raises:
          BrokerError: another process has this one's place.
        """
        ...

    def close(self) -> None:
        """Closes the connection; what is not committed is left to the broker."""
        ...


def refusal(member: str, error: KafkaError) -> BrokerError | None:
    """What a fatal error is for a person; None of one that is not."""
    causes = (error, *error.args)  # kafka-python wraps what an earlier request of the transaction failed with
    if any(isinstance(cause, FENCED) for cause in causes):
        return BrokerError(
            f"{member}: another process runs under this member name ({type(error).__name__}), or the broker was away "
            "for over a minute; give each process of the group its own --member"
        )
    if any(isinstance(cause, REFUSED) for cause in causes):
        return BrokerError(f"{member}: the broker refuses what is to be written: {error!r}")
    return None


def is_away(error: KafkaError) -> bool:
    """Whether an error says no more than that the broker is not there, or not ready."""
    return bool(error.retriable) or isinstance(error, KafkaTimeoutError)


def in_background(action: Callable[[], T], name: str) -> Future[T]:
    """Does `action` in a thread of its own, which a process that ends does not wait for."""
    done: Future[T] = Future()

    def work() -> None:
        try:
            done.set_result(action())
        except BaseException as exc:
            done.set_exception(exc)

    Thread(target=work, daemon=True, name=name).start()
    return done


def within_limits(action: Callable[[], T], stopping: StopFlag, name: str) -> T:
    """Waits for `action`; raises what it raises, or TimeoutError while it goes on in its thread."""
    done = in_background(action, name)
    give_up = time.monotonic() + COMMIT_TIMEOUT_S
    while time.monotonic() < give_up:
        try:
            return done.result(timeout=0.5)
        except TimeoutError:
            if done.done():
                return done.result()
            if stopping.is_set():
                give_up = min(give_up, time.monotonic() + STOPPING_TIMEOUT_S)
                stopping = StopFlag()  # seen; the time that is left must not begin anew
    raise TimeoutError
