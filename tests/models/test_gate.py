"""The gate's thresholds: each has a decision, and what is no number never passes."""

from __future__ import annotations

import math
from typing import Any

import pytest

from models.gate import decide
from schemas.retrain_spec import Gate


def evaluation(mae: float | None, skill: float | None = 0.5, slices: dict[str, tuple[int, float]] | None = None) -> Any:
    labels = {label: {"cells": cells, "mae": of_label} for label, (cells, of_label) in (slices or {}).items()}
    return {
        "windows": 500,
        "yardsticks": ["persistence", "linear"],
        "standardised": {"mae": mae, "mse": 1.0, "rmse": 1.0, "skill": skill, "skill_linear": -0.1},
        "targets": {"load": {"by_slice": {"keys": labels}}},
    }


def failed(gate: Gate, candidate: Any, champion: Any, family: str = "lstm") -> list[str]:
    return [one.text for one in decide(gate, family, candidate, champion) if not one.passed]


def test_a_candidate_is_compared_with_the_champion() -> None:
    assert failed(Gate(), evaluation(1.0), evaluation(1.0)) == []
    assert failed(Gate(), evaluation(1.01), evaluation(1.0)) == ["mae / champion's: 1.01, expected at most 1"]
    assert failed(Gate(ratio={"mae": 1.05}), evaluation(1.01), evaluation(1.0)) == []
    names = [one.name for one in decide(Gate(ratio={"mae": 1, "rmse": 1}), "lstm", evaluation(1.0), evaluation(1.0))]
    assert names == ["windows", "skill against persistence", "mae / champion's", "rmse / champion's"]


def test_a_first_model_must_beat_the_yardsticks() -> None:
    assert failed(Gate(), evaluation(1.0), None) == ["skill against linear: -0.1, expected at least 0"]
    assert failed(Gate(), evaluation(1.0), None, family="linear") == []  # level with itself, more or less
    lenient = Gate(first={"linear": -0.2}, skill={"persistence": 0.6})
    assert failed(lenient, evaluation(1.0), None) == ["skill against persistence: 0.5, expected at least 0.6"]
    # What there is no yardstick of is not asked for.
    assert failed(Gate(first={"seasonal": 0.9}), evaluation(1.0), None) == []


def test_absolute_bounds() -> None:
    gate = Gate(error={"mae": 0.8}, min_windows=501)
    assert failed(gate, evaluation(0.9), evaluation(1.0)) == [
        "windows: 500, expected at least 501",
        "mae: 0.9, expected at most 0.8",
    ]


@pytest.mark.parametrize("value", [None, math.nan])
def test_what_is_no_number_does_not_pass(value: float | None) -> None:
    gate = Gate(error={"mae": 10.0})
    assert len(failed(gate, evaluation(value, skill=value), evaluation(1.0))) == 3
    assert len(failed(Gate(), evaluation(1.0), evaluation(value))) == 1
    assert failed(Gate(), evaluation(0.0), evaluation(0.0)) == []
    assert failed(Gate(), evaluation(0.1), evaluation(0.0)) == ["mae / champion's: inf, expected at most 1"]


def test_no_slice_may_be_worse_off() -> None:
    champion = evaluation(1.0, slices={"coast": (200, 1.0), "hills": (200, 2.0), "islands": (99, 1.0)})
    candidate = evaluation(0.8, slices={"coast": (200, 1.21), "hills": (200, 2.0), "islands": (99, 5.0)})
    assert failed(Gate(), candidate, champion) == []
    assert failed(Gate(slices={"mae": 1.2}), candidate, champion) == [
        "mae / champion's of load, keys coast: 1.21, expected at most 1.2"
    ]
