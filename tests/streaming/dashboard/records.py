"""The records of a stream as its processes write them: by the same writers, with numbers that a test can tell."""

from __future__ import annotations

from typing import Any

import numpy as np
import orjson

from schemas.accuracy import AccuracyWriter, ScoredPrediction
from schemas.prediction import ModelVersion, Prediction, PredictionWriter, Role
from schemas.spec import Spec
from tests.streaming.test_partition import Log

LEVELS = (0.05, 0.25, 0.75, 0.95)


def event(offset: int, key: str, time_ms: int, load: float | None) -> Log:
    """An event of `tests.specs.tiny_spec`."""
    return Log(offset, orjson.dumps({"key": key, "time": time_ms, "load": load, "heat": 0.0}), time_ms, key.encode())


def prediction(
    spec: Spec, offset: int, key: str, origin_ms: int, mean: Any, *, version: int = 1, role: Role = "champion"
) -> Log:
    """A forecast with intervals of 1 and 2 to either side."""
    values = np.asarray(mean, np.float32).reshape(-1, 1)
    made = Prediction(
        key=key,
        origin_ms=origin_ms,
        observed_fraction=1.0,
        window_digest="00",
        model=ModelVersion("tiny", version, spec.window_fingerprint),
        role=role,
        latency_ms=4.0 * version,
        mean=values,
        last_observed=values[0],
        last_observed_ms=np.array([origin_ms - spec.grid.step]),
        levels=LEVELS,
        quantiles=values[..., None] + np.array([-2, -1, 1, 2], np.float32),
    )
    writer = PredictionWriter(spec)
    return Log(offset, writer.value(made), origin_ms, key.encode(), writer.headers(made))


def scored(spec: Spec, origin_ms: int, errors: Any, *, version: int = 1, role: Role = "champion") -> ScoredPrediction:
    """A prediction whose errors at the scored steps are these, NaN where nothing came.

    What came is 10, persistence said 12, and the interval reaches 2.5 to either side.
    """
    error = np.asarray(errors, np.float32).reshape(-1, 1)
    actual = np.where(np.isnan(error), error, np.float32(10))
    forecast = 10 + np.nan_to_num(error)
    return ScoredPrediction(
        key="a",
        origin_ms=origin_ms,
        model=ModelVersion("tiny", version, spec.window_fingerprint),
        role=role,
        targets=("load",),
        units=("MW",),
        steps=spec.scored_steps,
        actual=actual,
        forecast=forecast,
        persistence=np.full_like(error, 12),
        lower=forecast - np.float32(2.5),
        upper=forecast + np.float32(2.5),
        coverage=0.9,
    )


def accuracy(spec: Spec, offset: int, record: ScoredPrediction) -> Log:
    """Its record."""
    return Log(offset, AccuracyWriter(spec).value(record), record.origin_ms, record.key.encode())
