"""Streams of series: windows of events are predicted."""

from __future__ import annotations

import time
from collections import defaultdict
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import replace
from functools import partial

from kafka import TopicPartition

from pipelines.kernels.windowing import Windowing
from schemas.dead_letter import window_letter
from schemas.event import EventReader
from schemas.prediction import WindowPrediction
from schemas.spec import Spec
from streaming.changelog import Changelog, prepare_changelog
from streaming.checkpoint import Checkpoint
from streaming.commits import Outbox
from streaming.input_topic import InputTopic, name
from streaming.kind import SERVING_PATIENCE_S, Means
from streaming.outputs import Outputs
from streaming.partition import Partition, WindowStage
from streaming.predictor import Predictor, RefusedWindow
from streaming.restore import Reading
from streaming.schema_registry import prediction_writer
from streaming.takeover import Seeds, Takeover
from streaming.topics import TopicAdmin

IDLE_CLOSE_S = 1.0
"""How often steps of idle keys are closed by the wall clock, where the spec says so."""


class Series:
    """A stream of series; see `streaming.kind.Kind`.

    Args:
      spec: the stream.
      means: what it works with.
      seeds: states of keys from a dataset, for windows that reach back before the topic does.
    Raises:
      BrokerError: the changelog cannot serve, or a schema registry refuses.
    """

    def __init__(self, spec: Spec, means: Means, seeds: Seeds | None) -> None:
        self._stream, self._step_ms, self._idle_close_ms = spec.stream.name, spec.grid.step, spec.kafka.idle_close
        windowing = Windowing(spec)
        self._predictor = Predictor(
            spec,
            windowing,
            means.client,
            patience_s=SERVING_PATIENCE_S,
            stopping=means.stopping,
            on_answer=means.on_answer,
            beside=means.beside,
        )
        self._outputs = Outputs(spec.topics, prediction_writer(spec))
        topic = InputTopic(means.consumer, spec.topics.input.name)
        self._changelog: Changelog | None = None
        if spec.changelog is not None:
            with TopicAdmin(spec.kafka) as admin:
                prepare_changelog(admin, spec.changelog, topic.count() or 1)
            self._changelog = Changelog(spec.changelog, spec.window_fingerprint)
        self._takeover = Takeover(
            spec,
            topic,
            start=means.start,
            partition=partial(Partition, spec, windowing, EventReader(spec)),
            grid=windowing.grid,
            changelog=self._changelog,
            seeds=seeds,
            report=means.report,
        )
        self._closed_at = time.monotonic()
        self._issued: defaultdict[TopicPartition, dict[str, int]] = defaultdict(dict)

    def checkpoints(
        self, partitions: Sequence[TopicPartition]
    ) -> tuple[dict[TopicPartition, Checkpoint], set[TopicPartition]]:
        """Where each of some partitions goes on, and which of them the group has committed nothing of yet."""
        return self._takeover.checkpoints(partitions)

    def reading(self, tp: TopicPartition, checkpoint: Checkpoint) -> Reading:
        """The events that windows are made of, or the rows of the changelog."""
        return self._takeover.reading(tp, checkpoint)

    def predict(self, stages: Mapping[TopicPartition, WindowStage]) -> list[WindowPrediction]:
        """Predicts the windows that the stages closed."""
        runs = [(tp, key, windows) for tp, stage in stages.items() for key, windows in stage.windows]

        def refuse(window: RefusedWindow) -> None:
            tp = runs[window.run][0]
            letter = window_letter(
                stream=self._stream,
                key=window.key,
                origin_ms=window.origin_ms,
                step_ms=self._step_ms,
                inputs={part: array[0] for part, array in window.inputs.items() if part != "key"},
                source=name(tp),
                detail=window.detail,
            )
            stages[tp].unpredicted.append((window.origin_ms, letter))
            stages[tp].counts["refused"] += 1

        predictions = self._predictor.predict([(key, windows) for _, key, windows in runs], refuse)
        for stage in stages.values():
            if stage.parents:
                predictions = [
                    replace(p, traceparent=stage.parents.get((p.key, p.origin_ms), p.traceparent)) for p in predictions
                ]
        return predictions

    def provisional(
        self,
        partitions: Mapping[TopicPartition, Partition],
        stages: dict[TopicPartition, WindowStage],
        end: Callable[[TopicPartition], int | None],
    ) -> list[WindowPrediction]:
        """Predicts windows that the wall clock ends, of partitions that had no events."""
        if self._idle_close_ms is None or time.monotonic() < self._closed_at + IDLE_CLOSE_S:
            return []
        self._closed_at = time.monotonic()
        clock_ms = time.time_ns() // 1_000_000 - self._idle_close_ms
        runs = []
        for tp, partition in partitions.items():
            if tp in stages or (position := end(tp)) is None:
                continue
            if found := partition.provisional(clock_ms, self._issued[tp]):
                stages[tp] = partition.idle(position)
                self._issued[tp].update((key, int(windows.origin_step[-1])) for key, windows in found)
                runs += found
        return self._predictor.predict(runs, provisional=True)

    def forget(self, partitions: Iterable[TopicPartition]) -> None:
        """Windows that the wall clock ended may be predicted again."""
        for tp in partitions:
            self._issued.pop(tp, None)

    def points(
        self,
        outbox: Outbox,
        stages: Mapping[TopicPartition, WindowStage],
        partitions: Mapping[TopicPartition, Partition],
    ) -> Mapping[TopicPartition, Checkpoint]:
        """Where the partitions will stand; sends the rows of the changelog."""
        self._outputs.expect(outbox, (key.encode() for stage in stages.values() for key, _ in stage.windows))
        if self._changelog is not None:
            return self._changelog.save(outbox, stages, partitions)
        return {tp: partitions[tp].checkpoint(stage) for tp, stage in stages.items()}

    def write(
        self,
        outbox: Outbox,
        outputs: Sequence[WindowPrediction],
        stages: Mapping[TopicPartition, WindowStage],
        partitions: Mapping[TopicPartition, Partition],
        now_ms: int,
    ) -> None:
        """Sends predictions, late events and dead letters."""
        self._outputs.send_predictions(outbox, outputs)
        for tp, stage in stages.items():
            self._outputs.send_refused(outbox, partitions[tp].name, stage, now_ms)
