"""Scores against plain loops over cells, and against their definitions."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pipelines.kernels.metrics import (
    Confusion,
    Sums,
    central_intervals,
    crps_weights,
    forecast_scores,
    owa,
    pinball,
    point_terms,
    quantile_terms,
    seasonal_scale,
    skill,
    symmetric_errors,
)

LEVELS = (0.025, 0.1, 0.5, 0.9, 0.975)
LABELS = ("low", "high")


def naive_scores(cells: Sequence[dict[str, Any]]) -> dict[str, Any]:
    """The scores of a list of cells, one by one."""
    scaled = [cell for cell in cells if cell["scale"] > 0]

    def mean(values: list[float]) -> float | None:
        return sum(values) / len(values) if values else None

    def interval(cell: dict[str, Any], low: int, high: int) -> float:
        lower, upper, y = cell["quantiles"][low], cell["quantiles"][high], cell["y"]
        alpha = 2 * LEVELS[low]
        return float(upper - lower + 2 / alpha * ((lower - y) * (y < lower) + (y - upper) * (y > upper)))

    def loss(cell: dict[str, Any], number: int) -> float:
        above = cell["y"] - cell["quantiles"][number]
        return float(LEVELS[number] * above if above > 0 else (LEVELS[number] - 1) * above)

    weights = [0.0625, 0.2375, 0.4, 0.2375, 0.0625]
    mse = mean([(cell["f"] - cell["y"]) ** 2 for cell in cells])
    return {
        "cells": len(cells),
        "mae": mean([abs(cell["f"] - cell["y"]) for cell in cells]),
        "mse": mse,
        "rmse": None if mse is None else math.sqrt(mse),
        "smape": mean(
            [200 * abs(c["f"] - c["y"]) / (abs(c["f"]) + abs(c["y"])) if c["f"] or c["y"] else 0.0 for c in cells]
        ),
        "mase": mean([abs(cell["f"] - cell["y"]) / cell["scale"] for cell in scaled]),
        "quantile_loss": {f"{level:g}": mean([loss(c, n) for c in cells]) for n, level in enumerate(LEVELS)},
        "below": {
            f"{level:g}": mean([float(c["y"] <= c["quantiles"][n]) for c in cells]) for n, level in enumerate(LEVELS)
        },
        "crps": mean([2 * sum(weights[n] * loss(c, n) for n in range(5)) for c in cells]),
        "coverage": {
            "0.8": mean([float(c["quantiles"][1] <= c["y"] <= c["quantiles"][3]) for c in cells]),
            "0.95": mean([float(c["quantiles"][0] <= c["y"] <= c["quantiles"][4]) for c in cells]),
        },
        "interval_width": {
            "0.8": mean([float(c["quantiles"][3] - c["quantiles"][1]) for c in cells]),
            "0.95": mean([float(c["quantiles"][4] - c["quantiles"][0]) for c in cells]),
        },
        "msis": {
            "0.8": mean([interval(c, 1, 3) / c["scale"] for c in scaled]),
            "0.95": mean([interval(c, 0, 4) / c["scale"] for c in scaled]),
        },
    }


def assert_same(got: Any, expected: Any) -> None:
    assert got.keys() == expected.keys()
    for name, value in expected.items():
        if isinstance(value, dict):
            assert_same(got[name], value)
        else:
            assert got[name] == (None if value is None else pytest.approx(value, rel=1e-9)), name


@settings(max_examples=30, deadline=None)
@given(st.integers(0, 2**32 - 1), st.integers(1, 5), st.integers(1, 4), st.integers(1, 3), st.floats(0, 1))
def test_sums_of_batches_give_the_scores_of_a_plain_loop(
    seed: int, batches: int, horizon: int, targets: int, share: float
) -> None:
    rng = np.random.default_rng(seed)
    sums = Sums(horizon, targets, {"size": LABELS})
    cells: list[dict[str, Any]] = []
    for _ in range(batches):
        count = int(rng.integers(1, 9))
        shape = (count, horizon, targets)
        keys = rng.choice(["a", "b<script>", "ü", "d"], count).tolist()
        y, f = rng.integers(-3, 4, shape).astype(float), rng.integers(-3, 4, shape).astype(float)
        quantiles = np.sort(rng.normal(size=(*shape, len(LEVELS))), axis=-1)
        observed = rng.random(shape) < share
        scale = rng.choice([math.nan, 0.0, 0.5, 2.0], (count, 1, targets))
        deviation = rng.random((count, 1, targets)) + 0.5
        groups = rng.integers(-1, 2, (count, horizon))
        terms = point_terms(y, f, deviation=deviation, scale=scale) | quantile_terms(y, quantiles, LEVELS, scale=scale)
        # What is not observed is unknown.
        terms = {name: np.where(observed, term, math.nan) for name, term in terms.items()}
        sums.add(keys, observed, terms, scale, {"size": groups})
        cells += [
            {
                "key": keys[w],
                "step": h,
                "target": t,
                "group": groups[w, h],
                "y": y[w, h, t],
                "f": f[w, h, t],
                "quantiles": quantiles[w, h, t],
                "scale": scale[w, 0, t],
                "standard": abs(f[w, h, t] - y[w, h, t]) / deviation[w, 0, t],
            }
            for w, h, t in np.argwhere(observed)
        ]

    def check(found: dict[str, Any], target: int, chosen: list[dict[str, Any]]) -> None:
        mine = [cell for cell in chosen if cell["target"] == target]
        of_target = {name: float(value[target]) for name, value in found.items()}
        assert_same(forecast_scores(of_target, LEVELS), naive_scores(mine))
        assert of_target["standard"] == pytest.approx(sum(cell["standard"] for cell in mine))
        assert of_target["standard_squared"] == pytest.approx(sum(cell["standard"] ** 2 for cell in mine))

    for target in range(targets):
        check(sums.total(), target, cells)
        for step in range(horizon):
            check(sums.of_step(step), target, [cell for cell in cells if cell["step"] == step])
        for key in sums.windows_by_key:
            check(sums.of_key(key), target, [cell for cell in cells if cell["key"] == key])
        for number, label in enumerate(LABELS):
            check(sums.of_label("size", label), target, [cell for cell in cells if cell["group"] == number])


def test_scores_of_nothing_are_none() -> None:
    sums = dict.fromkeys(("cells", "scaled_cells", "absolute", "squared", "symmetric", "scaled"), 0.0)
    assert forecast_scores(sums) == {
        "cells": 0, "mae": None, "mse": None, "rmse": None, "smape": None, "mase": None
    }  # fmt: skip


@given(st.lists(st.tuples(st.integers(0, 40), st.floats(-10, 10)), max_size=30), st.integers(1, 9))
def test_the_seasonal_scale_is_of_observed_steps_a_season_apart(rows: list[tuple[int, float]], season: int) -> None:
    series = dict(rows)
    step = np.array(sorted(series), np.int64)
    got = seasonal_scale(step, np.array([series[number] for number in step.tolist()]), season)
    apart = [abs(series[number] - series[number - season]) for number in series if number - season in series]
    assert math.isnan(got) if not apart else got == pytest.approx(sum(apart) / len(apart))


def test_published_owa_of_the_seasonal_naive_forecast() -> None:
    # M4, hourly: sMAPE and MASE of sNaive and Naive2 as the competition published them.
    assert owa(13.912, 1.193, 18.383, 2.395) == pytest.approx(0.627, abs=5e-4)


def test_symmetric_errors_are_at_most_200_and_0_for_two_zeros() -> None:
    got = symmetric_errors(np.array([0.0, 1.0, 1.0, -1.0, 0.0]), np.array([0.0, 1.0, 3.0, 1.0, 5.0]))
    assert got.tolist() == [0.0, 0.0, 100.0, 200.0, 200.0]


def test_crps_of_many_levels_is_the_integral_of_the_squared_distance_of_distributions() -> None:
    # A uniform forecast on [0, 1] and an observation of 0.3: the integral of (F(x) - [x >= 0.3])^2.
    levels = ((np.arange(1000) + 0.5) / 1000).tolist()
    losses = pinball(np.array(0.3), np.array(levels), levels)
    assert 2 * crps_weights(levels) @ losses == pytest.approx(0.3**3 / 3 + 0.7**3 / 3, rel=1e-4)
    assert crps_weights((0.1, 0.5, 0.8)).tolist() == pytest.approx([0.3, 0.35, 0.35])


def test_central_intervals_are_pairs_of_levels() -> None:
    assert central_intervals(LEVELS) == {0.8: (1, 3), 0.95: (0, 4)}
    assert list(central_intervals(LEVELS)) == [0.8, 0.95]
    assert central_intervals((0.1, 0.2, 0.7, 0.9)) == {0.8: (0, 3)}
    assert central_intervals((0.5,)) == {}


def test_the_median_minimises_the_pinball_loss_of_one_half() -> None:
    rng = np.random.default_rng(0)
    sample = rng.exponential(size=2001)
    for level in (0.1, 0.5, 0.9):
        at = np.linspace(0, 4, 401)
        loss = [pinball(sample, np.full((len(sample), 1), x), [level]).mean() for x in at]
        assert at[int(np.argmin(loss))] == pytest.approx(np.quantile(sample, level), abs=0.02)


def test_skill() -> None:
    assert skill(0, 2) == 1
    assert skill(2, 2) == 0
    assert skill(3, 2) == -0.5
    assert skill(0, 0) is None


def test_classifications_against_counts_of_cases() -> None:
    rng = np.random.default_rng(1)
    classes = ("a", "b", "c", "never")
    actual = rng.integers(0, 3, 500)
    predicted = np.where(rng.random(500) < 0.6, actual, rng.integers(0, 3, 500))
    confusion = Confusion(classes)
    for part in (slice(0, 123), slice(123, 500)):
        confusion.add(actual[part], predicted[part])
    scores: Any = confusion.scores()
    pairs = list(zip(actual.tolist(), predicted.tolist(), strict=True))
    assert scores["cases"] == 500
    assert scores["accuracy"] == pytest.approx(sum(a == p for a, p in pairs) / 500)
    f1 = []
    for number, name in enumerate(classes[:3]):
        hits = pairs.count((number, number))
        precision = hits / sum(p == number for _, p in pairs)
        recall = hits / sum(a == number for a, _ in pairs)
        f1.append(2 / (1 / precision + 1 / recall))
        assert scores["by_class"][name] == {
            "cases": sum(a == number for a, _ in pairs),
            "precision": pytest.approx(precision),
            "recall": pytest.approx(recall),
            "f1": pytest.approx(f1[-1]),
        }
    assert scores["by_class"]["never"] == {"cases": 0, "precision": None, "recall": None, "f1": None}
    assert scores["macro_f1"] == pytest.approx(sum(f1) / 3)
    assert scores["confusion"] == [[pairs.count((a, p)) for p in range(4)] for a in range(4)]
    assert Confusion(classes).scores()["accuracy"] is None
