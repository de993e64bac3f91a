"""The search space of a tuner: what it draws, and what it says of mistakes."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from schemas.errors import SpecError
from schemas.search_space import Range, SearchSpace, load_search_space, with_values


def space(tmp_path: Path, text: str) -> SearchSpace:
    path = tmp_path / "space.yaml"
    path.write_text(text)
    return load_search_space(path)


def test_ranges() -> None:
    rng = np.random.default_rng(0)
    whole = [Range(low=1, high=3).draw(rng) for _ in range(300)]
    assert {value: 60 < whole.count(value) < 140 for value in set(whole)} == {1: True, 2: True, 3: True}
    even = [Range(low=0.0, high=0.5).draw(rng) for _ in range(300)]
    assert 0 <= min(even) < 0.02
    assert 0.48 < max(even) <= 0.5
    logs = [Range(low=1e-4, high=1e-2, log=True).draw(rng) for _ in range(300)]
    assert 100 < sum(value < 1e-3 for value in logs) < 200
    powers = [Range(low=1, high=100, log=True).draw(rng) for _ in range(300)]
    assert {type(value) for value in powers} == {int}
    assert 100 < sum(value < 10 for value in powers) < 200


def test_a_file(tmp_path: Path) -> None:
    found = space(
        tmp_path,
        "model.units: [8, 16]\ntraining.learning_rate: {low: 1e-4, high: 1e-2, log: true}\nmodel: [{family: lstm}]\n",
    )
    assert list(found.fields) == ["model", "model.units", "training.learning_rate"]
    drawn = found.draw(np.random.default_rng(1))
    document: dict[str, Any] = {"model": {"family": "mlp", "layers": 9}, "window": {"past": 3}}
    changed = with_values(document, drawn)
    assert changed == {
        "model": {"family": "lstm", "units": drawn["model.units"]},
        "window": {"past": 3},
        "training": {"learning_rate": drawn["training.learning_rate"]},
    }
    assert document == {"model": {"family": "mlp", "layers": 9}, "window": {"past": 3}}


@pytest.mark.parametrize(
    ("text", "problem"),
    [
        ("window.past: [1, 2]", "expected a path in model or training; the windows are the dataset's"),
        ("model.units: 3", "expected a list of values or a range"),
        ("model.units: []", "expected a list of values or a range"),
        ("model.units: {low: 3, high: 1}", "expected low below high, got 3 and 1"),
        ("model.units: {low: 0, high: 1, log: true}", "a logarithmic range begins above 0"),
        ("model.units: {low: 0, hihg: 1}", "unknown field; did you mean 'high'"),
    ],
)
def test_mistakes(text: str, problem: str, tmp_path: Path) -> None:
    with pytest.raises(SpecError, match=problem):
        space(tmp_path, text)
