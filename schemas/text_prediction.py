"""Predictions of texts: the records of the predictions topic of a stream of documents.

One record for each (document, model, role). Its Kafka key is the document's key, or where it has none the key of its
record, and its time the time of that record. The value, as JSON:

    {"schema_version": 1, "stream": "languages", "key": null, "origin": "languages.events[0]@17",
     "time_ms": 1380000000000, "label": "swedish", "scores": {"english": 0.01, "swedish": 0.98, ...},
     "model": {"name": "languages", "version": 3, "window_fingerprint": "8545bd..."}, "role": "champion",
     "latency_ms": 3.204}

`origin` is where the document is: topic, partition and offset. `label` is the class with the greatest of the `scores`,
which add up to 1; `time_ms` is the record's time. For the rest see `schemas.prediction`.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from schemas.prediction import SCHEMA_VERSION, ModelVersion, RecordWriter, Role, document_id
from schemas.text_spec import TextSpec

TEXT_EVENT_TYPE = "tidegauge.text-prediction.v1"


@dataclass(frozen=True, slots=True)
class TextPrediction:
    """What a model says of one document; `scores` float32 (class,) are of `classes`, in their order.

    `record_key` and `record_ms` are the key and the time of the prediction's record, the time in epoch milliseconds.
    """

    origin: str
    key: str | None
    record_key: bytes | None
    record_ms: int
    label: str
    classes: tuple[str, ...]
    scores: NDArray[np.float32]
    model: ModelVersion
    role: Role = "champion"
    latency_ms: float | None = None
    traceparent: bytes | None = None

    def id(self, stream: str) -> str:
        """blake2b-128 of what the prediction is about. The version is not part: a re-issue has the same id."""
        return document_id(stream, self.origin, self.model.name, self.role)


class TextPredictionWriter(RecordWriter[TextPrediction]):
    """Writes the predictions of one stream of texts."""

    event_type = TEXT_EVENT_TYPE

    def __init__(self, spec: TextSpec) -> None:
        super().__init__(spec.stream.name)

    def document(self, prediction: TextPrediction) -> dict[str, Any]:
        """What the value says; numbers of numpy among it."""
        return {
            "schema_version": SCHEMA_VERSION,
            "stream": self._stream,
            "key": prediction.key,
            "origin": prediction.origin,
            "time_ms": prediction.record_ms,
            "label": prediction.label,
            "scores": dict(zip(prediction.classes, prediction.scores, strict=True)),
            "model": asdict(prediction.model),
            "role": prediction.role,
            "latency_ms": prediction.latency_ms,
        }

    def headers(self, prediction: TextPrediction) -> list[tuple[str, bytes]]:
        """CloudEvents headers (binary mode), and the model's name and version."""
        return self._headers.of(
            prediction.id(self._stream),
            time_ms=prediction.record_ms,
            subject=prediction.origin,
            model=prediction.model,
            traceparent=prediction.traceparent,
        )
