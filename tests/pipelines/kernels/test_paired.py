"""The paired test: against an independent computation, what it must not depend on, how often it errs, what it finds."""

from __future__ import annotations

import cmath
import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from scipy import stats

from pipelines.kernels.paired import compare, compare_apart, student_tail

losses = st.lists(st.floats(0.1, 10), min_size=4, max_size=40)


def naive_p(difference: list[float], overlap: int) -> float:
    """Diebold-Mariano by the definition of the periodogram, one frequency after the other."""
    n = len(difference)
    m = max(1, min(int(n ** (1 / 3) + 1e-9), n // (2 * overlap)))
    spectrum = [
        abs(sum(d * cmath.exp(-2j * cmath.pi * j * t / n) for t, d in enumerate(difference))) ** 2 / (2 * math.pi * n)
        for j in range(1, m + 1)
    ]
    long_run_variance = 2 * math.pi * sum(spectrum) / m
    statistic = (sum(difference) / n) / math.sqrt(long_run_variance / n)
    return float(stats.t.sf(statistic, 2 * m))


@given(st.integers(4, 60), st.integers(1, 30), st.integers(0, 10**6))
@settings(max_examples=60, deadline=None)
def test_as_an_independent_computation(count: int, overlap: int, seed: int) -> None:
    rng = np.random.default_rng(seed)
    new, old = rng.gamma(2, 1, count) + rng.normal() / 3, rng.gamma(2, 1, count)
    found = compare(new, old, overlap=overlap, tolerance=0.1)
    assert found.p == pytest.approx(naive_p((new - 1.1 * old).tolist(), overlap), abs=1e-9)
    assert (found.new, found.old) == pytest.approx((new.mean(), old.mean()))


@pytest.mark.parametrize("degrees", [2, 4, 6, 10, 40])
def test_the_tail_of_student(degrees: int) -> None:
    for statistic in (-9.0, -1.2, 0.0, 0.3, 1.7, 4.0, 30.0):
        assert student_tail(statistic, degrees) == pytest.approx(stats.t.sf(statistic, degrees), abs=1e-14)


@given(losses, st.integers(0, 10**6), st.floats(0.01, 100))
@settings(max_examples=60, deadline=None)
def test_units_do_not_matter_and_one_is_worse_as_the_other_is_better(new: list[float], seed: int, unit: float) -> None:
    old = np.random.default_rng(seed).permutation(new) + 0.25
    one = compare(np.array(new), old, overlap=3)
    assert compare(unit * np.array(new), unit * old, overlap=3).p == pytest.approx(one.p, abs=1e-6)
    assert compare(old, np.array(new), overlap=3).p == pytest.approx(1 - one.p, abs=1e-6)


def test_equal_and_always_worse() -> None:
    rising = np.arange(1.0, 21.0)
    assert compare(rising, rising, overlap=1).p == 0.5
    assert compare(rising + 1, rising, overlap=1).p == 0.0
    assert compare(rising, rising + 1, overlap=1).p == 1.0
    assert compare(rising + 1, rising, overlap=1).is_worse(0.999)
    assert not compare(1.05 * rising, rising, overlap=1, tolerance=0.1).is_worse(0.5)


def test_too_few_origins_show_nothing() -> None:
    found = compare(np.full(3, 9.0), np.ones(3), overlap=1)
    assert math.isnan(found.p)
    assert not found.is_worse(0.5)


def moving_average(rng: np.random.Generator, count: int, overlap: int) -> NDArray[np.float64]:
    """Differences as of forecasts whose horizons overlap."""
    shocks = rng.standard_normal(count + overlap - 1)
    return np.convolve(shocks, np.full(overlap, overlap**-0.5), "valid")


@pytest.mark.parametrize("count", [50, 200])
@pytest.mark.parametrize("overlap", [1, 6, 24])
def test_versions_that_are_no_worse_are_seldom_called_so(count: int, overlap: int) -> None:
    """At 95 % confidence in about one case of twenty, also where horizons overlap by half of all there is."""
    rng = np.random.default_rng(count + overlap)
    found = [
        compare(moving_average(rng, count, overlap), np.zeros(count), overlap=overlap).is_worse(0.95)
        for _ in range(500)
    ]
    assert np.mean(found) < 0.11


def test_a_worse_version_is_found() -> None:
    rng = np.random.default_rng(3)
    found = []
    for _ in range(200):
        hardness = rng.gamma(4, 1, 100)  # of each window, for both
        new = 1.2 * hardness + 0.3 * rng.standard_normal(100)
        found.append(compare(new, hardness, overlap=6).is_worse(0.95))
    assert np.mean(found) > 0.95


def apart(rng: np.random.Generator, count: int, skill: float) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Losses of a version of some skill, and of the yardstick, on windows of their own."""
    yardstick = rng.gamma(4, 1, count)
    return (1 - skill) * yardstick * rng.gamma(20, 0.05, count), yardstick


def test_on_windows_of_their_own_it_is_the_skill_that_counts() -> None:
    """A harder season is not the version's fault: losses rise with the yardstick's."""
    rng = np.random.default_rng(4)
    found: dict[float, list[bool]] = {0.3: [], 0.0: []}
    for _ in range(300):
        old = apart(rng, 80, 0.3)
        for skill, called in found.items():
            losses, yardstick = apart(rng, 120, skill)
            result = compare_apart((3 * losses, 3 * yardstick), old, overlap=1)
            assert result.new == pytest.approx(losses.mean() / yardstick.mean())
            called.append(result.is_worse(0.95))
    assert np.mean(found[0.3]) < 0.11
    assert np.mean(found[0.0]) > 0.95
