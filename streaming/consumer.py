"""The live path: events in, windows, predictions out, exactly once.

Each turn of the loop is five steps, in this order:

1. poll      read the next records; rebalances happen inside the poll and nowhere else
2. restore   take over newly assigned partitions: from their checkpoint, or as `--from` says
3. stage     work out windows, late events and dead letters; nothing is changed yet
4. predict   ask the model server, in batches across keys and partitions
5. commit    one transaction holds the predictions, the late events, the dead letters and the offsets

A process that dies anywhere before the end of step 5 has changed nothing: its successor starts at the last commit and
predicts the same windows. A transaction is never open during a poll.
"""

from __future__ import annotations

import logging
import time
from collections import Counter
from collections.abc import Callable, Collection, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field
from threading import Event as StopFlag
from typing import Any, Literal, cast

from kafka import KafkaConsumer, KafkaProducer, TopicPartition
from kafka.consumer.subscription_state import ConsumerRebalanceListener
from kafka.coordinator.assignors.cooperative_sticky import CooperativeStickyAssignor
from kafka.structs import OffsetAndMetadata

from pipelines.kernels.windowing import Windowing
from schemas.errors import InputError
from schemas.event import EventReader
from schemas.prediction import Prediction, PredictionWriter
from schemas.spec import Spec
from schemas.units import iso_to_ms
from streaming.checkpoint import Checkpoint
from streaming.dead_letters import refused_offsets, to_headers, to_payload
from streaming.partition import Partition, Record, Stage
from streaming.predictor import Predictor
from streaming.serving_client import ServingClient
from streaming.stream_topics import prepare_topics
from streaming.topics import TopicAdmin, broker_errors, connect
from streaming.transactions import Aborted, Transactions, Write

logger = logging.getLogger(__name__)

Start = Literal["latest", "earliest"] | int
"""Where a group without commits begins: an end of the topic, or an event time in epoch milliseconds."""

POLL_MS = 500
SERVING_PATIENCE_S = 120.0
"""How long the model server may be away before the process ends; well within Kafka's `max_poll_interval_ms`."""
REQUEST_TIMEOUT_MS = 30_000
SESSION_TIMEOUT_MS = 10_000
"""After so long the partitions of a member that does not come back go to the others."""
CLOSE_TIMEOUT_S = 5
IDLE_COMMIT_S = 5.0
"""How often a consumer without events commits where it stands. A process that was replaced learns of it by a commit
only: kafka-python keeps a fenced consumer polling."""


def parse_start(text: str) -> Start:
    """Reads `latest`, `earliest` or an ISO time.

    Raises:
      InputError: it is none of them.
    """
    if text in ("latest", "earliest"):
        return cast(Start, text)
    try:
        return iso_to_ms(text)
    except ValueError as exc:
        raise InputError(f"--from: expected latest, earliest or an ISO time, got '{text}'") from exc


@dataclass(slots=True)
class StreamSummary:
    """What a run of the consumer did; in = used + duplicate + late + dead."""

    counts: Counter[str] = field(default_factory=Counter)
    warmed: int = 0
    """Events read only to rebuild windows; their output was suppressed."""

    def document(self) -> dict[str, int]:
        """All counts by name."""
        names = ("in", "used", "duplicate", "late", "dead", "predictions")
        return {name: self.counts[name] for name in names} | {"warmed": self.warmed}


class StreamConsumer:
    """Predicts the windows of one stream, until it is told to stop.

    Args:
      spec: the stream.
      member: a name within the consumer group. A restart under the same name is felt for a moment only (static
        membership), and fences the process that had it.
      start: where to begin when the group has committed nothing.
      until_end: stop at the end that the topic had at the start, instead of waiting for more.
      wait_s: how long to wait for the model server at the start, in seconds.
      report: is told, in words, what a person should know.
    """

    def __init__(
        self,
        spec: Spec,
        *,
        member: str = "0",
        start: Start = "latest",
        until_end: bool = False,
        wait_s: float = 10.0,
        report: Callable[[str], None] = logger.info,
    ) -> None:
        self.summary = StreamSummary()
        self._spec, self._start, self._until_end, self._wait_s = spec, start, until_end, wait_s
        self._instance = f"{spec.group}-{member}"
        self._topic = spec.topics.input.name
        self._report = report
        self._windowing, self._reader, self._writer = Windowing(spec), EventReader(spec), PredictionWriter(spec)
        self._reach_ms = spec.span_ms + spec.grid.max_disorder
        self._partitions: dict[TopicPartition, Partition] = {}
        self._assigned: set[TopicPartition] = set()
        self._taken_away: set[TopicPartition] = set()
        self._stopping = StopFlag()
        self._committed_at = time.monotonic()

    def stop(self) -> None:
        """Ends `run` after the turn that it is in. Safe to call from a signal handler or another thread."""
        self._stopping.set()

    def run(self) -> StreamSummary:
        """Consumes and predicts.

        Raises:
          BrokerError: Kafka is unreachable, or another process has taken this one's member name.
          ServingError: the model server has not the model, or one of other windows.
        """
        with ExitStack() as stack:
            self._open(stack)
            ends = self._ends() if self._until_end else None
            while not self._stopping.is_set() and not self._is_done(ends):
                with broker_errors(self._topic):
                    batch = self._poll()
                    generation = self._consumer.group_metadata()
                    self._restore(generation)
                    stages = self._stage(batch)
                predictions = self._predictor.predict(
                    [(key, windows) for stage in stages.values() for key, windows in stage.windows]
                )
                self._commit(stages, predictions, generation)
        return self.summary

    def _open(self, stack: ExitStack) -> None:
        kafka = self._spec.kafka
        with TopicAdmin(kafka) as admin:
            for warning in prepare_topics(admin, self._spec, oldest_ms=None, now_ms=_now_ms()):
                self._report(warning)
        client = stack.enter_context(ServingClient(self._spec))
        self._predictor = Predictor(
            self._spec, self._windowing, client, patience_s=SERVING_PATIENCE_S, stopping=self._stopping
        )
        version = client.wait_until_available(self._wait_s)
        self._report(f"model {client.model} version {version} at {client.address} is ready")
        self._consumer = connect(
            KafkaConsumer,
            kafka,
            group_id=self._spec.group,
            group_instance_id=self._instance,
            client_id=self._instance,
            enable_auto_commit=False,
            auto_offset_reset="earliest",
            isolation_level="read_committed",
            partition_assignment_strategy=[CooperativeStickyAssignor],
            session_timeout_ms=SESSION_TIMEOUT_MS,
            max_poll_records=kafka.max_poll_records,
            allow_auto_create_topics=False,
        )
        stack.callback(self._consumer.close, autocommit=False, timeout_ms=CLOSE_TIMEOUT_S * 1_000)
        self._transactions = Transactions(kafka, self._instance, self._stopping)
        stack.callback(self._transactions.close)
        with broker_errors(self._topic):
            self._consumer.subscribe([self._topic], listener=_Listener(self))

    # --- 1. poll ---

    def _poll(self) -> dict[TopicPartition, list[Record]]:
        batch: dict[TopicPartition, list[Record]] = self._consumer.poll(timeout_ms=POLL_MS)
        while self._taken_away:  # also a partition that came back within the same rebalance
            self._partitions.pop(self._taken_away.pop(), None)
        # What was fetched of a partition before it was taken over came from the wrong place.
        return {tp: records for tp, records in batch.items() if tp in self._partitions}

    # --- 2. restore ---

    def _restore(self, generation: Any) -> None:
        begun = {}
        for tp in sorted(self._assigned - set(self._partitions)):
            checkpoint = self._last_checkpoint(tp)
            if checkpoint is None:
                checkpoint = begun[tp] = self._first_checkpoint(tp)
            self._partitions[tp] = self._rebuilding(tp, checkpoint)
        if begun:
            # Committed before anything is read: else what comes between a first start and a restart would be skipped.
            self._transact(begun, generation, lambda _: None)

    def _last_checkpoint(self, tp: TopicPartition) -> Checkpoint | None:
        """What the group has committed; a checkpoint of our own making where a commit is of other windows."""
        committed = self._consumer.committed(tp, metadata=True, timeout_ms=REQUEST_TIMEOUT_MS)
        if committed is None:
            return None
        checkpoint = Checkpoint.read(committed.offset, committed.metadata)
        ours = (self._spec.window_fingerprint, self._count())
        if checkpoint is not None and (checkpoint.window_fingerprint, checkpoint.partitions) == ours:
            return checkpoint
        self._report(
            f"{_name(tp)}: the last commit is of other windows or another number of partitions; "
            f"goes on at offset {committed.offset} with windows rebuilt from the topic"
        )
        return self._checkpoint_at(tp, committed.offset, checkpoint.clock_ms if checkpoint else None)

    def _first_checkpoint(self, tp: TopicPartition) -> Checkpoint:
        """Where `--from` says that a group without commits begins."""
        start_ms = self._start if isinstance(self._start, int) else self._newest_ms(tp)
        return self._checkpoint_at(tp, self._first_live_offset(tp), start_ms)

    def _checkpoint_at(self, tp: TopicPartition, offset: int, time_ms: int | None) -> Checkpoint:
        """Goes on at `offset`, windows warmed from the events that one at `time_ms` can need; all of them for None."""
        replay_offset = self._offset(self._consumer.beginning_offsets, tp)
        if time_ms is not None:
            replay_offset = self._offset_at(tp, max(time_ms - self._reach_ms, 0), default=offset)
        return Checkpoint(offset, min(replay_offset, offset), None, (), self._spec.window_fingerprint, self._count())

    def _rebuilding(self, tp: TopicPartition, checkpoint: Checkpoint) -> Partition:
        """A partition that reads from the checkpoint's replay offset on."""
        first = self._offset(self._consumer.beginning_offsets, tp)
        if first > checkpoint.replay_offset:
            self._report(
                f"{_name(tp)}: retention has removed offsets {checkpoint.replay_offset} to {first}, "
                "which windows still need: they start again from what is left"
            )
        refused: Collection[int] | None = checkpoint.refused
        if refused is None:
            replay = range(checkpoint.replay_offset, checkpoint.offset)
            refused = refused_offsets(self._spec, tp.partition, replay)
        partition = Partition(
            self._spec,
            self._windowing,
            self._reader,
            name=_name(tp),
            partitions=checkpoint.partitions,
            start_offset=max(checkpoint.replay_offset, first),
            live_from=max(checkpoint.offset, first),
            clock_ms=checkpoint.clock_ms,
            refused=frozenset(refused),
        )
        self._consumer.seek(tp, partition.next_offset)
        self._consumer.resume(tp)
        behind = partition.live_from - partition.next_offset
        self._report(f"{partition.name}: live from offset {partition.live_from}, {behind} before it to warm windows")
        return partition

    def _count(self) -> int:
        return len(self._consumer.partitions_for_topic(self._topic) or ())

    def _first_live_offset(self, tp: TopicPartition) -> int:
        end = self._offset(self._consumer.end_offsets, tp)
        if self._start == "latest":
            return end
        if self._start == "earliest":
            return self._offset(self._consumer.beginning_offsets, tp)
        return self._offset_at(tp, self._start, default=end)

    def _newest_ms(self, tp: TopicPartition) -> int | None:
        """The greatest record time of a partition; None where all of it is to be read."""
        if self._start == "earliest":
            return None
        with TopicAdmin(self._spec.kafka) as admin:
            return admin.newest_ms(tp.topic, tp.partition)

    def _offset_at(self, tp: TopicPartition, time_ms: int, *, default: int) -> int:
        found = self._consumer.offsets_for_times({tp: time_ms}, timeout_ms=REQUEST_TIMEOUT_MS)[tp]
        return default if found is None else int(found.offset)

    @staticmethod
    def _offset(lookup: Callable[..., Mapping[TopicPartition, int]], tp: TopicPartition) -> int:
        return lookup([tp], timeout_ms=REQUEST_TIMEOUT_MS)[tp]

    # --- 3. stage ---

    def _stage(self, batch: Mapping[TopicPartition, Sequence[Record]]) -> dict[TopicPartition, Stage]:
        stages, now_ms = {}, _now_ms()
        for tp, records in batch.items():
            partition = self._partitions[tp]
            replayed = [record for record in records if record.offset < partition.live_from]
            if replayed:
                partition.apply(partition.stage(replayed, now_ms))
                self.summary.warmed += len(replayed)
            live = records[len(replayed) :]
            if live:
                stages[tp] = partition.stage(live, now_ms)
        return stages

    # --- 5. commit ---

    def _commit(self, stages: Mapping[TopicPartition, Stage], predictions: list[Prediction], generation: Any) -> None:
        if not stages and time.monotonic() < self._committed_at + IDLE_COMMIT_S:
            return
        stages = stages or {tp: partition.idle() for tp, partition in self._partitions.items() if partition.is_live}
        checkpoints = {tp: self._partitions[tp].checkpoint(stage) for tp, stage in stages.items()}

        def write(producer: KafkaProducer) -> None:
            for prediction in predictions:
                self._send_prediction(producer, prediction)
            for stage in stages.values():
                self._send_refused(producer, stage)

        self._committed_at = time.monotonic()
        if not checkpoints or not self._transact(checkpoints, generation, write):
            return
        for tp, stage in stages.items():
            self._partitions[tp].apply(stage)
            self.summary.counts += stage.counts
        self.summary.counts["predictions"] += len(predictions)

    def _transact(self, checkpoints: Mapping[TopicPartition, Checkpoint], generation: Any, write: Write) -> bool:
        """Commits what `write` sends together with the checkpoints; False where that was not to be."""
        # The broker takes a transactional commit without a generation, unfenced, so this check is ours to make.
        if generation.generation_id < 0 or generation != self._consumer.group_metadata():
            self._go_back("the group has given its partitions to another member")
            return False
        offsets = {tp: OffsetAndMetadata(point.offset, point.metadata(), -1) for tp, point in checkpoints.items()}
        try:
            self._transactions.commit(write, offsets, generation)
        except Aborted as exc:
            self._go_back(str(exc))
            return False
        return True

    def _go_back(self, reason: str) -> None:
        """Forgets what is not committed: the next turn takes every partition over from its checkpoint."""
        self._report(f"{self._instance}: nothing of this batch was committed, going back to the last commit: {reason}")
        self._consumer.pause(*self._partitions)
        self._partitions.clear()

    def _send_prediction(self, producer: KafkaProducer, prediction: Prediction) -> None:
        producer.send(
            self._spec.topics.predictions.name,
            key=prediction.key.encode(),
            value=self._writer.value(prediction),
            headers=self._writer.headers(prediction),
            timestamp_ms=prediction.origin_ms,
        )

    def _send_refused(self, producer: KafkaProducer, stage: Stage) -> None:
        for record in stage.late:
            producer.send(
                self._spec.topics.late.name,
                key=record.key,
                value=record.value,
                headers=list(record.headers),
                timestamp_ms=record.timestamp,
            )
        for record, letter in stage.dead:
            producer.send(
                self._spec.topics.dead_letters.name,
                key=letter.key,
                value=to_payload(letter),
                headers=[*record.headers, *to_headers(letter)],
                timestamp_ms=record.timestamp,
            )

    # --- the end ---

    def _ends(self) -> dict[TopicPartition, int]:
        with broker_errors(self._topic):
            numbers = self._consumer.partitions_for_topic(self._topic) or ()
            topic = [TopicPartition(self._topic, number) for number in numbers]
            ends: dict[TopicPartition, int] = self._consumer.end_offsets(topic, timeout_ms=REQUEST_TIMEOUT_MS)
            return ends

    def _is_done(self, ends: Mapping[TopicPartition, int] | None) -> bool:
        """Whether every partition has been read to `ends`; the position also moves past transaction markers."""
        return ends is not None and all(
            tp in self._partitions and self._consumer.position(tp, timeout_ms=REQUEST_TIMEOUT_MS) >= end
            for tp, end in ends.items()
        )


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


def _name(tp: TopicPartition) -> str:
    return f"{tp.topic}[{tp.partition}]"


def _now_ms() -> int:
    return time.time_ns() // 1_000_000
