"""The transactions of one member of the group: all or nothing, and never waiting for ever.

kafka-python waits for the broker without a limit while it commits or aborts. So each transaction runs in a thread of
its own, and one that is not done in time is given up together with its producer: the next producer takes the same
transactional id, which ends whatever the old one had begun, before anything else is read or written.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from concurrent.futures import Future
from contextlib import suppress
from threading import Event as StopFlag
from threading import Thread
from typing import Any

from kafka import KafkaProducer, TopicPartition
from kafka.errors import (
    FencedInstanceIdError,
    KafkaError,
    ProducerFencedError,
    TransactionalIdAuthorizationFailedError,
)
from kafka.structs import OffsetAndMetadata

from schemas.errors import BrokerError
from schemas.settings_spec import Kafka
from streaming.topics import broker_errors, connect

COMMIT_TIMEOUT_S = 30.0
STOPPING_TIMEOUT_S = 5.0
"""What a transaction may still take once the process has been told to end."""
CLOSE_TIMEOUT_S = 5.0
RETRY_S = 1.0
TRANSACTION_TIMEOUT_MS = 60_000
"""Longer than `COMMIT_TIMEOUT_S`, so that the broker does not end what we still wait for."""
# The default of 16 KiB halves the rate of transactions; a new one must not wait long for the last one's markers.
BATCH_BYTES = 262_144
RETRY_BACKOFF_MS = 5
MAX_REQUEST_BYTES = 8 * 2**20

_FENCED = (ProducerFencedError, FencedInstanceIdError, TransactionalIdAuthorizationFailedError)

Write = Callable[[KafkaProducer], None]
Offsets = Mapping[TopicPartition, OffsetAndMetadata]


class Aborted(Exception):
    """A transaction did not come to be; nothing of it was or will be committed."""


class Transactions:
    """Commits records and offsets together.

    Args:
      brokers: as for `connect`.
      transactional_id: one for each process; a newer process with the same one takes over.
      stopping: told to end, a commit waits for `STOPPING_TIMEOUT_S` at most.
    Raises:
      BrokerError: no broker answers.
    """

    def __init__(self, brokers: Kafka | str, transactional_id: str, stopping: StopFlag) -> None:
        self._brokers, self._id, self._stopping = brokers, transactional_id, stopping
        self._producer = self._open()

    def close(self) -> None:
        """Closes the connection; an open transaction is ended by the broker."""
        with suppress(KafkaError):
            self._producer.close(timeout=CLOSE_TIMEOUT_S)

    def commit(self, write: Write, offsets: Offsets, generation: Any) -> None:
        """Runs one transaction.

        Args:
          write: sends its records, with the producer that it is given.
          offsets: the consumer's, committed with them.
          generation: the consumer's group metadata, taken right after the poll that read the records.
        Raises:
          Aborted: nothing was committed, and this process can go on from its last commit.
          BrokerError: another process has taken this one's place.
        """
        try:
            self._within_limits(lambda: self._run(write, offsets, generation))
        except _FENCED as exc:
            raise BrokerError(
                f"{self._id}: another process runs under this member name ({type(exc).__name__}), or the broker was "
                f"away for over {TRANSACTION_TIMEOUT_MS // 1_000} s; give each process of the group its own --member"
            ) from exc
        except TimeoutError as exc:
            self._replace_producer()
            raise Aborted("the broker did not answer in time") from exc
        except KafkaError as exc:
            try:
                self._within_limits(self._producer.abort_transaction)
            except (KafkaError, TimeoutError):
                self._replace_producer()
            raise Aborted(repr(exc)) from exc

    def _run(self, write: Write, offsets: Offsets, generation: Any) -> None:
        self._producer.begin_transaction()
        write(self._producer)
        self._producer.send_offsets_to_transaction(offsets, generation)
        self._producer.commit_transaction()

    def _within_limits(self, action: Callable[[], None]) -> None:
        """Waits for `action`; raises what it raises, or TimeoutError while it goes on in its thread."""
        done: Future[None] = Future()

        def work() -> None:
            try:
                action()
            except BaseException as exc:
                done.set_exception(exc)
            else:
                done.set_result(None)

        Thread(target=work, daemon=True, name=f"{self._id}-transaction").start()
        give_up = time.monotonic() + COMMIT_TIMEOUT_S
        while time.monotonic() < give_up:
            try:
                return done.result(timeout=0.5)
            except TimeoutError:
                if done.done():
                    return done.result()
                if self._stopping.is_set():
                    give_up = min(give_up, time.monotonic() + STOPPING_TIMEOUT_S)
        raise TimeoutError

    def _open(self) -> KafkaProducer:
        producer = connect(
            KafkaProducer,
            self._brokers,
            transactional_id=self._id,
            client_id=self._id,
            enable_idempotence=True,
            acks="all",
            compression_type="lz4",
            batch_size=BATCH_BYTES,
            max_request_size=MAX_REQUEST_BYTES,
            max_block_ms=int(COMMIT_TIMEOUT_S * 1_000),
            retry_backoff_ms=RETRY_BACKOFF_MS,
            transaction_timeout_ms=TRANSACTION_TIMEOUT_MS,
        )
        try:
            with broker_errors(f"transactional id {self._id}"):
                producer.init_transactions()
        except BrokerError:
            with suppress(KafkaError):
                producer.close(timeout=0)
            raise
        return producer

    def _replace_producer(self) -> None:
        """Ends what the old producer had begun, however long the broker is away; told to end, leaves it as it is."""
        with suppress(KafkaError):
            self._producer.close(timeout=0)
        while not self._stopping.is_set():
            try:
                self._producer = self._open()
                return
            except BrokerError:
                self._stopping.wait(RETRY_S)
