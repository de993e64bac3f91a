"""What a batch yields, as records: predictions, late events and dead letters."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Generic, Protocol, TypeVar

from schemas.dead_letter import DeadLetter
from schemas.prediction import WindowPrediction
from schemas.settings_spec import Topics
from schemas.text_prediction import TextPrediction
from streaming.bulk_producer import OutRecord
from streaming.commits import Outbox
from streaming.dead_letters import MAX_PAYLOAD_BYTES, to_headers, to_payload
from streaming.stage import Record, Stage, valid_ms

P = TypeVar("P", bound=WindowPrediction | TextPrediction)
P_contra = TypeVar("P_contra", contravariant=True)


class Writer(Protocol[P_contra]):
    """Turns predictions into records."""

    def values(self, predictions: Sequence[P_contra]) -> list[bytes]:
        """The value of each one's record."""
        ...

    def headers(self, prediction: P_contra) -> list[tuple[str, bytes]]:
        """The record's headers."""
        ...


class Outputs(Generic[P]):
    """Sends what a batch yields to the topics of one stream, its predictions as `writer` writes them."""

    def __init__(self, topics: Topics, writer: Writer[P]) -> None:
        self._topics, self._writer = topics, writer

    def expect(self, outbox: Outbox, keys: Iterable[bytes]) -> None:
        """Predictions of these keys are to come."""
        outbox.expect(self._topics.predictions.name, keys)

    def send_predictions(self, outbox: Outbox, predictions: Sequence[P]) -> None:
        """Sends predictions."""
        values = self._writer.values(predictions)
        outbox.send_all(
            self._topics.predictions.name,
            [
                OutRecord(prediction.record_key, value, self._writer.headers(prediction), prediction.record_ms)
                for prediction, value in zip(predictions, values, strict=True)
            ],
        )

    def send_refused(self, outbox: Outbox, name: str, stage: Stage, now_ms: int) -> None:
        """Sends late events and dead letters.

        Args:
          outbox: sends them.
          name: the input partition's, for the source of a record that is cut.
          stage: what a batch yields.
          now_ms: the wall clock, epoch milliseconds.
        """
        outbox.send_all(self._topics.late.name, [_late(name, record, now_ms) for record in stage.late])
        letters = [
            OutRecord(letter.key, to_payload(letter), [*record.headers, *to_headers(letter)], valid_ms(record, now_ms))
            for record, letter in stage.dead
        ]
        letters += [
            OutRecord(letter.key, to_payload(letter), to_headers(letter), origin_ms)
            for origin_ms, letter in stage.unpredicted
        ]
        outbox.send_all(self._topics.dead_letters.name, letters)


def _late(name: str, record: Record, now_ms: int) -> OutRecord:
    value, headers = record.value, list(record.headers)
    if value is not None and len(value) > MAX_PAYLOAD_BYTES:
        letter = DeadLetter(f"{name}@{record.offset}", "late", "cut to what the topic takes", value, record.key)
        value, headers = to_payload(letter), [*headers, *to_headers(letter)]
    return OutRecord(record.key, value, headers, valid_ms(record, now_ms))
