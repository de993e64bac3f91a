"""The Page-Hinkley test: quiet while nothing changes, loud soon after a rise, and quiet again."""

from __future__ import annotations

import random

import numpy as np
import pytest

from pipelines.kernels.drift import histograms, population_stability
from pipelines.kernels.page_hinkley import CEILING, PageHinkley
from pipelines.kernels.sketch import Sketch


def measures(values: list[float], threshold: float = 2.0) -> list[float]:
    test, found = PageHinkley(), []
    for value in values:
        test = test.after(value, tolerance=0.2, threshold=threshold, warm_up=5)
        found.append(test.measure)
    return found


def test_against_the_sums_as_they_are_defined() -> None:
    """The measure is the sum less the lowest that it has been."""
    rng = random.Random(1)
    values = [rng.uniform(0.5, 1.6) for _ in range(60)]
    sums = [0.0]
    for number in range(5, len(values)):
        mean = sum(values[:number]) / number
        sums.append(sums[-1] + values[number] / mean - 1 - 0.2)
    expected = [total - min(sums[: number + 1]) for number, total in enumerate(sums)]
    assert measures(values, threshold=100.0)[4:] == pytest.approx(expected)


def test_a_rise_is_told_and_comes_to_an_end() -> None:
    rng = random.Random(2)
    usual = [rng.uniform(0.8, 1.2) for _ in range(100)]
    raised = [rng.uniform(1.6, 2.4) for _ in range(30)]
    found = measures([*usual, *raised, *usual])
    assert max(found[:100]) < 1.0
    assert found[103] > 2.0
    assert max(found) <= CEILING * 2.0
    assert found[-1] < 1.0
    half = PageHinkley(*PageHinkley(3, 1.0, 0.5).document())
    assert half == PageHinkley(3, 1.0, 0.5)


def test_population_stability_as_it_is_defined() -> None:
    left, right = np.array([10, 20, 70]), np.array([30, 70, 0])
    p, q = left / 100, np.array([30, 70, 0.5]) / 100.5
    assert population_stability(left, right) == pytest.approx(float(((q - p) * np.log(q / p)).sum()))
    rng = np.random.default_rng(0)
    one, two, far = (Sketch.of(rng.normal(mean, 1, 5_000).astype(np.float32)) for mean in (0, 0, 1))
    assert population_stability(*histograms(one, two)) < 0.02
    assert population_stability(*histograms(one, far)) > 0.25
