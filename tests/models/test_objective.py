"""Only observed cells count, in losses, gradients and metrics."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import tensorflow as tf

from models.objective import LOSSES, add_deviation, objective, supervise
from models.scaling import Constants
from tests.models.conftest import easy_spec
from tests.models.test_forecaster import STATISTICS

NAIVE: dict[str, Callable[[float], float]] = {
    "mse": lambda error: error * error,
    "mae": abs,
    "huber": lambda error: error * error / 2 if abs(error) <= 1 else abs(error) - 0.5,
}


def batch() -> dict[str, Any]:
    """Four windows of two horizon steps and one target; one window without any observed cell."""
    value = np.array([[150, 160], [np.nan, 120], [70, np.nan], [np.nan, np.nan]], np.float32)[..., None]
    return {
        "past_values": tf.zeros((4, 3, 3)),
        "past_observed": tf.ones((4, 3, 3), tf.bool),
        "future_values": tf.zeros((4, 2, 1)),
        "key": tf.constant(["north", "süd", "west", "north"]),
        "target_values": tf.constant(value),
        # The second value of the first window was filled: there, but not observed.
        "target_observed": tf.constant(np.array([[1, 0], [0, 1], [1, 0], [0, 0]], bool)[..., None]),
    }


def labelled(scaling: str) -> tuple[Any, Any, Any]:
    spec = easy_spec(model={"scaling": scaling})
    inputs, labels, weights = supervise(spec)(add_deviation(spec, Constants.of(spec, STATISTICS))(batch()))
    return inputs, labels, weights


def costs(name: str, labels: Any, mean: Any) -> Any:
    return objective(easy_spec(training={"loss": name})).cost(labels, {"mean": mean})


@pytest.mark.parametrize("name", sorted(LOSSES))
@pytest.mark.parametrize("scaling", ["shared", "per_key", "window"])
def test_costs_are_of_errors_in_deviations_and_only_observed_cells_weigh(name: str, scaling: str) -> None:
    _, labels, weights = labelled(scaling)
    mean = tf.constant([[[140.0], [1e9]], [[np.pi], [115.0]], [[200.0], [-1e9]], [[0.0], [1.0]]])
    deviation = [50, 50, 50] if scaling == "shared" else [10, 20, 50]
    errors = [(140 - 150) / deviation[0], (115 - 120) / deviation[1], (200 - 70) / deviation[2]]
    np.testing.assert_array_equal(weights[..., 0], [[1, 0], [0, 1], [1, 0], [0, 0]])
    found = costs(name, labels, mean).numpy()[weights.numpy() == 1]
    np.testing.assert_allclose(found, [NAIVE[name](error) for error in errors], rtol=1e-6)
    absolute = objective(easy_spec()).metrics["mae"](labels, {"mean": mean}).numpy()[weights.numpy() == 1]
    np.testing.assert_allclose(absolute, np.abs(errors), rtol=1e-6)


@pytest.mark.parametrize("name", sorted(LOSSES))
def test_masked_cells_have_no_gradient(name: str) -> None:
    _, labels, weights = labelled("shared")
    mean = tf.Variable(tf.random.stateless_normal((4, 2, 1), (1, 2)))
    with tf.GradientTape() as tape:
        loss = tf.reduce_sum(costs(name, labels, mean) * weights)
    gradient = tape.gradient(loss, mean).numpy()
    np.testing.assert_array_equal(gradient != 0, batch()["target_observed"].numpy())


@pytest.mark.parametrize("levels", [(0.5,), (0.1, 0.5, 0.8)])
def test_quantile_loss_is_the_mean_over_levels(levels: tuple[float, ...]) -> None:
    _, labels, weights = labelled("shared")
    quantiles = np.random.default_rng(0).normal(120, 40, (4, 2, 1, len(levels))).astype(np.float32)
    expected = []
    for window, step, value in ((0, 0, 150), (1, 1, 120), (2, 0, 70)):
        costs = []
        for level, quantile in zip(levels, quantiles[window, step, 0].tolist(), strict=True):
            short = (value - quantile) / 50
            costs.append(level * short if short > 0 else (level - 1) * short)
        expected.append(sum(costs) / len(levels))
    outputs = {"mean": tf.zeros((4, 2, 1)), "quantiles": tf.constant(quantiles)}
    found = objective(easy_spec(model={"quantiles": list(levels)})).cost(labels, outputs).numpy()
    np.testing.assert_allclose(found[weights.numpy() == 1], expected, rtol=1e-5)


def test_inputs_are_those_of_the_model() -> None:
    assert set(labelled("shared")[0]) == {"past_values", "past_observed", "future_values"}
    assert set(labelled("per_key")[0]) == {"past_values", "past_observed", "future_values", "key"}
