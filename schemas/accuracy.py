"""Scored predictions: the records of the accuracy topic.

One record for each prediction that was scored, written once the last of its scored steps is closed. Its Kafka key is
the stream's key and its record time the origin, as the prediction's were. A prediction is scored once: of several that
are about the same (key, origin, model, role) the first one counts.

The value, as JSON:

    {"schema_version": 1, "stream": "nyc-weather", "key": "EWR", "origin_ms": 1380000000000, "step_ms": 3600000,
     "model": {"name": "nyc-weather", "version": 3, "window_fingerprint": "8545bd..."}, "role": "champion",
     "targets": [{"name": "temp", "unit": "degF", "steps": [1, 12, 24], "actual": [61.0, null, 58.5],
                  "forecast": [61.2, 66.0, 59.1], "persistence": [60.1, 60.1, 60.1],
                  "lower": [58.0, 61.1, 53.2], "upper": [64.8, 70.9, 65.0], "coverage": 0.9}]}

`steps` are counted from 1: step n of the horizon is that which starts at origin_ms + (n - 1) * step_ms. `actual` is
what was observed there, null where nothing was; `forecast` what was predicted, and `persistence` the last value that
the window had observed. `lower` and `upper` bound the widest central interval that the prediction had, whose nominal
coverage is `coverage`; they are left out where it had none. A reader must ignore members that it does not know.
"""

from __future__ import annotations

import hashlib
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
import orjson
from numpy.typing import NDArray

from schemas.prediction import ModelVersion, RecordWriter, Role
from schemas.spec import Spec

SCHEMA_VERSION = 1
EVENT_TYPE = "tidegauge.accuracy.v1"

Float32 = NDArray[np.float32]


@dataclass(frozen=True, slots=True)
class ScoredPrediction:
    """One prediction beside what came; arrays are float32 (scored step, target), in the targets' units.

    `steps` are counted from 1; `actual` is NaN where nothing was observed; `lower` and `upper` are of the widest
    central interval, of the nominal `coverage`, and all three None where there is none.
    """

    key: str
    origin_ms: int
    model: ModelVersion
    role: Role
    targets: tuple[str, ...]
    units: tuple[str, ...]
    steps: tuple[int, ...]
    actual: Float32
    forecast: Float32
    persistence: Float32
    lower: Float32 | None = None
    upper: Float32 | None = None
    coverage: float | None = None


class AccuracyWriter(RecordWriter[ScoredPrediction]):
    """Writes the scored predictions of one stream."""

    event_type = EVENT_TYPE

    def __init__(self, spec: Spec) -> None:
        super().__init__(spec.stream.name)
        self._step_ms = spec.grid.step

    def document(self, scored: ScoredPrediction) -> dict[str, Any]:
        """What the value says; numbers of numpy among it."""
        return {
            "schema_version": SCHEMA_VERSION,
            "stream": self._stream,
            "key": scored.key,
            "origin_ms": scored.origin_ms,
            "step_ms": self._step_ms,
            "model": asdict(scored.model),
            "role": scored.role,
            "targets": [self._target(scored, column) for column in range(len(scored.targets))],
        }

    @staticmethod
    def _target(scored: ScoredPrediction, column: int) -> dict[str, Any]:
        def of(values: Float32) -> Float32:
            return np.ascontiguousarray(values[:, column])

        target: dict[str, Any] = {
            "name": scored.targets[column],
            "unit": scored.units[column],
            "steps": scored.steps,
            "actual": of(scored.actual),  # NaN is written as null
            "forecast": of(scored.forecast),
            "persistence": of(scored.persistence),
        }
        if scored.lower is not None and scored.upper is not None:
            target |= {"lower": of(scored.lower), "upper": of(scored.upper), "coverage": scored.coverage}
        return target

    def headers(self, scored: ScoredPrediction) -> list[tuple[str, bytes]]:
        """CloudEvents headers (binary mode), and the model's name and version."""
        subject = [EVENT_TYPE, self._stream, scored.key, scored.origin_ms, scored.model.name, scored.role]
        identity = hashlib.blake2b(orjson.dumps(subject), digest_size=16).hexdigest()
        return self._headers.of(
            identity, time_ms=scored.origin_ms, subject=scored.key, model=scored.model, traceparent=None
        )


def read_accuracy(value: bytes) -> ScoredPrediction:
    """Reads the value of a record.

    Raises:
      ValueError: it is none of the accuracy topic's.
    """
    try:
        document = orjson.loads(value)
        model, targets = document["model"], document["targets"]
        first = targets[0]

        def columns(name: str) -> Float32:
            return np.array([target[name] for target in targets], np.float32).T

        has_interval = "lower" in first
        return ScoredPrediction(
            key=document["key"],
            origin_ms=document["origin_ms"],
            model=ModelVersion(model["name"], model["version"], model["window_fingerprint"]),
            role=document["role"],
            targets=tuple(target["name"] for target in targets),
            units=tuple(target["unit"] for target in targets),
            steps=tuple(first["steps"]),
            actual=columns("actual"),
            forecast=columns("forecast"),
            persistence=columns("persistence"),
            lower=columns("lower") if has_interval else None,
            upper=columns("upper") if has_interval else None,
            coverage=first["coverage"] if has_interval else None,
        )
    except (orjson.JSONDecodeError, KeyError, IndexError, TypeError, ValueError) as exc:
        raise ValueError(f"expected a scored prediction: {exc!r}") from exc
