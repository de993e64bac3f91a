"""What a batch yields, as records: predictions, late events and dead letters."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Generic, Protocol, TypeVar

from schemas.dead_letter import DeadLetter
from schemas.prediction import Prediction
from schemas.settings_spec import Topics
from schemas.text_prediction import TextPrediction
from streaming.commits import Outbox
from streaming.dead_letters import MAX_PAYLOAD_BYTES, to_headers, to_payload
from streaming.stage import Stage, valid_ms

P = TypeVar("P", bound=Prediction | TextPrediction)
P_contra = TypeVar("P_contra", contravariant=True)


class Writer(Protocol[P_contra]):
    """Turns predictions into records."""

    def value(self, prediction: P_contra) -> bytes:
        """The record's value."""
        ...

    def headers(self, prediction: P_contra) -> list[tuple[str, bytes]]:
        """The record's headers."""
        ...


class Outputs(Generic[P]):
    """Sends what a batch yields to the topics of one stream, its predictions as `writer` writes them."""

    def __init__(self, topics: Topics, writer: Writer[P]) -> None:
        self._topics, self._writer = topics, writer

    def send_predictions(self, outbox: Outbox, predictions: Sequence[P]) -> None:
        """Sends predictions."""
        for prediction in predictions:
            outbox.send(
                self._topics.predictions.name,
                self._writer.value(prediction),
                key=prediction.record_key,
                headers=self._writer.headers(prediction),
                timestamp_ms=prediction.record_ms,
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
                self._topics.late.name, value, key=record.key, headers=headers, timestamp_ms=valid_ms(record, now_ms)
            )
        for record, letter in stage.dead:
            outbox.send(
                self._topics.dead_letters.name,
                to_payload(letter),
                key=letter.key,
                headers=[*record.headers, *to_headers(letter)],
                timestamp_ms=valid_ms(record, now_ms),
            )

        for origin_ms, letter in stage.unpredicted:
            outbox.send(
                self._topics.dead_letters.name,
                to_payload(letter),
                key=letter.key,
                headers=to_headers(letter),
                timestamp_ms=origin_ms,
            )
