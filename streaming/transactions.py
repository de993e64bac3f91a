"""Exactly once: each commit is one transaction, all or nothing, and never waits for ever.

kafka-python waits for the broker without a limit while it commits or aborts. So each transaction runs in a thread of
its own, and one that is not done in time is given up together with its producer: the next producer takes the same
transactional id, which ends whatever the old one had begun, before anything else is read or written.
"""

from __future__ import annotations

from contextlib import suppress
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
    Outbox,
    Write,
    is_away,
    refusal,
    within_limits,
)
from streaming.topics import broker_errors, connect

RETRY_S = 1.0
TRANSACTION_TIMEOUT_MS = 60_000
"""Longer than a commit may take, so that the broker does not end what we still wait for."""


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

    def close(self) -> None:
        """Closes the connection; an open transaction is ended by the broker."""
        with suppress(KafkaError):
            self._producer.close(timeout=CLOSE_TIMEOUT_S)

    def commit(self, write: Write, generation: Any) -> None:
        """Runs one transaction; see `Commits`."""
        try:
            within_limits(lambda: self._run(write, generation), self._stopping, f"{self._id}-transaction")
        except TimeoutError as exc:
            self._replace_producer()
            raise Aborted("the broker did not answer in time", broker_away=True) from exc
        except KafkaError as exc:
            if fatal := refusal(self._id, exc):
                raise fatal from exc
            try:
                within_limits(self._producer.abort_transaction, self._stopping, f"{self._id}-abort")
            except (KafkaError, TimeoutError):
                self._replace_producer()
            raise Aborted(repr(exc), broker_away=is_away(exc)) from exc

    def _run(self, write: Write, generation: Any) -> None:
        self._producer.begin_transaction()
        outbox = Outbox(self._producer)
        offsets = write(outbox)
        self._producer.send_offsets_to_transaction(offsets, generation)  # while the records are under way
        outbox.flush()  # a record that failed does not always fail the commit, which would wait for ever
        self._producer.commit_transaction()

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
