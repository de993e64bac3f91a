"""The live path: events in, windows, predictions out, exactly once.

Of the five steps of `streaming.group_loop` the third works out windows (or documents), late events and dead letters,
and the fourth asks the model server, in batches across keys and partitions. The fifth writes the predictions, the late
events and the dead letters with the offsets.
"""

from __future__ import annotations

import logging
from collections import Counter
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field
from threading import Event as StopFlag

from kafka import TopicPartition
from kafka.coordinator.assignors.cooperative_sticky import CooperativeStickyAssignor

from schemas.errors import ServingError
from schemas.prediction import WindowPrediction
from schemas.spec import Spec
from schemas.text_prediction import TextPrediction
from schemas.text_spec import TextSpec
from streaming.beside import Beside
from streaming.group_loop import GroupLoop, wall_clock_ms
from streaming.input_topic import Start
from streaming.kind import Means, PredictingKind
from streaming.live_status import LiveStatus
from streaming.series import Series
from streaming.serving_client import ServingClient
from streaming.stage import Record, Stage
from streaming.stream_topics import prepare_topics
from streaming.takeover import Seeds
from streaming.texts import Texts
from streaming.topics import TopicAdmin

logger = logging.getLogger(__name__)

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


class StreamConsumer(GroupLoop):
    """Predicts the windows, or the documents, of one stream, until it is told to stop.

    Args:
      spec: the stream.
      member: a name within the consumer group, as for `GroupLoop`.
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
        super().__init__(
            spec.kafka,
            spec.group,
            [spec.topics.input.name],
            assignor=CooperativeStickyAssignor,
            member=member,
            until_end=until_end,
            stopping=stopping,
            status=self._status,
            report=report,
        )
        self._spec, self._start, self._seeds, self._wait_s = spec, start, seeds, wait_s

    @property
    def summary(self) -> StreamSummary:
        """What was done so far."""
        return StreamSummary(self._status.counts, self._warmed)

    def run(self) -> StreamSummary:
        """Consumes and predicts.

        Raises:
          BrokerError: Kafka is unreachable, or another process has taken this one's member name.
          ServingError: at the start, the model server has not the model, or one of other windows. Later that is waited
            for.
        """
        self._loop()
        return self.summary

    def _prepare(self, stack: ExitStack) -> None:
        with TopicAdmin(self._kafka) as admin:
            for warning in prepare_topics(admin, self._spec, oldest_ms=None, now_ms=wall_clock_ms()):
                self._report(warning)
        self._client = client = stack.enter_context(ServingClient(self._spec, self._stopping))
        version = client.wait_until_available(self._wait_s)
        self._report(f"model {client.model} version {version} at {client.address} is ready")

    def _make_kind(self, stack: ExitStack) -> PredictingKind:
        means = Means(
            self._consumer,
            self._client,
            self._start,
            self._stopping,
            on_answer=self._status.answered,
            report=self._report,
            beside=self._beside(stack),
        )
        self._predicting: PredictingKind = (
            Texts(self._spec, means) if isinstance(self._spec, TextSpec) else Series(self._spec, means, self._seeds)
        )
        return self._predicting

    def _beside(self, stack: ExitStack) -> Beside | None:
        serving, counts = self._spec.serving, self._status.counts
        if serving.shadow is None and serving.canary is None:
            return None

        def missed(rows: int) -> None:
            counts["shadow_missed"] += rows

        return stack.enter_context(Beside(serving, self._client, report=self._report, on_missed=missed))

    def _admit(self, batch: dict[TopicPartition, list[Record]]) -> dict[TopicPartition, list[Record]]:
        self._probe()
        return batch

    def _ahead(self, stages: dict[TopicPartition, Stage]) -> dict[TopicPartition, Stage]:
        return stages  # the model server is at work meanwhile

    def _work(self, stages: dict[TopicPartition, Stage]) -> Sequence[WindowPrediction | TextPrediction] | None:
        try:
            predictions = list(self._predicting.predict(stages))
            if predictions:
                self._status.breaker.answered()
                self._status.model_version = self._client.version
            if not self._status.breaker.reason:
                predictions += self._predicting.provisional(self._partitions, stages, self._end_position)
        except ServingError as exc:
            self._hold(str(exc))
            return None
        return predictions

    def _wrote(self, outputs: Sequence[WindowPrediction | TextPrediction]) -> None:
        for prediction in outputs:
            self._status.counts[_COUNTED_AS.get(prediction.role, prediction.role)] += 1

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

    def _end_position(self, tp: TopicPartition) -> int | None:
        """The position in a partition that is read to its end, None of any other."""
        end, position = self._consumer.highwater(tp), self._position(tp)
        return position if end is not None and position >= end else None
