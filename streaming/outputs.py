"""What a batch yields, as records: predictions, late events and dead letters."""

from __future__ import annotations

from collections.abc import Sequence

from kafka import TopicPartition

from schemas.dead_letter import DeadLetter, window_letter
from schemas.prediction import Prediction
from schemas.spec import Spec
from streaming.commits import Outbox
from streaming.dead_letters import MAX_PAYLOAD_BYTES, to_headers, to_payload
from streaming.partition import Record, Stage
from streaming.predictor import RefusedWindow
from streaming.schema_registry import prediction_writer


class Outputs:
    """Sends what a batch yields to the topics of one stream."""

    def __init__(self, spec: Spec) -> None:
        self._topics = spec.topics
        self._stream, self._step_ms = spec.stream.name, spec.grid.step
        self._writer = prediction_writer(spec)

    def send_predictions(self, outbox: Outbox, predictions: Sequence[Prediction]) -> None:
        """Sends predictions; record time is the window's origin."""
        for prediction in predictions:
            outbox.send(
                self._topics.predictions.name,
                self._writer.value(prediction),
                key=prediction.key.encode(),
                headers=self._writer.headers(prediction),
                timestamp_ms=prediction.origin_ms,
            )

    def send_refused(self, outbox: Outbox, name: str, stage: Stage, now_ms: int) -> None:
        """Sends late events and dead letters.

        Args:
          outbox: sends them.
          name: the input partition's, for the source of a record that is cut.
          stage: what a batch yields.
          now_ms: the wall clock, epoch milliseconds.
        """
        for record in stage.late:
            value, headers = record.value, list(record.headers)
            if value is not None and len(value) > MAX_PAYLOAD_BYTES:
                letter = DeadLetter(f"{name}@{record.offset}", "late", "cut to what the topic takes", value, record.key)
                value, headers = to_payload(letter), [*headers, *to_headers(letter)]
            outbox.send(
                self._topics.late.name, value, key=record.key, headers=headers, timestamp_ms=_valid_ms(record, now_ms)
            )
        for record, letter in stage.dead:
            outbox.send(
                self._topics.dead_letters.name,
                to_payload(letter),
                key=letter.key,
                headers=[*record.headers, *to_headers(letter)],
                timestamp_ms=_valid_ms(record, now_ms),
            )

        for origin_ms, letter in stage.unpredicted:
            outbox.send(
                self._topics.dead_letters.name,
                to_payload(letter),
                key=letter.key,
                headers=to_headers(letter),
                timestamp_ms=origin_ms,
            )

    def window_letter(self, window: RefusedWindow, source: TopicPartition) -> DeadLetter:
        """The letter of a window that the model does not take; `source` is where its events came from."""
        return window_letter(
            stream=self._stream,
            key=window.key,
            origin_ms=window.origin_ms,
            step_ms=self._step_ms,
            inputs={name: array[0] for name, array in window.inputs.items() if name != "key"},
            source=f"{source.topic}[{source.partition}]",
            detail=window.detail,
        )


def _valid_ms(record: Record, now_ms: int) -> int:
    """The record's own time where a topic is sure to take it: a broker refuses one that is far ahead of its clock."""
    return record.timestamp if 0 <= record.timestamp <= now_ms else now_ms
