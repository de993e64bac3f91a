"""What the loop of `tidegauge accuracy` does with the records of both topics; see `streaming.kind.Kind`."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from kafka import KafkaConsumer, TopicPartition

from pipelines.kernels.grid import NO_POSITION
from schemas.accuracy import AccuracyWriter, ScoredPrediction
from schemas.spec import Spec
from schemas.trigger import Trigger
from streaming.accuracy.actuals import ActualsPartition, Closed, ClosedSteps
from streaming.accuracy.baseline import Baselines
from streaming.accuracy.drift import DriftWatch, block_steps
from streaming.accuracy.forecasts import Forecast, ForecastPartition, ForecastReader
from streaming.accuracy.join import Join
from streaming.bulk_producer import OutRecord
from streaming.checkpoint import Checkpoint
from streaming.commits import Outbox
from streaming.input_topic import InputTopic, Start, name
from streaming.restore import Reading
from streaming.takeover import Takeover

LOWEST_EVERY = 5_000
"""After so many predictions it is looked again from where on they are needed."""


@dataclass(frozen=True, slots=True)
class Output:
    """What is to be written: a scored prediction, or a trigger."""

    scored: ScoredPrediction | None = None
    trigger: Trigger | None = None


class Scoring:
    """Joins both topics and watches for drift.

    All partitions of both belong to one process, so what it remembers is one thing: it is filled as records are staged,
    and thrown away with the partitions where what was staged does not come to be committed.

    Args:
      spec: the stream.
      consumer: a member of the group.
      start: where to begin when the group has committed nothing.
      report: is told, in words, what a person should know.
    """

    def __init__(self, spec: Spec, consumer: KafkaConsumer, start: Start, report: Callable[[str], None]) -> None:
        self._spec, self._start, self._report = spec, start, report
        self._kernel, self._reader = ClosedSteps(spec), ForecastReader(spec)
        self._baselines, self._writer = Baselines(spec), AccuracyWriter(spec)
        self._predictions = InputTopic(consumer, spec.topics.predictions.name)
        self._takeover = Takeover(
            spec,
            InputTopic(consumer, spec.topics.input.name),
            start=start,
            partition=self._partition,
            grid=self._kernel.grid,
            report=report,
        )
        self._refused: dict[int, set[int]] = {}
        self._begin()

    def _begin(self) -> None:
        self.join = Join(self._spec)
        self.drift = DriftWatch(self._spec, self._baselines.of, self._report)
        self._actuals: dict[int, ActualsPartition] = {}
        self._lowest: dict[int, int] = {}
        self._taken = 0
        self._looked = -LOWEST_EVERY
        self._is_restored = False
        self.caught_up = False
        """Whether all predictions have been read that were made of the events which were read."""
        self.unread: set[int] = set()
        """The input partitions that have events which may be read."""

    # --- taking over ---

    def checkpoints(
        self, partitions: Sequence[TopicPartition]
    ) -> tuple[dict[TopicPartition, Checkpoint], set[TopicPartition]]:
        """Where each of some partitions goes on, and which of them the group has committed nothing of yet."""
        predictions = [tp for tp in partitions if tp.topic == self._spec.topics.predictions.name]
        points, begun = self._takeover.checkpoints([tp for tp in partitions if tp not in predictions])
        for tp in predictions:
            point, offset = self._predictions.committed(tp)
            if offset is None:
                begun.add(tp)
                offset = self._predictions.first_live_offset(tp, self._start)
            elif offset > self._predictions.end(tp):
                self._report(
                    f"{name(tp)}: the group has committed offset {offset} and the topic ends before: a new topic"
                )
                point, offset = None, self._predictions.beginning(tp)
            if point is None or point.window_fingerprint != self._spec.window_fingerprint:
                fingerprint, count = self._spec.window_fingerprint, self._predictions.count()
                point = Checkpoint(offset, offset, None, (), fingerprint, count)
            points[tp] = point
            if tp.partition == 0:
                self.drift = DriftWatch(self._spec, self._baselines.of, self._report, point.notes)
        return points, begun

    def reading(self, tp: TopicPartition, checkpoint: Checkpoint) -> Reading:
        """The events of steps, or the predictions, that are waited with."""
        if tp.topic == self._spec.topics.input.name:
            return self._takeover.reading(tp, checkpoint)
        partition = ForecastPartition(
            name(tp), tp.partition, self._reader, take=self._take, lowest=self._lowest_offset, checkpoint=checkpoint
        )
        first = max(checkpoint.replay_offset, self._predictions.beginning(tp))
        partition.next_offset = first

        def finish() -> ForecastPartition:
            partition.next_offset = max(partition.next_offset, checkpoint.offset)
            return partition

        return Reading(tp, first, checkpoint.offset, partition.replay, finish)

    def _partition(
        self,
        *,
        name: str,
        refused: frozenset[int],
        whole_keys: frozenset[str],  # noqa: ARG002 (of seeds and changelogs, which there are none of)
        has_changelog: bool = False,  # noqa: ARG002
        **settings: Any,
    ) -> ActualsPartition:
        number = int(name.rpartition("[")[2].removesuffix("]"))
        partition = ActualsPartition(
            self._spec,
            self._kernel,
            number=number,
            block_steps=block_steps(self._spec),
            take=self._close,
            forget=self._forget_keys,
            lowest=self._lowest_position,
            name=name,
            refused=refused | self._refused.get(number, set()),
            **settings,
        )
        self._actuals[number] = partition
        return partition

    def refuse(self, refused: Mapping[int, Sequence[int]]) -> None:
        """Events at these offsets, by input partition, were refused by the wall clock."""
        for number, offsets in refused.items():
            self._refused.setdefault(number, set()).update(offsets)
            if number in self._actuals:
                self._actuals[number].refuse(offsets)

    def forget(self, partitions: Iterable[TopicPartition]) -> None:
        """Partitions are another's now, or are taken over again: with them goes what was made of their records."""
        if list(partitions):
            self._begin()

    # --- what the partitions read ---

    def _close(self, closed: Closed) -> None:
        self.join.close(closed)
        self.drift.close(closed)

    def _take(self, forecast: Forecast) -> bool:
        self._taken += 1
        return self.join.predict(forecast)

    def _forget_keys(self, keys: set[str]) -> None:
        self.join.forget(keys)

    def _lowest_position(self, number: int) -> int:
        return min(self.join.lowest_position(number), self.drift.lowest_position(number))

    def _lowest_offset(self, number: int) -> int:
        """It never falls, so that an old answer is right, if a little low."""
        if self._taken >= self._looked + LOWEST_EVERY or number not in self._lowest:
            self._looked, self._lowest = self._taken, self.join.lowest_offsets()
        return min(self._lowest.get(number, NO_POSITION), self.drift.lowest_offset(number))

    # --- what they yield ---

    def end_replay(self) -> None:
        """All partitions are live and nothing further has been read: what can be scored by now was written before."""
        if not self._is_restored:
            self.drift.score(self.join.matches(caught_up=False))
            self.join.outcomes.clear()
            self._is_restored = True

    def outputs(self) -> list[Output]:
        """The predictions that can be scored by now, and what is told as drift."""
        matches = self.join.matches(caught_up=self.caught_up)
        self.drift.score(matches)
        triggers = self.drift.look(self._block_over()) if self.caught_up else []
        return [*(Output(scored=match.scored) for match in matches), *(Output(trigger=one) for one in triggers)]

    def _block_over(self) -> int | None:
        """The last block that the clocks of all partitions have left, but for those that fell silent long ago."""
        clocks = {number: partition.clock_ms for number, partition in self._actuals.items()}
        known = [clock for clock in clocks.values() if clock is not None]
        if not known or any(clocks[number] is None for number in self.unread):
            return None
        silent = max(known) - self._spec.span_ms - self._spec.grid.max_disorder
        self.join.drop_stale(min(known))
        blocks = [
            partition.block
            for number, partition in self._actuals.items()
            if partition.block is not None and (number in self.unread or (clocks[number] or 0) >= silent)
        ]
        return min(blocks) - 1

    def points(
        self,
        outbox: Outbox,  # noqa: ARG002 (what is remembered is read from both topics again)
        stages: Mapping[TopicPartition, Any],
        partitions: Mapping[TopicPartition, Any],
    ) -> Mapping[TopicPartition, Checkpoint]:
        """Where the partitions will stand, with notes about drift."""
        points = {tp: partitions[tp].checkpoint(stage) for tp, stage in stages.items()}
        noted = TopicPartition(self._spec.topics.predictions.name, 0)
        if noted in partitions:  # with every commit: the notes are about all that has been written so far
            stage = stages.get(noted) or partitions[noted].idle()
            points[noted] = partitions[noted].checkpoint(stage, self.drift.notes())
        return points

    def write(
        self,
        outbox: Outbox,
        outputs: Sequence[Output],
        stages: Mapping[TopicPartition, Any],  # noqa: ARG002 (records that are none are only counted)
        partitions: Mapping[TopicPartition, Any],  # noqa: ARG002
        now_ms: int,  # noqa: ARG002 (records have the times of what they are about)
    ) -> None:
        """Sends scored predictions and triggers."""
        topics = self._spec.topics
        scored = [output.scored for output in outputs if output.scored is not None]
        triggers = [output.trigger for output in outputs if output.trigger is not None]
        writer = self._writer
        outbox.send_all(
            topics.accuracy.name,
            [OutRecord(one.key.encode(), writer.value(one), writer.headers(one), one.origin_ms) for one in scored],
        )
        outbox.send_all(
            topics.triggers.name, [OutRecord(one.stream.encode(), one.record(), (), one.time_ms) for one in triggers]
        )
