"""The yardstick and the evaluation, against naive loops."""

from __future__ import annotations

import math
from collections import defaultdict
from typing import Any

import numpy as np
import pytest

from models.evaluation import Errors, evaluate_persistence
from models.reader import windows
from models.scaling import Constants
from models.yardsticks import persistence, skill
from schemas.dataset import DatasetFolder
from tests.models.conftest import easy_spec


def test_persistence_is_the_last_observed_value() -> None:
    rng = np.random.default_rng(3)
    values = rng.normal(size=(50, 7, 2)).astype(np.float32)
    observed = rng.random((50, 7, 2)) < 0.3
    observed[0] = False
    got = persistence(values, observed, 4)
    assert got.shape == (50, 4, 2)
    assert got.dtype == np.float32
    for window in range(50):
        for column in range(2):
            expected = math.nan
            for step in range(7):
                if observed[window, step, column]:
                    expected = values[window, step, column]
            np.testing.assert_array_equal(got[window, :, column], np.full(4, expected, np.float32))


def test_skill() -> None:
    assert skill(0, 2) == 1
    assert skill(2, 2) == 0
    assert skill(3, 2) == -0.5
    assert skill(0, 0) is None


def test_report_against_a_naive_loop(easy_dataset: DatasetFolder) -> None:
    spec = easy_spec(model={"scaling": "per_key"})
    constants = Constants.of(spec, easy_dataset.statistics)
    rng = np.random.default_rng(0)
    errors = Errors(spec, ["north"])
    naive: dict[Any, list[tuple[float, float, float]]] = defaultdict(list)
    for batch in windows(easy_dataset, "test", batch_size=50).as_numpy_iterator():
        keys = [key.decode() for key in batch["key"]]
        deviation = np.array([easy_dataset.statistics.keys[key]["load"].std for key in keys], np.float32)
        mean = rng.normal(150, 50, batch["target_values"].shape).astype(np.float32)
        errors.add(batch | {"target_deviation": deviation[:, None]}, mean)
        last = persistence(batch["past_values"][..., 1:2], batch["past_observed"][..., 1:2], 6)
        for window, key in enumerate(keys):
            for step in range(6):
                if batch["target_observed"][window, step, 0]:
                    actual = float(batch["target_values"][window, step, 0])
                    pair = float(mean[window, step, 0]) - actual, float(last[window, step, 0]) - actual
                    for group in ("all", ("key", key), ("step", step)):
                        naive[group].append((*pair, float(deviation[window])))
    report = errors.report()

    def check(scores: dict[str, Any], group: Any) -> None:
        cells = naive[group]
        assert scores["cells"] == len(cells)
        assert scores["mae"] == pytest.approx(sum(abs(error) for error, _, _ in cells) / len(cells))
        assert scores["mse"] == pytest.approx(sum(error**2 for error, _, _ in cells) / len(cells))
        assert scores["mae_persistence"] == pytest.approx(sum(abs(missed) for _, missed, _ in cells) / len(cells))
        assert scores["skill"] == pytest.approx(1 - scores["mae"] / scores["mae_persistence"])

    load = report["targets"]["load"]
    assert load["unit"] == "MW"
    check(load, "all")
    for key in ("north", "süd"):
        check(load["by_key"][key], ("key", key))
    assert len(load["by_horizon"]) == 6
    for step, scores in enumerate(load["by_horizon"]):
        check(scores, ("step", step))
    standard = sum(abs(error) / scale for error, _, scale in naive["all"]) / len(naive["all"])
    assert report["standardised"]["mae"] == pytest.approx(standard)
    assert report["windows"] == easy_dataset.split("test").windows
    assert report["windows_by_key"] == easy_dataset.split("test").windows_by_key
    assert report["windows_of_unknown_keys"] == easy_dataset.split("test").windows_by_key["süd"]
    assert constants.keys == ("north", "süd")


def test_persistence_has_no_skill_over_itself(easy_dataset: DatasetFolder) -> None:
    report = evaluate_persistence(easy_spec(), easy_dataset, "validation")
    assert report["standardised"]["skill"] == 0
    assert report["windows"] == easy_dataset.split("validation").windows
