"""The one question that we ask of a schema registry: which id has this schema."""

from __future__ import annotations

import json
import urllib.error
import urllib.request
from typing import Any
from urllib.parse import quote

from schemas.avro_prediction import (
    CLASS_PREDICTION,
    PREDICTION,
    TEXT_PREDICTION,
    AvroClassPredictionWriter,
    AvroPredictionWriter,
    AvroTextPredictionWriter,
    prediction_schema_text,
)
from schemas.class_prediction import ClassPredictionWriter
from schemas.errors import BrokerError
from schemas.prediction import PredictionWriter, WindowPredictionWriter
from schemas.spec import Spec
from schemas.text_prediction import TextPredictionWriter
from schemas.text_spec import TextSpec

TIMEOUT_S = 10.0


def prediction_writer(spec: Spec) -> WindowPredictionWriter[Any]:
    """The writer of the format that the spec names, of forecasts or of classes.

    Raises:
      BrokerError: the schema registry does not answer, or refuses the schema.
    """
    if spec.kafka.value_format == "json":
        return json_writer(spec)
    if spec.classes:
        return AvroClassPredictionWriter(spec, _schema_id(spec, CLASS_PREDICTION))
    return AvroPredictionWriter(spec, _schema_id(spec, PREDICTION))


def json_writer(spec: Spec) -> WindowPredictionWriter[Any]:
    """The writer of JSON, of forecasts or of classes."""
    return ClassPredictionWriter(spec) if spec.classes else PredictionWriter(spec)


def text_prediction_writer(spec: TextSpec) -> TextPredictionWriter:
    """The same for texts."""
    if spec.kafka.value_format == "json":
        return TextPredictionWriter(spec)
    return AvroTextPredictionWriter(spec, _schema_id(spec, TEXT_PREDICTION))


def _schema_id(spec: Spec | TextSpec, schema: str) -> int | None:
    if registry := spec.kafka.avro.registry:
        return register(registry, f"{spec.topics.predictions.name}-value", prediction_schema_text(schema))
    return spec.kafka.avro.schema_id


def register(registry: str, subject: str, schema: str) -> int:
    """The id of a schema under a subject; the registry gives it one if it has none yet.

    Raises:
      BrokerError: the registry does not answer, or refuses the schema.
    """
    request = urllib.request.Request(  # noqa: S310 (the spec allows http and https only)
        f"{registry.rstrip('/')}/subjects/{quote(subject, safe='')}/versions",
        data=json.dumps({"schema": schema}).encode(),
        headers={"Content-Type": "application/vnd.schemaregistry.v1+json"},
    )
    try:
        with urllib.request.urlopen(request, timeout=TIMEOUT_S) as response:  # noqa: S310
            return int(json.load(response)["id"])
    except urllib.error.HTTPError as exc:
        with exc:
            said = exc.read(500).decode(errors="replace")
        raise BrokerError(f"schema registry {registry}: {subject}: expected an id, got {exc.code}: {said}") from exc
    except (OSError, ValueError, KeyError, TypeError) as exc:
        raise BrokerError(f"schema registry {registry}: {subject}: expected an id, got: {exc}") from exc
