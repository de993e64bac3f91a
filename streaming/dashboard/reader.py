"""The topics of a stream, read from near their ends on, for as long as it takes: a broker that goes comes back."""

from __future__ import annotations

import logging
import time
from collections import Counter
from collections.abc import Mapping, Sequence
from contextlib import ExitStack, suppress
from threading import Event as StopFlag
from threading import Thread
from typing import Any, Protocol, Self

from kafka import KafkaAdminClient, KafkaConsumer, TopicPartition
from kafka.errors import KafkaError

from schemas.errors import TidegaugeError
from schemas.settings_spec import Kafka
from streaming.commits import CLOSE_TIMEOUT_S
from streaming.dashboard.vitals import Look
from streaming.restore import REQUEST_TIMEOUT_MS
from streaming.stage import Record
from streaming.topics import connect

logger = logging.getLogger(__name__)

POLL_MS = 250
POLL_RECORDS = 5_000
LOOK_S = 3.0
"""How often the ends of the topics, and what the group has committed, are looked at."""
MAX_PAUSE_S = 5.0
CLIENT_ID = "tidegauge-dashboard"


class Taker(Protocol):
    """What is done with records; called from the reader's thread."""

    def take(self, topic: str, partition: int, records: Sequence[Record], now_ms: int) -> None:
        """The next records of a partition."""
        ...

    def look(self, look: Look, topics: Mapping[str, TopicState]) -> None:
        """How far things are."""
        ...

    def away(self, problem: str) -> None:
        """The broker does not answer."""
        ...


class TopicState:
    """How far a topic has been read; `None` as `behind` is a topic that there is not."""

    def __init__(self) -> None:
        self.read = 0
        self.left_out = 0
        self.behind: int | None = None

    def document(self) -> dict[str, int | None]:
        """The same by name."""
        return {"read": self.read, "left_out": self.left_out, "behind": self.behind}


class TopicReader:
    """Reads some topics in a thread of its own, as a member of no group. A context manager.

    It begins `tail` records before the end of each topic, shared by its partitions. Where it falls twice as far behind
    it goes on from there again, and counts what it leaves out: what is shown is what is new.

    Args:
      kafka: the broker.
      topics: which; one that does not exist is read once it does.
      events: the one whose rate is told, and what `group` has committed of it.
      predictions: the one whose records are counted.
      group: of `tidegauge stream`.
      taker: is given what comes.
      tail: records of each topic.
    """

    def __init__(
        self,
        kafka: Kafka,
        topics: Sequence[str],
        *,
        events: str,
        predictions: str,
        group: str,
        taker: Taker,
        tail: int,
    ) -> None:
        self._kafka, self._events, self._predictions, self._group = kafka, events, predictions, group
        self._taker, self._tail = taker, tail
        self._position: dict[TopicPartition, int] = {}
        self._states = {topic: TopicState() for topic in topics}
        self._is_new = False
        """Whether the predictions that come are new, and not what there was before."""
        self._stopping = StopFlag()
        self._thread = Thread(target=self._run, name="topics", daemon=True)

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stopping.set()
        self._thread.join()

    def _run(self) -> None:
        pause_s = 0.5
        while not self._stopping.is_set():
            begun = time.monotonic()
            try:
                with ExitStack() as stack:
                    self._read(stack)
            except (KafkaError, TidegaugeError) as exc:
                self._taker.away(str(exc) or type(exc).__name__)
            except Exception:  # a page that stands still and looks alive is worse than any of them
                logger.exception("reading %s goes on from where it was", self._kafka.bootstrap_servers)
                self._taker.away("an unexpected error; see the log")
            pause_s = 0.5 if time.monotonic() - begun > 2 * LOOK_S else min(2 * pause_s, MAX_PAUSE_S)
            self._stopping.wait(pause_s)

    def _read(self, stack: ExitStack) -> None:
        """Reads until it is told to stop.

        Raises:
          BrokerError, KafkaError: the broker is away, or refuses us.
        """
        admin = connect(KafkaAdminClient, self._kafka, client_id=CLIENT_ID, request_timeout_ms=REQUEST_TIMEOUT_MS)
        stack.callback(admin.close)
        consumer = connect(
            KafkaConsumer,
            self._kafka,
            client_id=CLIENT_ID,
            enable_auto_commit=False,
            auto_offset_reset="earliest",  # of what was deleted meanwhile
            isolation_level="read_committed",
            max_poll_records=POLL_RECORDS,
            allow_auto_create_topics=False,
        )
        stack.callback(consumer.close, timeout_ms=int(CLOSE_TIMEOUT_S * 1_000))
        looked_at = 0.0
        while not self._stopping.is_set():
            if time.monotonic() >= looked_at + LOOK_S:
                looked_at = time.monotonic()
                self._look(consumer, admin)
            if not consumer.assignment():
                self._stopping.wait(POLL_MS / 1_000)
                continue
            now_ms = time.time_ns() // 1_000_000
            for tp, records in consumer.poll(timeout_ms=POLL_MS).items():
                self._position[tp] = records[-1].offset + 1  # first, so that nothing is stumbled over again and again
                self._states[tp.topic].read += len(records)
                self._taker.take(tp.topic, tp.partition, records, now_ms)

    def _look(self, consumer: KafkaConsumer, admin: KafkaAdminClient) -> None:
        places = [
            TopicPartition(topic, number)
            for topic in self._states
            for number in sorted(consumer.partitions_for_topic(topic) or ())
        ]
        ends = consumer.end_offsets(places, timeout_ms=REQUEST_TIMEOUT_MS) if places else {}
        if set(places) != consumer.assignment():
            self._assign(consumer, ends)
        self._catch_up(consumer, ends)
        behind: Counter[str] = Counter()
        for tp, end in ends.items():
            behind[tp.topic] += max(end - consumer.position(tp, timeout_ms=REQUEST_TIMEOUT_MS), 0)
        for topic, state in self._states.items():
            state.behind = behind[topic] if any(tp.topic == topic for tp in places) else None
        predictions = self._states[self._predictions]
        self._is_new = self._is_new or predictions.behind == 0
        look = Look(
            time_s=time.monotonic(),
            time_ms=time.time_ns() // 1_000_000,
            events=sum(end for tp, end in ends.items() if tp.topic == self._events),
            predictions=predictions.read + predictions.left_out if self._is_new else None,
            lag_records=self._lag(admin, {tp: end for tp, end in ends.items() if tp.topic == self._events}),
        )
        self._taker.look(look, self._states)

    def _assign(self, consumer: KafkaConsumer, ends: Mapping[TopicPartition, int]) -> None:
        """Reads all partitions there are, each from where it was, or from near its end."""
        beginnings = consumer.beginning_offsets(list(ends), timeout_ms=REQUEST_TIMEOUT_MS)
        consumer.assign(list(ends))
        for tp, end in ends.items():
            begin, known = beginnings[tp], self._position.get(tp)
            start = known if known is not None and begin <= known <= end else max(begin, end - self._tail_of(tp, ends))
            consumer.seek(tp, start)

    def _catch_up(self, consumer: KafkaConsumer, ends: Mapping[TopicPartition, int]) -> None:
        for tp, end in ends.items():
            position = consumer.position(tp, timeout_ms=REQUEST_TIMEOUT_MS)
            tail = self._tail_of(tp, ends)
            if end - position > 2 * tail:
                consumer.seek(tp, end - tail)
                self._states[tp.topic].left_out += end - tail - position

    def _tail_of(self, tp: TopicPartition, ends: Mapping[TopicPartition, int]) -> int:
        sharing = [one for one in ends if one.topic == tp.topic]
        return -(-self._tail // len(sharing))

    def _lag(self, admin: KafkaAdminClient, ends: Mapping[TopicPartition, int]) -> int | None:
        """How many events the group is behind; None where it has committed nothing, or we may not know."""
        committed: Mapping[TopicPartition, Any] = {}
        with suppress(KafkaError):  # also of a new broker, whose coordinator is not there yet
            committed = admin.list_group_offsets({self._group: list(ends)})[self._group]
        known = {tp: int(place.offset) for tp, place in committed.items() if place.offset >= 0}
        if not known:
            return None
        return sum(max(ends[tp] - offset, 0) for tp, offset in known.items() if tp in ends)
