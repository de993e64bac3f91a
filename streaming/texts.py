"""Streams of texts: documents are classified."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence

from kafka import TopicPartition

from schemas.text_event import TextEventReader
from schemas.text_prediction import TextPrediction
from schemas.text_spec import TextSpec
from streaming.checkpoint import Checkpoint
from streaming.commits import Outbox
from streaming.input_topic import InputTopic, name
from streaming.kind import SERVING_PATIENCE_S, Means
from streaming.outputs import Outputs
from streaming.restore import Reading
from streaming.schema_registry import text_prediction_writer
from streaming.text_partition import TextPartition, TextStage
from streaming.text_predictor import TextPredictor


class Texts:
    """A stream of texts; see `streaming.kind.Kind`.

    Args:
      spec: the stream.
      means: what it works with.
    Raises:
      BrokerError: a schema registry refuses.
    """

    def __init__(self, spec: TextSpec, means: Means) -> None:
        self._fingerprint, self._start, self._report = spec.window_fingerprint, means.start, means.report
        self._reader = TextEventReader(spec)
        self._input = InputTopic(means.consumer, spec.topics.input.name)
        self._predictor = TextPredictor(
            spec,
            means.client,
            patience_s=SERVING_PATIENCE_S,
            stopping=means.stopping,
            on_answer=means.on_answer,
            beside=means.beside,
        )
        self._outputs = Outputs(spec.topics, text_prediction_writer(spec))

    def checkpoints(
        self, partitions: Sequence[TopicPartition]
    ) -> tuple[dict[TopicPartition, Checkpoint], set[TopicPartition]]:
        """The committed offsets, but where the topic has no longer, or not yet, what comes there."""
        points, begun = {}, set()
        for tp in partitions:
            point, offset = self._input.committed(tp)
            if offset is None:
                begun.add(tp)
            else:
                # How many partitions there were at first stays in the commits, to tell those that were added.
                count = self._input.count() if point is None else point.partitions
                points[tp] = self._checkpoint(self._still_there(tp, offset), count)
        if begun:
            grown = self._has_grown()
            for tp in begun:
                offset = self._input.beginning(tp) if grown else self._input.first_live_offset(tp, self._start)
                points[tp] = self._checkpoint(offset, self._input.count())
        return points, begun

    def _has_grown(self) -> bool:
        """Whether the group has committed a partition when the topic had another number of them.

        One that is new to the group then is new in the topic, and begins at its first document.
        """
        points = [self._input.committed(place)[0] for place in self._input.places()]
        return any(point is not None and point.partitions != self._input.count() for point in points)

    def _checkpoint(self, offset: int, count: int) -> Checkpoint:
        return Checkpoint(offset, offset, None, (), self._fingerprint, count)

    def _still_there(self, tp: TopicPartition, offset: int) -> int:
        first, end = self._input.beginning(tp), self._input.end(tp)
        if end < offset:
            self._report(
                f"{name(tp)}: the group has committed offset {offset} and the topic ends at {end}: a new topic"
            )
            return first
        if first > offset:
            self._report(
                f"{name(tp)}: retention has removed offsets {offset} to {first}, and documents up to it were not "
                f"predicted: {first - offset} at most"
            )
        return max(first, offset)

    def reading(self, tp: TopicPartition, checkpoint: Checkpoint) -> Reading:
        """Nothing: documents need none of those before them."""
        partition = TextPartition(
            self._reader,
            name=name(tp),
            offset=checkpoint.offset,
            fingerprint=self._fingerprint,
            partitions=checkpoint.partitions,
        )
        self._report(f"{partition.name}: live from offset {partition.next_offset}")
        return Reading(tp, checkpoint.offset, checkpoint.offset, lambda _: None, lambda: partition)

    def predict(self, stages: Mapping[TopicPartition, TextStage]) -> list[TextPrediction]:
        """Classifies the documents of the stages."""
        found = [(stage, document) for stage in stages.values() for document in stage.documents]

        def refuse(place: int, detail: str) -> None:
            stage, document = found[place]
            stage.refuse(document, detail)

        return self._predictor.predict([document for _, document in found], refuse)

    def provisional(
        self,
        _partitions: Mapping[TopicPartition, TextPartition],
        _stages: dict[TopicPartition, TextStage],
        _end: Callable[[TopicPartition], int | None],
    ) -> list[TextPrediction]:
        """None: a document waits for no clock."""
        return []

    def forget(self, _partitions: Iterable[TopicPartition]) -> None:
        """There is nothing to forget."""

    def points(
        self,
        outbox: Outbox,  # noqa: ARG002 (a document's offset is all there is to tell)
        stages: Mapping[TopicPartition, TextStage],
        partitions: Mapping[TopicPartition, TextPartition],
    ) -> Mapping[TopicPartition, Checkpoint]:
        """Where the partitions will stand."""
        return {tp: partitions[tp].checkpoint(stage) for tp, stage in stages.items()}

    def write(
        self,
        outbox: Outbox,
        outputs: Sequence[TextPrediction],
        stages: Mapping[TopicPartition, TextStage],
        partitions: Mapping[TopicPartition, TextPartition],
        now_ms: int,
    ) -> None:
        """Sends predictions and dead letters."""
        self._outputs.send_predictions(outbox, outputs)
        for tp, stage in stages.items():
            self._outputs.send_refused(outbox, partitions[tp].name, stage, now_ms)
