"""The loop of a process that reads topics as a member of a group, and writes what follows from them, exactly once.

Each turn of the loop is five steps, in this order:

1. poll      read the next records; rebalances happen inside the poll and nowhere else
2. restore   bring newly assigned partitions, a slice at a time, to where the group has committed them
3. stage     work out what the records change and yield; nothing is changed yet
4. work      make of the stages what is to be written, such as predictions; the offsets go ahead meanwhile
5. commit    what was made and the offsets, in one transaction

A process that dies anywhere before the end of step 5 has changed nothing: its successor starts at the last commit and
makes the same again. A transaction is never open during a poll. Where the spec asks for less
(`kafka.delivery: at_least_once`), step 5 writes first and commits the offsets afterwards.
"""

from __future__ import annotations

import logging
import random
import time
from abc import ABC, abstractmethod
from collections.abc import Callable, Collection, Mapping, Sequence
from contextlib import ExitStack, suppress
from threading import Event as StopFlag
from typing import Any

from kafka import KafkaConsumer, TopicPartition
from kafka.consumer.subscription_state import ConsumerRebalanceListener
from kafka.errors import KafkaError, NoOffsetForPartitionError, OffsetOutOfRangeError
from kafka.structs import OffsetAndMetadata

from schemas.errors import BrokerError
from schemas.settings_spec import Kafka
from streaming.checkpoint import Checkpoint
from streaming.commits import CLOSE_TIMEOUT_S, Aborted, Commits, Outbox, Write, is_away, refusal
from streaming.flushes import Flushes
from streaming.kind import Kind
from streaming.live_status import LoopStatus, PartitionStatus, state_bytes
from streaming.restore import REQUEST_TIMEOUT_MS, Restorer
from streaming.stage import LivePartition, Record, Stage
from streaming.topics import TopicAdmin, broker_errors, connect
from streaming.transactions import Transactions

logger = logging.getLogger(__name__)

POLL_MS = 500
JOINING_POLL_MS = 100
"""Of a member without partitions: a poll in which it gets some goes on to its end, with nothing to read yet."""
SLICE_S = 0.25
"""How long the live partitions wait, at a time, for those that are being restored."""
SESSION_TIMEOUT_MS = 10_000
"""After so long the partitions of a member that does not come back go to the others."""
METADATA_MS = 30_000
"""After so long partitions that the topic did not have are seen."""
IDLE_COMMIT_S = 5.0
"""How often a consumer without records commits where it stands. A process that was replaced learns of it by a commit
only: kafka-python keeps a fenced consumer polling."""
ASK_OTHERS_S = 0.5
"""How often a member that is at the end looks whether the others are."""
ORPHANS_S = 10.0
"""How often a member looks for partitions that nobody has."""
STATUS_S = 1.0
"""How often the numbers of the partitions are brought up to date."""
MAX_PAUSE_S = 5.0
MAX_ABORTS = 20
"""So many commits in a row may fail while the broker is there."""


class GroupLoop(ABC):
    """Reads topics until it is told to stop; what it makes of them is its `Kind`'s.

    Args:
      kafka: the broker, and how to commit.
      group: the consumer group.
      topics: what is read.
      assignor: how the group shares the partitions, one of kafka-python's or like them.
      member: a name within the group. A restart under the same name is felt for a moment only (static membership), and
        fences the process that had it.
      until_end: stop at the end that the topics had at the start, instead of waiting for more.
      stopping: once set, `run` ends after the turn that it is in, as `stop` does.
      status: is kept up to date, for others to look at.
      report: is told, in words, what a person should know.
    """

    def __init__(
        self,
        kafka: Kafka,
        group: str,
        topics: Sequence[str],
        *,
        assignor: type[Any],
        member: str,
        until_end: bool,
        stopping: StopFlag | None,
        status: LoopStatus,
        report: Callable[[str], None],
    ) -> None:
        self._kafka, self._group, self._topics, self._assignor = kafka, group, tuple(topics), assignor
        self._until_end = until_end
        self._instance = f"{group}-{member}"
        self._loop_status, self._report = status, report
        self._warmed = 0
        self._partitions: dict[TopicPartition, LivePartition] = {}
        self._assigned: set[TopicPartition] = set()
        self._taken_away: set[TopicPartition] = set()
        self._announced: Collection[TopicPartition] = ()
        self._stopping = stopping or StopFlag()
        self._committed_at = self._asked_at = time.monotonic()
        self._told_at = 0.0
        self._looked_at = time.monotonic()
        self._aborts = 0
        self._pause_s = 0.05

    def stop(self) -> None:
        """Ends the loop after the turn that it is in. Safe to call from a signal handler or another thread."""
        self._stopping.set()

    # --- what a loop is of ---

    @abstractmethod
    def _prepare(self, stack: ExitStack) -> None:
        """Opens what is needed beside Kafka; what is to be closed goes onto the stack."""

    @abstractmethod
    def _make_kind(self, stack: ExitStack) -> Kind:
        """What is made of the records; the consumer is there by now."""

    def _admit(self, batch: dict[TopicPartition, list[Record]]) -> dict[TopicPartition, list[Record]]:
        """What of the records that were polled is taken now; what is not, must be sought again."""
        return batch

    def _ahead(self, stages: dict[TopicPartition, Stage]) -> dict[TopicPartition, Stage]:  # noqa: ARG002
        """The stages whose offsets may go into the transaction during the work: where it is others who work."""
        return {}

    @abstractmethod
    def _work(self, stages: dict[TopicPartition, Stage]) -> Sequence[Any] | None:
        """What is to be written; None where it cannot be had now, and the stages are to be forgotten."""

    @abstractmethod
    def _wrote(self, outputs: Sequence[Any]) -> None:
        """What was written is committed by now: counts it."""

    # --- the loop ---

    def _loop(self) -> None:
        """Turns until it is told to stop, or the end is reached.

        Raises:
          BrokerError: Kafka is unreachable, or another process has taken this one's member name.
        """
        with ExitStack() as stack:
            self._open(stack)
            ends = self._ends() if self._until_end else None
            while not self._stopping.is_set():
                try:
                    if self._is_done(ends):
                        break
                    self._turn()
                except Aborted as exc:
                    self._go_back(str(exc), broker_away=exc.broker_away)
                except KafkaError as exc:
                    if fatal := refusal(self._instance, exc):
                        raise fatal from exc
                    if not is_away(exc) and not isinstance(exc, OffsetOutOfRangeError):
                        raise BrokerError(f"{self._topics[0]}: {exc!r}") from exc
                    self._go_back(repr(exc), broker_away=is_away(exc))

    def _turn(self) -> None:
        batch = self._poll()
        generation = self._consumer.group_metadata()
        self._restore(generation)
        self._adopt(generation)
        batch = self._admit(batch)
        stages = self._stage(batch)
        self._announce(stages, generation)
        outputs = self._work(stages)
        if outputs is None:
            self._abandon()
        else:
            self._commit(stages, outputs, generation)
        self._tell(batch, generation)

    def _open(self, stack: ExitStack) -> None:
        self._prepare(stack)
        self._consumer = connect(
            KafkaConsumer,
            self._kafka,
            group_id=self._group,
            group_instance_id=self._instance,
            client_id=self._instance,
            enable_auto_commit=False,
            auto_offset_reset="none",  # a gap must be seen, not jumped over
            isolation_level="read_committed",
            partition_assignment_strategy=[self._assignor],
            session_timeout_ms=SESSION_TIMEOUT_MS,
            max_poll_records=self._kafka.max_poll_records,
            metadata_max_age_ms=METADATA_MS,
            allow_auto_create_topics=False,
        )
        stack.callback(self._consumer.close, autocommit=False, timeout_ms=int(CLOSE_TIMEOUT_S * 1_000))
        self._restorer = Restorer(self._kafka, f"{self._instance}-restore", self._report)
        stack.callback(self._restorer.close)
        self._commits: Commits
        if self._kafka.delivery == "exactly_once":
            self._commits = Transactions(self._kafka, self._instance, self._stopping)
        else:
            self._commits = Flushes(self._kafka, self._instance, self._consumer, self._stopping)
        stack.callback(self._commits.close)
        with broker_errors(self._topics[0]):
            self._kind = self._make_kind(stack)
            for topic in self._topics:
                self._consumer.partitions_for_topic(topic)  # a leader that knows of none gives none to anybody
            self._consumer.subscribe(list(self._topics), listener=_Listener(self))

    # --- 1. poll ---

    def _poll(self) -> dict[TopicPartition, list[Record]]:
        timeout_ms = 0 if self._restorer.is_busy else POLL_MS if self._partitions else JOINING_POLL_MS
        batch: dict[TopicPartition, list[Record]] = {}
        with suppress(
            NoOffsetForPartitionError
        ):  # of a partition that is new to the group: step 2 says where it begins
            batch = self._consumer.poll(timeout_ms=timeout_ms)
        gone = set()
        while self._taken_away:  # also a partition that came back within the same rebalance
            gone.add(self._taken_away.pop())
        for tp in gone:
            self._partitions.pop(tp, None)
        self._kind.forget(gone)
        self._restorer.drop(gone)
        # What was fetched of a partition before it was taken over came from the wrong place.
        return {tp: records for tp, records in batch.items() if tp in self._partitions}

    # --- 2. restore ---

    def _restore(self, generation: Any) -> None:
        new = sorted(self._assigned - set(self._partitions) - set(self._restorer.partitions))
        if new:
            points, begun = self._kind.checkpoints(new)
            if begun:
                # Committed before anything is read: else what comes between a first start and a restart is skipped.
                self._transact(generation, lambda _: _offsets({tp: points[tp] for tp in begun}))
            readings = {tp: self._kind.reading(tp, point) for tp, point in points.items()}
            self._warmed += sum(r.end - r.position for r in readings.values() if r.place.topic in self._topics)
            self._restorer.begin(readings)
        if self._restorer.is_busy:
            for tp, partition in self._restorer.step(SLICE_S).items():
                self._partitions[tp] = partition
                self._consumer.seek(tp, partition.next_offset)
                self._consumer.resume(tp)
            if not self._restorer.is_busy:
                self._report(f"{self._instance}: {len(self._partitions)} partitions are live")

    def _adopt(self, generation: Any) -> None:
        """Joins again where partitions belong to nobody.

        A group that has settled gives a member that comes back under its name what it had, without another rebalance.
        Where the one before it died in the midst of one, that can be nothing, and partitions on their way from one
        member to another are with neither: kafka-python does not know that the new one has become the group's leader
        (KIP-814), who would see to it. To join again settles it, if it is the leader who does.
        """
        if generation.generation_id < 0 or time.monotonic() < self._looked_at + ORPHANS_S:
            return
        self._looked_at = time.monotonic()
        with suppress(BrokerError), TopicAdmin(self._kafka) as admin:  # a broker that is away: the next time
            for topic in self._topics:
                if orphans := admin.orphans(self._group, topic):
                    self._report(f"{self._instance}: nobody has {topic} {sorted(orphans)}: joins again")
                    self._consumer._coordinator.request_rejoin()

    # --- 3. stage ---

    def _stage(self, batch: Mapping[TopicPartition, Sequence[Record]]) -> dict[TopicPartition, Stage]:
        now_ms = wall_clock_ms()
        return {tp: self._partitions[tp].stage(records, now_ms) for tp, records in batch.items() if records}

    # --- 4. work ---

    def _announce(self, stages: dict[TopicPartition, Stage], generation: Any) -> None:
        """Begins the transaction: the brokers' part of it is done by the time that the work is."""
        ahead = dict(self._ahead(stages))  # the work may add to the stages
        if ahead and self._is_current(generation):
            partitions = dict(self._partitions)

            def write(outbox: Outbox) -> dict[TopicPartition, OffsetAndMetadata]:
                return _offsets(self._kind.points(outbox, ahead, partitions))

            if self._commits.begin(write, generation):
                self._announced = ahead.keys()

    def _abandon(self) -> None:
        self._announced = ()
        self._commits.abandon()

    # --- 5. commit ---

    def _commit(self, stages: dict[TopicPartition, Stage], outputs: Sequence[Any], generation: Any) -> None:
        if not stages:
            if time.monotonic() < self._committed_at + IDLE_COMMIT_S:
                return
            stages = self._idle_stages()
        self._commit_stages(stages, outputs, generation)

    def _idle_stages(self) -> dict[TopicPartition, Stage]:
        return {tp: partition.idle(self._position(tp)) for tp, partition in self._partitions.items()}

    def _commit_stages(self, stages: Mapping[TopicPartition, Stage], outputs: Sequence[Any], generation: Any) -> None:
        self._committed_at = time.monotonic()
        if not stages:
            return
        now_ms = wall_clock_ms()
        rest = {tp: stage for tp, stage in stages.items() if tp not in self._announced}

        def write(outbox: Outbox) -> dict[TopicPartition, OffsetAndMetadata]:
            points = self._kind.points(outbox, rest, self._partitions) if rest else {}
            self._kind.write(outbox, outputs, stages, self._partitions, now_ms)
            return _offsets(points)

        self._transact(generation, write)
        self._announced = ()
        self._loop_status.committed_at = time.monotonic()
        for tp, stage in stages.items():
            self._partitions[tp].apply(stage)
            self._loop_status.counts += stage.counts
        self._wrote(outputs)

    def _transact(self, generation: Any, write: Write) -> None:
        if not self._is_current(generation):
            raise Aborted("the group has given its partitions to another member", broker_away=True)
        self._commits.commit(write, generation)
        self._aborts, self._pause_s = 0, 0.05

    def _is_current(self, generation: Any) -> bool:
        # The broker takes a transactional commit without a generation, unfenced, so this check is ours to make.
        return bool(generation.generation_id >= 0 and generation == self._consumer.group_metadata())

    def _go_back(self, reason: str, *, broker_away: bool) -> None:
        """Forgets what is not committed: the next turn takes every partition over from its checkpoint.

        Raises:
          BrokerError: it was so too often, though the broker is there.
        """
        self._report(f"{self._instance}: nothing of this batch was committed, going back to the last commit: {reason}")
        self._abandon()
        self._loop_status.turned_at, self._loop_status.setback = time.monotonic(), reason
        self._aborts += not broker_away
        if self._aborts > MAX_ABORTS:
            raise BrokerError(f"{self._instance}: {self._aborts} commits failed in a row, the last one with: {reason}")
        self._consumer.pause(*self._consumer.assignment())
        self._kind.forget(self._partitions)
        self._partitions.clear()
        self._restorer.drop(list(self._restorer.partitions))
        self._stopping.wait(self._pause_s * random.uniform(0.5, 1.0))  # noqa: S311 (jitter)
        self._pause_s = min(2 * self._pause_s, MAX_PAUSE_S)

    def _position(self, tp: TopicPartition) -> int:
        return int(self._consumer.position(tp, timeout_ms=REQUEST_TIMEOUT_MS))

    # --- what others see ---

    def _tell(self, batch: Mapping[TopicPartition, Sequence[Record]], generation: Any) -> None:
        status, now = self._loop_status, time.monotonic()
        status.turned_at, status.setback = now, ""
        status.joined = generation.generation_id >= 0
        status.restoring, status.restored = len(list(self._restorer.partitions)), self._restorer.progress
        if batch:
            status.batch_events.add(sum(map(len, batch.values())))
        if now < self._told_at + STATUS_S:
            return
        self._told_at = now
        status.partitions = {
            tp.partition: PartitionStatus(
                lag=max((self._consumer.highwater(tp) or 0) - partition.next_offset, 0),
                clock_ms=partition.clock_ms,
                keys=len(partition.keys),
                state_bytes=state_bytes(partition.keys),
            )
            for tp, partition in self._partitions.items()
            if tp.topic == self._topics[0]
        }

    # --- the end ---

    def _ends(self) -> dict[TopicPartition, int]:
        """Where each partition of the topics ends now."""
        found: dict[TopicPartition, int] = {}
        for topic in self._topics:
            with broker_errors(topic):
                numbers = self._consumer.partitions_for_topic(topic) or ()
                places = [TopicPartition(topic, number) for number in numbers]
                found |= self._consumer.end_offsets(places, timeout_ms=REQUEST_TIMEOUT_MS)
        return found

    def _is_done(self, ends: Mapping[TopicPartition, int] | None) -> bool:
        """Whether the group has done every partition to `ends`; the position also moves past transaction markers."""
        if ends is None or not all(tp in self._partitions for tp in self._assigned):
            return False
        if any(self._position(tp) < ends.get(tp, 0) for tp in self._partitions):
            return False
        others = ends.keys() - self._partitions.keys()
        if not others:
            return True
        if time.monotonic() < self._asked_at + ASK_OTHERS_S:
            return False
        self._asked_at = time.monotonic()
        self._commit_stages(self._idle_stages(), (), self._consumer.group_metadata())
        return all(self._committed(tp) >= ends[tp] for tp in others)

    def _committed(self, tp: TopicPartition) -> int:
        return self._consumer.committed(tp, timeout_ms=REQUEST_TIMEOUT_MS) or 0


class _Listener(ConsumerRebalanceListener):  # type: ignore[misc]
    """Notes what is assigned. It runs on the client's own thread, where nothing may block: the loop does the work."""

    def __init__(self, owner: GroupLoop) -> None:
        self._owner = owner

    def on_partitions_assigned(self, assigned: Sequence[TopicPartition]) -> None:
        self._owner._consumer.pause(*assigned)
        self._owner._assigned |= set(assigned)

    def on_partitions_revoked(self, revoked: Sequence[TopicPartition]) -> None:
        self._owner._assigned -= set(revoked)
        self._owner._taken_away |= set(revoked)


def _offsets(points: Mapping[TopicPartition, Checkpoint]) -> dict[TopicPartition, OffsetAndMetadata]:
    return {tp: OffsetAndMetadata(point.offset, point.metadata(), -1) for tp, point in points.items()}


def wall_clock_ms() -> int:
    """Epoch milliseconds."""
    return time.time_ns() // 1_000_000
