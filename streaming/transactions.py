"""Exactly once: each commit is one transaction, all or nothing, and never waits for ever.

kafka-python waits for the broker without a limit while it commits or aborts. So each transaction runs in a thread of
its own, and one that is not done in time is given up together with its producer: the next producer takes the same
transactional id, which ends whatever the old one had begun, before anything else is read or written.
"""

from __future__ import annotations

import time
from concurrent.futures import Future
from contextlib import suppress
from dataclasses import dataclass
from functools import partial
from threading import Event as StopFlag
from typing import Any

from kafka.errors import KafkaError

from schemas.errors import BrokerError
from schemas.settings_spec import Kafka
from streaming.bulk_producer import BulkProducer
from streaming.commits import (
    CLOSE_TIMEOUT_S,
    PRODUCER_SETTINGS,
    Aborted,
    Offsets,
    Outbox,
    Write,
    in_background,
    is_away,
    refusal,
    within_limits,
)
from streaming.topics import broker_errors, connect

RETRY_S = 1.0
TRANSACTION_TIMEOUT_MS = 60_000
"""Longer than a commit may take, so that the broker does not end what we still wait for."""
MOST_AHEAD_S = 15.0
"""A transaction that was begun longer ago is begun again: what is left of its time must do for a commit."""


@dataclass(frozen=True, slots=True)
class _Begun:
    """A transaction that was begun, at a time of the monotonic clock, and what it began with."""

    write: Write
    opened: Future[Outbox]
    at: float


class Transactions:
    """Commits records and offsets together, or neither.

    Args:
      brokers: as for `connect`.
      transactional_id: one for each process; a newer process with the same one takes over.
      stopping: told to end, a commit is given up soon.
    Raises:
      BrokerError: no broker answers.
    """

    def __init__(self, brokers: Kafka | str, transactional_id: str, stopping: StopFlag) -> None:
        self._brokers, self._id, self._stopping = brokers, transactional_id, stopping
        self._producer = self._open()
        self._begun: _Begun | None = None

    def close(self) -> None:
        """Closes the connection; an open transaction is ended by the broker."""
        with suppress(KafkaError):
            self._producer.close(timeout=CLOSE_TIMEOUT_S)

    def begin(self, write: Write, generation: Any) -> bool:
        """Begins a transaction with the offsets that are known; see `Commits`."""
        opened = in_background(partial(_begin, self._producer, write, generation), f"{self._id}-begin")
        self._begun = _Begun(write, opened, time.monotonic())
        return True

    def commit(self, write: Write, generation: Any) -> None:
        """Runs one transaction, or the rest of the one that was begun; see `Commits`."""
        if self._begun is not None and time.monotonic() > self._begun.at + MOST_AHEAD_S:
            again = self._begun.write
            self.abandon()
            self.begin(again, generation)
        producer, begun = self._producer, self._begun
        self._begun = None

        def run() -> None:
            if begun is None:
                outbox = _begin(producer, write, generation)
            else:
                outbox = begun.opened.result()
                _send_offsets(producer, write(outbox), generation)
            outbox.flush()  # a record that failed does not always fail the commit, which would wait for ever
            producer.commit_transaction()

        try:
            within_limits(run, self._stopping, f"{self._id}-transaction")
        except TimeoutError as exc:
            self._replace_producer()
            raise Aborted("the broker did not answer in time", broker_away=True) from exc
        except KafkaError as exc:
            if fatal := refusal(self._id, exc):
                raise fatal from exc
            self._abort()
            raise Aborted(repr(exc), broker_away=is_away(exc)) from exc

    def abandon(self) -> None:
        """Aborts the transaction that was begun; see `Commits`."""
        begun, self._begun = self._begun, None
        if begun is None:
            return
        try:
            within_limits(begun.opened.result, self._stopping, f"{self._id}-begun")
        except TimeoutError:
            self._replace_producer()
            return
        except KafkaError as exc:
            if fatal := refusal(self._id, exc):
                raise fatal from exc
        self._abort()

    def _abort(self) -> None:
        try:
            within_limits(self._producer.abort_transaction, self._stopping, f"{self._id}-abort")
        except (KafkaError, TimeoutError):
            self._replace_producer()

    def _open(self) -> BulkProducer:
        producer = connect(
            BulkProducer,
            self._brokers,
            transactional_id=self._id,
            client_id=self._id,
            transaction_timeout_ms=TRANSACTION_TIMEOUT_MS,
            **PRODUCER_SETTINGS,
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


def _begin(producer: BulkProducer, write: Write, generation: Any) -> Outbox:
    producer.begin_transaction()
    outbox = Outbox(producer)
    _send_offsets(producer, write(outbox), generation)  # while the records are under way
    return outbox


def _send_offsets(producer: BulkProducer, offsets: Offsets, generation: Any) -> None:
    if offsets:
        producer.send_offsets_to_transaction(offsets, generation)
