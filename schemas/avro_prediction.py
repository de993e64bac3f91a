"""Predictions as Avro: the schemas in `avro/`, as a plain datum or in Confluent's wire format; and either read.

Confluent's wire format is a zero byte, the schema's id in a registry as four bytes, and the datum. A plain datum never
begins with a zero byte, since the first field is a version from 1 on; so one reader reads both.

fastavro is imported where it is used: who writes JSON does without it.
"""

from __future__ import annotations

import io
import json
import struct
from collections.abc import Mapping, Sequence
from functools import cache
from pathlib import Path
from typing import Any

import orjson

from schemas.class_prediction import CLASS_EVENT_TYPE, ClassPrediction, ClassPredictionWriter
from schemas.prediction import EVENT_TYPE, Prediction, PredictionWriter
from schemas.spec import Spec
from schemas.text_prediction import TEXT_EVENT_TYPE, TextPrediction, TextPredictionWriter
from schemas.text_spec import TextSpec

AVRO_CONTENT_TYPE = "application/avro"
_WIRE = struct.Struct(">bI")


PREDICTION, CLASS_PREDICTION, TEXT_PREDICTION = "prediction", "class_prediction", "text_prediction"
"""The schemas' names; of forecasts, of the classes of windows, and of texts."""
SCHEMAS = {EVENT_TYPE: PREDICTION, CLASS_EVENT_TYPE: CLASS_PREDICTION, TEXT_EVENT_TYPE: TEXT_PREDICTION}
"""By the `ce_type` of a record."""


@cache
def prediction_schema_text(name: str = PREDICTION) -> str:
    """A schema as a registry takes it."""
    return json.dumps(json.loads((Path(__file__).parent / "avro" / f"{name}.avsc").read_text(encoding="utf-8")))


@cache
def _schema(name: str) -> Any:
    from fastavro import parse_schema

    return parse_schema(json.loads(prediction_schema_text(name)))


class AvroPredictionWriter(PredictionWriter):
    """Turns the predictions of one stream into Avro.

    Args:
      spec: the stream.
      schema_id: for Confluent's wire format; a plain datum when None.
    """

    content_type = AVRO_CONTENT_TYPE

    def __init__(self, spec: Spec, schema_id: int | None = None) -> None:
        super().__init__(spec)
        self._schema_id = schema_id

    def values(self, predictions: Sequence[Prediction]) -> list[bytes]:
        """The value of each one's record."""
        return [self._value(prediction) for prediction in predictions]

    def _value(self, prediction: Prediction) -> bytes:
        document = self.document(prediction)
        for target in document["targets"]:
            if "quantiles" in target:  # a member of a union must be a list to be known as an array
                target["quantiles"] = {level: values.tolist() for level, values in target["quantiles"].items()}
        return _datum(PREDICTION, self._schema_id, document)


class AvroClassPredictionWriter(ClassPredictionWriter):
    """Turns the classes of one stream's windows into Avro; see `AvroPredictionWriter`."""

    content_type = AVRO_CONTENT_TYPE

    def __init__(self, spec: Spec, schema_id: int | None = None) -> None:
        super().__init__(spec)
        self._schema_id = schema_id

    def values(self, predictions: Sequence[ClassPrediction]) -> list[bytes]:
        """The value of each one's record."""
        return [_datum(CLASS_PREDICTION, self._schema_id, self.document(prediction)) for prediction in predictions]


class AvroTextPredictionWriter(TextPredictionWriter):
    """Turns the predictions of one stream of texts into Avro; see `AvroPredictionWriter`."""

    content_type = AVRO_CONTENT_TYPE

    def __init__(self, spec: TextSpec, schema_id: int | None = None) -> None:
        super().__init__(spec)
        self._schema_id = schema_id

    def values(self, predictions: Sequence[TextPrediction]) -> list[bytes]:
        """The value of each one's record."""
        return [_datum(TEXT_PREDICTION, self._schema_id, self.document(prediction)) for prediction in predictions]


def _datum(name: str, schema_id: int | None, document: dict[str, Any]) -> bytes:
    from fastavro import schemaless_writer

    buffer = io.BytesIO()
    buffer.write(b"" if schema_id is None else _WIRE.pack(0, schema_id))
    schemaless_writer(buffer, _schema(name), document)
    return buffer.getvalue()


def read_prediction(value: bytes, headers: Mapping[str, bytes]) -> dict[str, Any]:
    """The members of a prediction, whatever it is written in.

    Raises:
      ValueError: it is none.
    """
    if headers.get("content-type") != AVRO_CONTENT_TYPE.encode():
        document: dict[str, Any] = orjson.loads(value)
        return document
    return read_avro_prediction(value, SCHEMAS[headers["ce_type"].decode()])


def read_avro_prediction(value: bytes, name: str = PREDICTION) -> dict[str, Any]:
    """The members of a prediction, as JSON has them.

    Raises:
      ValueError: these bytes are none.
    """
    from fastavro import schemaless_reader

    start = _WIRE.size if value[:1] == b"\0" else 0
    try:
        found = schemaless_reader(io.BytesIO(value[start:]), _schema(name), None)
    except (EOFError, IndexError, UnicodeDecodeError, struct.error) as exc:
        raise ValueError(f"expected an Avro prediction: {exc!r}") from exc
    assert isinstance(found, dict)
    return found
