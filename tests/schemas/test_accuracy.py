"""Scored predictions and triggers: what is written is read back, and their sums are those of a plain count."""

from __future__ import annotations

import math

import numpy as np
import orjson
import pytest

from pipelines.kernels.live_accuracy import AccuracySums
from schemas.accuracy import AccuracyWriter, ScoredPrediction, read_accuracy
from schemas.errors import SpecError
from schemas.prediction import ModelVersion
from schemas.trigger import Trigger, read_trigger
from tests.specs import tiny_spec


def scored(
    key: str = "a", origin: int = 10, version: int = 1, actual: float = 2.0, forecast: float = 3.0
) -> ScoredPrediction:
    return ScoredPrediction(
        key=key,
        origin_ms=origin,
        model=ModelVersion("tiny", version, "f" * 32),
        role="champion",
        targets=("load",),
        units=("MW",),
        steps=(1, 2),
        actual=np.array([[actual], [np.nan]], np.float32),
        forecast=np.array([[forecast], [0.1]], np.float32),
        persistence=np.array([[4.0], [4.0]], np.float32),
        lower=np.array([[1.0], [0.0]], np.float32),
        upper=np.array([[2.5], [1.0]], np.float32),
        coverage=0.9,
    )


def test_what_is_written_is_read_back() -> None:
    writer = AccuracyWriter(tiny_spec())
    value = writer.value(scored())
    document = orjson.loads(value)
    assert document["targets"][0]["actual"] == [2.0, None]
    assert document["targets"][0]["forecast"] == [3.0, 0.1]
    found = read_accuracy(value)
    np.testing.assert_array_equal(found.actual, scored().actual)
    assert found.model == scored().model
    assert writer.value(found) == value
    assert dict(writer.headers(found))["ce_type"] == b"tidegauge.accuracy.v1"
    assert writer.headers(scored(origin=20)) != writer.headers(scored())
    with pytest.raises(ValueError, match="expected a scored prediction"):
        read_accuracy(b'{"model": {}, "targets": []}')


def test_triggers_are_read_back() -> None:
    trigger = Trigger("s", "input_drift", 5, "temp: 0.6 > 0.5", "jensen_shannon", 0.6, 0.5, 3, feature="temp")
    assert read_trigger(trigger.record()) == trigger
    with pytest.raises(ValueError, match="expected a trigger"):
        read_trigger(b"{}")


def test_sums_are_a_plain_count() -> None:
    sums = AccuracySums()
    sums.add([scored(), scored("b", actual=6.0)])
    sums.add([scored("b", origin=20, forecast=2.0), scored(version=2)])
    first, second = sums.document()
    target = first["targets"]["load"]
    assert (first["version"], first["records"], target["cells"]) == (1, 3, 3)
    assert target["mae"] == pytest.approx((1 + 3 + 0) / 3)
    assert target["mse"] == pytest.approx((1 + 9 + 0) / 3)
    assert target["skill"] == pytest.approx(1 - 4 / (2 + 2 + 2))
    assert target["coverage"] == pytest.approx(2 / 3)
    assert target["by_step"]["2"]["mae"] is None
    assert target["by_key"]["b"]["mae"] == pytest.approx(1.5)
    assert math.isclose(second["targets"]["load"]["rmse"], 1.0)


def test_scored_steps() -> None:
    assert tiny_spec(window={"past": 3, "horizon": 24}).scored_steps == (1, 12, 24)
    assert tiny_spec(window={"past": 3, "horizon": 1}).scored_steps == (1,)
    assert tiny_spec(accuracy={"steps": [2]}).scored_steps == (2,)
    for steps, told in (([2, 1], "each once and in order"), ([1, 3], r"\$\.accuracy\.steps")):
        with pytest.raises(SpecError, match=told):
            tiny_spec(accuracy={"steps": steps})
