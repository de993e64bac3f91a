"""Live accuracy: the predictions topic joined with the input topic, scored exactly once.

The loop is `streaming.group_loop`'s, over both topics at once. One member of the group has all partitions of both, so
that a key's events and predictions may lie in any of them and drift is that of the whole stream; further members wait
to take its place. `streaming.accuracy.limits` says how far each topic may be read.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from threading import Event as StopFlag
from typing import Any

from kafka import TopicPartition

from pipelines.kernels.live_accuracy import AccuracySums
from schemas.spec import Spec
from streaming.accuracy.assignor import OneMemberAssignor
from streaming.accuracy.figures import AccuracyStatus, Running
from streaming.accuracy.limits import LivePath
from streaming.accuracy.scoring import Output, Scoring
from streaming.group_loop import GroupLoop, wall_clock_ms
from streaming.input_topic import Start
from streaming.kind import Kind
from streaming.stage import Record, Stage
from streaming.stream_topics import prepare_accuracy_topics, prepare_topics
from streaming.topics import TopicAdmin

logger = logging.getLogger(__name__)

OUTCOMES = ("scored", "unobserved", "incomplete", "expired", "repeated", "provisional", "broken", "foreign")


@dataclass(frozen=True, slots=True)
class AccuracySummary:
    """What a run did; predictions = the sum of `OUTCOMES` and `pending`, but for those that were pending before it."""

    counts: Mapping[str, int]
    pending: int
    sums: AccuracySums

    def document(self) -> dict[str, Any]:
        """All counts by name, and the scores of what was scored, by version and role."""
        names = ("events", "predictions", *OUTCOMES)
        counts = {name: self.counts.get(name, 0) for name in names}
        return counts | {
            "pending": self.pending,
            "triggers": self.counts.get("triggers", 0),
            "models": self.sums.document(),
        }

    def lines(self) -> list[str]:
        """The same in words."""
        document = self.document()
        counts = ", ".join(f"{name} {count}" for name, count in document.items() if name != "models" and count)
        lines = [counts or "nothing to score"]
        for model in document["models"]:
            for name, target in model["targets"].items():
                if not target["cells"]:
                    continue
                skill = "" if target["skill"] is None else f", skill {target['skill']:+.1%} against persistence"
                inside = f", {target['coverage']:.1%} within the interval" if "coverage" in target else ""
                lines.append(
                    f"version {model['version']} ({model['role']}), {name}: MAE {target['mae']:.4g} {target['unit']}"
                    f"{skill}{inside}, {model['records']} predictions"
                )
        return lines


class AccuracyScorer(GroupLoop):
    """Scores the predictions of one stream, until it is told to stop.

    Args:
      spec: the stream, of series with targets.
      member: a name within the group `GROUP-accuracy`, as for `GroupLoop`.
      start: where to begin when the group has committed nothing.
      until_end: stop once all that has been predicted so far has been read.
      stopping: once set, `run` ends after the turn that it is in, as `stop` does.
      status: is kept up to date, for others to look at.
      report: is told, in words, what a person should know.
    """

    def __init__(
        self,
        spec: Spec,
        *,
        member: str = "0",
        start: Start = "latest",
        until_end: bool = False,
        stopping: StopFlag | None = None,
        status: AccuracyStatus | None = None,
        report: Callable[[str], None] = logger.info,
    ) -> None:
        self._status = status or AccuracyStatus()
        super().__init__(
            spec.kafka,
            f"{spec.group}-accuracy",
            [spec.topics.input.name, spec.topics.predictions.name],
            assignor=OneMemberAssignor,
            member=member,
            until_end=until_end,
            stopping=stopping,
            status=self._status,
            report=report,
        )
        self._spec, self._start = spec, start
        self._is_settled = False
        """Whether all that could be made of what was read has been made."""
        self._input, self._predictions = self._topics
        self._status.running = Running(
            spec.accuracy.running, [target.name for target in spec.targets], spec.scored_steps
        )

    @property
    def summary(self) -> AccuracySummary:
        """What was done so far."""
        return AccuracySummary(self._status.counts, self._status.pending, self._status.sums)

    def run(self) -> AccuracySummary:
        """Joins and scores.

        Raises:
          BrokerError: Kafka is unreachable, or another process has taken this one's member name.
        """
        self._loop()
        return self.summary

    def _prepare(self, stack: ExitStack) -> None:
        with TopicAdmin(self._kafka) as admin:
            for warning in prepare_topics(admin, self._spec, oldest_ms=None, now_ms=wall_clock_ms()):
                self._report(warning)
            prepare_accuracy_topics(admin, self._spec)
        self._live_path = LivePath(self._spec, f"{self._instance}-look")
        stack.callback(self._live_path.close)

    def _make_kind(self, stack: ExitStack) -> Kind:  # noqa: ARG002 (nothing is to be closed)
        self._scoring = Scoring(self._spec, self._consumer, self._start, self._report)
        self._look()
        return self._scoring

    def _look(self) -> None:
        if (refused := self._live_path.look()) is not None:
            self._scoring.refuse(refused)
            limits = self._live_path.limits.inputs
            self._status.waiting = "" if limits else f"the group {self._spec.group} has not predicted anything yet"

    # --- how far each topic is read ---

    def _admit(self, batch: dict[TopicPartition, list[Record]]) -> dict[TopicPartition, list[Record]]:
        if not self._assigned or not all(tp in self._partitions for tp in self._assigned):
            for tp in batch:
                self._consumer.seek(tp, self._partitions[tp].next_offset)
            return {}
        self._scoring.end_replay()
        self._look()
        limits = self._live_path.limits
        admitted = {}
        for tp, records in batch.items():
            if tp.topic == self._input:
                limit = limits.inputs.get(tp, 0)
                if records[-1].offset >= limit:
                    records = [record for record in records if record.offset < limit]
                    self._consumer.seek(tp, max(limit, self._partitions[tp].next_offset))
            if records:
                admitted[tp] = records
        position = {tp: self._position(tp) for tp in self._partitions}
        scoring = self._scoring
        scoring.unread = {tp.partition for tp, limit in limits.inputs.items() if position.get(tp, 0) < limit}
        scoring.caught_up = all(position.get(tp, 0) >= end for tp, end in limits.predictions.items())
        self._pace()
        return admitted

    def _pace(self) -> None:
        """Pauses what must not be read further for now."""
        join, most = self._scoring.join, self._spec.accuracy.max_pending
        holds_predictions = join.pending >= most and bool(self._scoring.unread) and join.rows < most
        holds_inputs = join.rows >= most and not self._scoring.caught_up
        for tp in self._partitions:
            if tp.topic == self._predictions:
                paused = holds_predictions
            else:
                paused = holds_inputs or tp.partition not in self._scoring.unread
            (self._consumer.pause if paused else self._consumer.resume)(tp)

    # --- what comes of it ---

    def _work(self, stages: dict[TopicPartition, Stage]) -> Sequence[Output] | None:
        if not self._assigned or not all(tp in self._partitions for tp in self._assigned):
            return []
        outputs = self._scoring.outputs()
        self._is_settled = self._scoring.caught_up and not stages  # with stages, the clocks have yet to move
        if outputs and not stages:  # a block was over, or all was caught up with, without another record
            stages |= self._idle_stages()
        return outputs

    def _wrote(self, outputs: Sequence[Output]) -> None:
        status, join = self._status, self._scoring.join
        status.counts.update(join.outcomes)
        join.outcomes.clear()
        scored = [output.scored for output in outputs if output.scored is not None]
        status.counts["triggers"] += len(outputs) - len(scored)
        status.sums.add(scored)
        assert status.running is not None
        status.running.add(scored)
        status.pending, status.closed_steps = join.pending, join.rows
        status.measures = self._scoring.drift.measures
        for trigger in (output.trigger for output in outputs if output.trigger is not None):
            self._report(f"drift: {trigger.reason}")

    # --- the end ---

    def _is_done(self, ends: Mapping[TopicPartition, int] | None) -> bool:
        return super()._is_done(ends) and (self._is_settled or not self._partitions)

    def _ends(self) -> dict[TopicPartition, int]:
        limits = self._live_path.limits
        return {**limits.inputs, **limits.predictions}
