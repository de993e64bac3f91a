"""The anomaly score: its sides, its bounds, and what it says of calibrated intervals."""

from __future__ import annotations

import numpy as np

from pipelines.kernels.anomaly import anomaly_score


def test_each_side_is_measured_by_its_own_distance() -> None:
    actual = np.array([10.0, 14.0, 8.0, 18.0, 6.0, np.nan])
    got = anomaly_score(actual, np.full(6, 10.0), np.full(6, 8.0), np.full(6, 14.0))
    np.testing.assert_array_equal(got, [0.0, 1.0, -1.0, 2.0, -2.0, np.nan])


def test_an_interval_without_room() -> None:
    got = anomaly_score(np.array([1.0, 2.0, 0.0]), np.ones(3), np.ones(3), np.ones(3))
    np.testing.assert_array_equal(got, [0.0, np.inf, -np.inf])


def test_what_is_beyond_1_is_what_the_interval_misses() -> None:
    rng = np.random.default_rng(0)
    actual, centre = rng.normal(size=10_000), np.zeros(10_000)
    lower, upper = np.full(10_000, -1.96), np.full(10_000, 1.5)
    outside = (actual < lower) | (actual > upper)
    np.testing.assert_array_equal(np.abs(anomaly_score(actual, centre, lower, upper)) > 1, outside)
