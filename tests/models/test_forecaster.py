"""Scaling, masks and units, all inside the model."""

from __future__ import annotations

from typing import Any

import keras
import numpy as np
import pytest
from numpy.typing import NDArray

from models.forecaster import build_forecaster
from models.forms import input_forms
from models.scaling import SCALINGS, Cells, Constants
from schemas.dataset import Moments, Statistics
from schemas.errors import ModelError
from schemas.spec import Spec
from tests.models.conftest import easy_spec

SCALING_NAMES = sorted(SCALINGS)
WIND, LOAD, TIME_OF_DAY = range(3)


def moments(mean: float, std: float) -> Moments:
    return Moments(count=9, mean=mean, std=std, min=mean - std, max=mean + std)


STATISTICS = Statistics(
    features={"wind": moments(5, 2), "load": moments(150, 50)},
    keys={"north": {"wind": moments(4, 1), "load": moments(100, 10)}, "süd": {"load": moments(200, 20)}},
)


def inputs_of(spec: Spec, batch: int = 5) -> dict[str, NDArray[Any]]:
    rng = np.random.default_rng(0)
    past, horizon = spec.window.past, spec.window.horizon
    values = np.stack(
        (rng.normal(5, 2, (batch, past)), rng.normal(150, 50, (batch, past)), rng.uniform(-0.5, 0.5, (batch, past))),
        axis=-1,
    ).astype(np.float32)
    observed = np.ones(values.shape, np.bool_)
    values[0, -9:, WIND], observed[0, -9:, WIND] = np.nan, False
    values[1, :, WIND], observed[1, :, WIND] = np.nan, False
    observed[2, -3:, LOAD] = False  # filled cells
    key = np.array([b"north", "süd".encode(), b"west", b"north", b""])[:batch]
    future = rng.uniform(-0.5, 0.5, (batch, horizon, 1)).astype(np.float32)
    inputs = {"past_values": values, "past_observed": observed, "future_values": future, "key": key}
    inputs["first_step"] = np.arange(100, 100 + 7 * batch, 7)
    return {name: inputs[name] for name in input_forms(spec)}


def mean_of(model: Any, inputs: dict[str, Any]) -> NDArray[np.float32]:
    mean: NDArray[np.float32] = model.predict_on_batch(inputs)["mean"]
    return mean


def build(scaling: str, statistics: Statistics = STATISTICS, **model: Any) -> tuple[Spec, Any]:
    keras.utils.set_random_seed(1)
    spec = easy_spec(model={"scaling": scaling, **model})
    return spec, build_forecaster(spec, statistics)


def naive_last_observed(inputs: dict[str, NDArray[Any]], column: int) -> list[float]:
    found = []
    for values, observed in zip(inputs["past_values"], inputs["past_observed"], strict=True):
        steps = [step for step in range(len(values)) if observed[step, column]]
        found.append(float(values[steps[-1], column]))
    return found


def test_constants_fall_back_to_shared_ones_and_never_divide_by_zero() -> None:
    statistics = Statistics(
        features={"load": moments(7, 0)}, keys={"b": {"load": moments(1e6, 1e-3)}, "a": {"load": moments(3, 2)}}
    )
    constants = Constants.of(easy_spec(), statistics)
    assert constants.keys == ("a", "b")
    np.testing.assert_array_equal(constants.mean, [[0, 3], [0, 1e6], [0, 7]])  # wind was never observed
    np.testing.assert_array_equal(constants.deviation, [[1, 2], [1, 1], [1, 1]])


def test_scalings_against_plain_numpy() -> None:
    inputs = inputs_of(easy_spec(model={"scaling": "per_key"}))
    raw, observed = inputs["past_values"][..., :2], inputs["past_observed"][..., :2]
    cells = Cells(np.nan_to_num(raw), observed.astype(np.float32), inputs["key"])
    constants = Constants.of(easy_spec(), STATISTICS)

    mean, deviation = (np.asarray(part) for part in SCALINGS["shared"](constants, cells))
    np.testing.assert_array_equal(mean, [[5, 150]] * 5)
    np.testing.assert_array_equal(deviation, [[2, 50]] * 5)

    mean, deviation = (np.asarray(part) for part in SCALINGS["per_key"](constants, cells))
    np.testing.assert_array_equal(mean, [[4, 100], [5, 200], [5, 150], [4, 100], [5, 150]])
    np.testing.assert_array_equal(deviation, [[1, 10], [2, 20], [2, 50], [1, 10], [2, 50]])

    mean, deviation = (np.asarray(part) for part in SCALINGS["window"](constants, cells))
    for window in range(5):
        for column in range(2):
            seen = raw[window, observed[window, :, column], column].astype(np.float64)
            expected = (seen.mean(), seen.std()) if len(seen) else ((5, 150)[column], (2, 50)[column])
            np.testing.assert_allclose((mean[window, column], deviation[window, column]), expected, rtol=1e-5)


def test_a_window_that_hardly_moves_is_not_blown_up() -> None:
    constants = Constants.of(easy_spec(), STATISTICS)
    cells = Cells(np.full((1, 4, 2), 3, np.float32), np.ones((1, 4, 2), np.float32), None)
    _, deviation = SCALINGS["window"](constants, cells)
    np.testing.assert_allclose(np.asarray(deviation), [[0.01, 0.1]], rtol=1e-5)


@pytest.mark.parametrize("scaling", SCALING_NAMES)
def test_without_a_move_the_forecast_is_the_last_observed_value(scaling: str) -> None:
    spec, model = build(scaling)
    model.set_weights([np.zeros_like(weight) for weight in model.get_weights()])
    inputs = inputs_of(spec)
    expected = np.repeat(np.array(naive_last_observed(inputs, LOAD))[:, None, None], spec.window.horizon, axis=1)
    np.testing.assert_allclose(mean_of(model, inputs), expected, rtol=1e-5)


@pytest.mark.parametrize("scaling", SCALING_NAMES)
def test_normalisation_is_in_the_graph(scaling: str) -> None:
    spec, model = build(scaling)
    factor, offset = 1000.0, -300.0

    def rescaled(by_feature: dict[str, Moments]) -> dict[str, Moments]:
        load = by_feature["load"]
        return by_feature | {"load": moments(load.mean * factor + offset, load.std * factor)}

    other = build_forecaster(
        spec,
        Statistics(
            features=rescaled(STATISTICS.features), keys={key: rescaled(by) for key, by in STATISTICS.keys.items()}
        ),
    )
    other.set_weights(model.get_weights())
    inputs = inputs_of(spec)
    scaled = inputs | {"past_values": inputs["past_values"].copy()}
    scaled["past_values"][..., LOAD] = inputs["past_values"][..., LOAD] * factor + offset
    expected = mean_of(model, inputs) * factor + offset
    np.testing.assert_allclose(mean_of(other, scaled), expected, rtol=1e-4)


@pytest.mark.parametrize("scaling", SCALING_NAMES)
@pytest.mark.parametrize("missing", [np.nan, np.inf, -np.inf])
def test_a_value_that_is_not_finite_is_missing_whatever_its_flag_says(scaling: str, missing: float) -> None:
    spec, model = build(scaling)
    inputs = inputs_of(spec)
    masked = inputs | {"past_values": inputs["past_values"].copy(), "past_observed": inputs["past_observed"].copy()}
    masked["past_values"][:, 3:7, LOAD] = np.nan
    masked["past_observed"][:, 3:7, LOAD] = False
    lying = inputs | {"past_values": inputs["past_values"].copy()}
    lying["past_values"][:, 3:7, LOAD] = missing
    np.testing.assert_array_equal(mean_of(model, masked), mean_of(model, lying))
    assert not np.allclose(mean_of(model, masked), mean_of(model, inputs))


@pytest.mark.parametrize("scaling", SCALING_NAMES)
def test_nothing_observed_gives_finite_numbers(scaling: str) -> None:
    spec, model = build(scaling)
    inputs = inputs_of(spec)
    inputs["past_values"] = np.full_like(inputs["past_values"], np.nan)
    inputs["past_observed"] = np.zeros_like(inputs["past_observed"])
    assert np.isfinite(mean_of(model, inputs)).all()


def test_a_filled_value_counts_as_input_but_not_as_observed() -> None:
    spec, model = build("window")
    inputs = inputs_of(spec)
    other = inputs | {"past_values": inputs["past_values"].copy()}
    other["past_values"][2, -3:, LOAD] += 40  # filled cells
    changed = np.any(mean_of(model, inputs) != mean_of(model, other), axis=(1, 2))
    np.testing.assert_array_equal(changed, [False, False, True, False, False])
    model.set_weights([np.zeros_like(weight) for weight in model.get_weights()])
    np.testing.assert_array_equal(mean_of(model, inputs), mean_of(model, other))  # neither last value nor statistics


@pytest.mark.parametrize(
    "window", [{"past": 1, "horizon": 1}, {"past": 5, "horizon": 3}, {"past": 26, "horizon": 2}, {"past": 24}]
)
@pytest.mark.parametrize("options", [{}, {"layers": 2, "dropout": 0.5}, {"segment": 1}, {"segment": 100}])
def test_the_family_takes_every_length(window: dict[str, int], options: dict[str, Any]) -> None:
    features = [
        {"name": "wind", "role": "past"},
        {"name": "load", "role": "target"},
        {"name": "sun", "role": "target"},
    ]
    spec = easy_spec(window=window, model=options, stream={"features": features})
    model = build_forecaster(spec, STATISTICS)
    form = input_forms(spec)["past_values"]
    inputs = {"past_values": np.ones((3, *form.shape), np.float32), "past_observed": np.ones((3, *form.shape), bool)}
    assert mean_of(model, inputs).shape == (3, spec.window.horizon, 2)


def test_portable_weights_are_the_same_weights() -> None:
    spec, model = build("window", layers=2)
    portable = build_forecaster(spec, STATISTICS, portable=True)
    portable.set_weights(model.get_weights())
    inputs = inputs_of(spec)
    np.testing.assert_allclose(mean_of(portable, inputs), mean_of(model, inputs), rtol=1e-5)


def test_a_spec_without_a_model_is_refused() -> None:
    with pytest.raises(ModelError, match=r"\$\.model: expected a model to train, got none"):
        input_forms(easy_spec().model_copy(update={"model": None}))
