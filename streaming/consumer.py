"""The live path: events in, windows, predictions out, exactly once.

Each turn of the loop is five steps, in this order:

1. poll      read the next records; rebalances happen inside the poll and nowhere else
2. restore   bring newly assigned partitions, a slice at a time, to where the group has committed them
3. stage     work out windows (or documents), late events and dead letters; nothing is changed yet
4. predict   ask the model server, in batches across keys and partitions
5. commit    the predictions, the late events, the dead letters and the offsets, in one transaction

A process that dies anywhere before the end of step 5 has changed nothing: its successor starts at the last commit and
predicts the same windows. A transaction is never open during a poll. Where the spec asks for less
(`kafka.delivery: at_least_once`), step 5 writes first and commits the offsets afterwards.
"""

from __future__ import annotations

import logging
import random
import time
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack, suppress
from dataclasses import dataclass, field
from threading import Event as StopFlag
from typing import Any

from kafka import KafkaConsumer, TopicPartition
from kafka.consumer.subscription_state import ConsumerRebalanceListener
from kafka.coordinator.assignors.cooperative_sticky import CooperativeStickyAssignor
from kafka.errors import KafkaError, NoOffsetForPartitionError, OffsetOutOfRangeError
from kafka.structs import OffsetAndMetadata

from schemas.errors import BrokerError, ServingError
from schemas.prediction import Prediction
from schemas.spec import Spec
from schemas.text_prediction import TextPrediction
from schemas.text_spec import TextSpec
from streaming.beside import Beside
from streaming.checkpoint import Checkpoint
from streaming.commits import CLOSE_TIMEOUT_S, Aborted, Commits, Outbox, Write, is_away, refusal
from streaming.flushes import Flushes
from streaming.input_topic import Start
from streaming.kind import Kind, Means
from streaming.live_status import LiveStatus, PartitionStatus, state_bytes
from streaming.restore import REQUEST_TIMEOUT_MS, Restorer
from streaming.series import Series
from streaming.serving_client import ServingClient
from streaming.stage import LivePartition, Record, Stage
from streaming.stream_topics import prepare_topics
from streaming.takeover import Seeds
from streaming.texts import Texts
from streaming.topics import TopicAdmin, broker_errors, connect
from streaming.transactions import Transactions

logger = logging.getLogger(__name__)

POLL_MS = 500
SLICE_S = 0.25
"""How long the live partitions wait, at a time, for those that are being restored."""
SESSION_TIMEOUT_MS = 10_000
"""After so long the partitions of a member that does not come back go to the others."""
METADATA_MS = 30_000
"""After so long partitions that the topic did not have are seen."""
IDLE_COMMIT_S = 5.0
"""How often a consumer without events commits where it stands. A process that was replaced learns of it by a commit
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

OUTCOMES = ("in", "used", "duplicate", "late", "dead")
_COUNTED_AS = {"champion": "predictions"}


@dataclass(slots=True)
class StreamSummary:
    """What a run of the consumer did; in = used + duplicate + late + dead."""

    counts: Counter[str] = field(default_factory=Counter)
    warmed: int = 0
    """Events read only to rebuild windows; their output was suppressed."""

    def document(self) -> dict[str, int]:
        """All counts by name."""
        names = (*OUTCOMES, "predictions", "canary", "provisional", "warming", "refused", "shadow", "shadow_missed")
        return {name: self.counts[name] for name in names} | {"warmed": self.warmed}


class StreamConsumer:
    """Predicts the windows, or the documents, of one stream, until it is told to stop.

    Args:
      spec: the stream.
      member: a name within the consumer group. A restart under the same name is felt for a moment only (static
        membership), and fences the process that had it.
      start: where to begin when the group has committed nothing.
      seeds: states of keys from a dataset, for windows that reach back before the topic does; not of texts.
      until_end: stop at the end that the topic had at the start, instead of waiting for more.
      wait_s: how long to wait for the model server at the start, in seconds.
      stopping: once set, `run` ends after the turn that it is in, as `stop` does.
      status: is kept up to date, for others to look at.
      report: is told, in words, what a person should know.
    """

    def __init__(
        self,
        spec: Spec | TextSpec,
        *,
        member: str = "0",
        start: Start = "latest",
        seeds: Seeds | None = None,
        until_end: bool = False,
        wait_s: float = 10.0,
        stopping: StopFlag | None = None,
        status: LiveStatus | None = None,
        report: Callable[[str], None] = logger.info,
    ) -> None:
        self._status = status or LiveStatus()
        self.summary = StreamSummary(self._status.counts)
        self._spec, self._start, self._seeds = spec, start, seeds
        self._until_end, self._wait_s = until_end, wait_s
        self._instance = f"{spec.group}-{member}"
        self._topic = spec.topics.input.name
        self._report = report
        self._partitions: dict[TopicPartition, LivePartition] = {}
        self._assigned: set[TopicPartition] = set()
        self._taken_away: set[TopicPartition] = set()
        self._stopping = stopping or StopFlag()
        self._committed_at = self._asked_at = time.monotonic()
        self._told_at = 0.0
        self._looked_at = time.monotonic()
        self._aborts = 0
        self._pause_s = 0.05

    def stop(self) -> None:
        """Ends `run` after the turn that it is in. Safe to call from a signal handler or another thread."""
        self._stopping.set()

    def run(self) -> StreamSummary:
        """Consumes and predicts.

        Raises:
          BrokerError: Kafka is unreachable, or another process has taken this one's member name.
          ServingError: at the start, the model server has not the model, or one of other windows. Later that is waited
            for.
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
                        raise BrokerError(f"{self._topic}: {exc!r}") from exc
                    self._go_back(repr(exc), broker_away=is_away(exc))
        return self.summary

    def _turn(self) -> None:
        batch = self._poll()
        generation = self._consumer.group_metadata()
        self._restore(generation)
        self._adopt(generation)
        self._probe()
        stages = self._stage(batch)
        try:
            predictions = self._predict(stages)
        except ServingError as exc:
            self._hold(str(exc))
        else:
            self._commit(stages, predictions, generation)
        self._tell(batch, generation)

    def _open(self, stack: ExitStack) -> None:
        kafka = self._spec.kafka
        with TopicAdmin(kafka) as admin:
            for warning in prepare_topics(admin, self._spec, oldest_ms=None, now_ms=_now_ms()):
                self._report(warning)
        self._client = client = stack.enter_context(ServingClient(self._spec, self._stopping))
        version = client.wait_until_available(self._wait_s)
        self._report(f"model {client.model} version {version} at {client.address} is ready")
        self._consumer = connect(
            KafkaConsumer,
            kafka,
            group_id=self._spec.group,
            group_instance_id=self._instance,
            client_id=self._instance,
            enable_auto_commit=False,
            auto_offset_reset="none",  # a gap must be seen, not jumped over
            isolation_level="read_committed",
            partition_assignment_strategy=[CooperativeStickyAssignor],
            session_timeout_ms=SESSION_TIMEOUT_MS,
            max_poll_records=kafka.max_poll_records,
            metadata_max_age_ms=METADATA_MS,
            allow_auto_create_topics=False,
        )
        stack.callback(self._consumer.close, autocommit=False, timeout_ms=int(CLOSE_TIMEOUT_S * 1_000))
        self._restorer = Restorer(kafka, f"{self._instance}-restore", self._report)
        stack.callback(self._restorer.close)
        self._commits: Commits
        if kafka.delivery == "exactly_once":
            self._commits = Transactions(kafka, self._instance, self._stopping)
        else:
            self._commits = Flushes(kafka, self._instance, self._consumer, self._stopping)
        stack.callback(self._commits.close)
        means = Means(
            self._consumer,
            client,
            self._start,
            self._stopping,
            on_answer=self._status.answered,
            report=self._report,
            beside=self._beside(client, stack),
        )
        with broker_errors(self._topic):
            self._kind: Kind = (
                Texts(self._spec, means) if isinstance(self._spec, TextSpec) else Series(self._spec, means, self._seeds)
            )
            self._consumer.partitions_for_topic(self._topic)  # a leader that knows of none gives none to anybody
            self._consumer.subscribe([self._topic], listener=_Listener(self))

    def _beside(self, client: ServingClient, stack: ExitStack) -> Beside | None:
        serving, counts = self._spec.serving, self.summary.counts
        if serving.shadow is None and serving.canary is None:
            return None

        def missed(rows: int) -> None:
            counts["shadow_missed"] += rows

        return stack.enter_context(Beside(serving, client, report=self._report, on_missed=missed))

    # --- 1. poll ---

    def _poll(self) -> dict[TopicPartition, list[Record]]:
        timeout_ms = 0 if self._restorer.is_busy else POLL_MS
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
            self.summary.warmed += sum(r.end - r.position for r in readings.values() if r.place.topic == self._topic)
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
        with suppress(BrokerError), TopicAdmin(self._spec.kafka) as admin:  # a broker that is away: the next time
            if orphans := admin.orphans(self._spec.group, self._topic):
                self._report(f"{self._instance}: nobody has the partitions {sorted(orphans)}: joins again")
                self._consumer._coordinator.request_rejoin()

    # --- 3. stage ---

    def _stage(self, batch: Mapping[TopicPartition, Sequence[Record]]) -> dict[TopicPartition, Stage]:
        now_ms = _now_ms()
        return {tp: self._partitions[tp].stage(records, now_ms) for tp, records in batch.items() if records}

    # --- 4. predict ---

    def _predict(self, stages: dict[TopicPartition, Stage]) -> list[Prediction | TextPrediction]:
        predictions = list(self._kind.predict(stages))
        if predictions:
            self._status.breaker.answered()
            self._status.model_version = self._client.version
        if not self._status.breaker.reason:
            predictions += self._kind.provisional(self._partitions, stages, self._end_position)
        return predictions

    def _hold(self, reason: str) -> None:
        """Reads what could not be predicted again later, and nothing else until the model server answers."""
        self._report(f"{self._instance}: waiting for the model server: {reason}")
        self._status.breaker.trip(reason)
        for tp, partition in self._partitions.items():
            self._consumer.seek(tp, partition.next_offset)
        self._consumer.pause(*self._partitions)
        self._kind.forget(self._partitions)

    def _probe(self) -> None:
        """While it is waited for, looks now and then whether the model server is back; polls go on meanwhile."""
        breaker = self._status.breaker
        if breaker.may_probe():
            try:
                self._client.probe()
            except ServingError as exc:
                breaker.trip(str(exc))
            else:
                breaker.close()
                self._consumer.resume(*self._partitions)
                self._report(f"{self._instance}: the model server is back")
        if breaker.state != "closed":
            self._consumer.pause(*self._partitions)  # also those that were restored meanwhile

    # --- 5. commit ---

    def _commit(
        self, stages: dict[TopicPartition, Stage], predictions: list[Prediction | TextPrediction], generation: Any
    ) -> None:
        if not stages:
            if time.monotonic() < self._committed_at + IDLE_COMMIT_S:
                return
            stages = self._idle_stages()
        self._commit_stages(stages, predictions, generation)

    def _idle_stages(self) -> dict[TopicPartition, Stage]:
        return {tp: partition.idle(self._position(tp)) for tp, partition in self._partitions.items()}

    def _commit_stages(
        self,
        stages: Mapping[TopicPartition, Stage],
        predictions: Sequence[Prediction | TextPrediction],
        generation: Any,
    ) -> None:
        self._committed_at = time.monotonic()
        if not stages:
            return
        now_ms = _now_ms()

        def write(outbox: Outbox) -> dict[TopicPartition, OffsetAndMetadata]:
            return _offsets(self._kind.write(outbox, predictions, stages, self._partitions, now_ms))

        self._transact(generation, write)
        self._status.committed_at = time.monotonic()
        for tp, stage in stages.items():
            self._partitions[tp].apply(stage)
            self.summary.counts += stage.counts
        for prediction in predictions:
            self.summary.counts[_COUNTED_AS.get(prediction.role, prediction.role)] += 1

    def _transact(self, generation: Any, write: Write) -> None:
        # The broker takes a transactional commit without a generation, unfenced, so this check is ours to make.
        if generation.generation_id < 0 or generation != self._consumer.group_metadata():
            raise Aborted("the group has given its partitions to another member", broker_away=True)
        self._commits.commit(write, generation)
        self._aborts, self._pause_s = 0, 0.05

    def _go_back(self, reason: str, *, broker_away: bool) -> None:
        """Forgets what is not committed: the next turn takes every partition over from its checkpoint.

        Raises:
          BrokerError: it was so too often, though the broker is there.
        """
        self._report(f"{self._instance}: nothing of this batch was committed, going back to the last commit: {reason}")
        self._status.turned_at, self._status.setback = time.monotonic(), reason
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

    def _end_position(self, tp: TopicPartition) -> int | None:
        """The position in a partition that is read to its end, None of any other."""
        end, position = self._consumer.highwater(tp), self._position(tp)
        return position if end is not None and position >= end else None

    # --- what others see ---

    def _tell(self, batch: Mapping[TopicPartition, Sequence[Record]], generation: Any) -> None:
        status, now = self._status, time.monotonic()
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
        }

    # --- the end ---

    def _ends(self) -> dict[TopicPartition, int]:
        with broker_errors(self._topic):
            numbers = self._consumer.partitions_for_topic(self._topic) or ()
            topic = [TopicPartition(self._topic, number) for number in numbers]
            ends: dict[TopicPartition, int] = self._consumer.end_offsets(topic, timeout_ms=REQUEST_TIMEOUT_MS)
            return ends

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

    def __init__(self, owner: StreamConsumer) -> None:
        self._owner = owner

    def on_partitions_assigned(self, assigned: Sequence[TopicPartition]) -> None:
        self._owner._consumer.pause(*assigned)
        self._owner._assigned |= set(assigned)

    def on_partitions_revoked(self, revoked: Sequence[TopicPartition]) -> None:
        self._owner._assigned -= set(revoked)
        self._owner._taken_away |= set(revoked)


def _offsets(points: Mapping[TopicPartition, Checkpoint]) -> dict[TopicPartition, OffsetAndMetadata]:
    return {tp: OffsetAndMetadata(point.offset, point.metadata(), -1) for tp, point in points.items()}


def _now_ms() -> int:
    return time.time_ns() // 1_000_000
