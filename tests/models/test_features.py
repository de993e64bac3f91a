"""Models take every kind of feature: static ones, and values that events announce for the horizon."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from models.forecaster import build_forecaster
from models.forms import input_forms
from schemas.dataset import Moments, Statistics
from schemas.spec import Spec
from tests.specs import tiny_spec

FEATURES: list[dict[str, Any]] = [
    {"name": "size", "role": "static"},
    {"name": "load", "role": "target"},
    {"name": "price", "role": "future", "lead": 3},
    {"name": "hour", "role": "future", "calendar": "time_of_day"},
]


def featured_spec(features: list[dict[str, Any]]) -> Spec:
    return tiny_spec(
        stream={"features": features},
        window={"past": 4, "horizon": 2},
        model={"family": "lstm", "units": 4, "segment": 1},
    )


def inputs_of(spec: Spec) -> dict[str, Any]:
    draw = np.random.default_rng(0)
    return {
        name: draw.normal(size=(5, *form.shape)).astype("float32")
        if form.dtype == "float32"
        else np.ones((5, *form.shape), bool)
        for name, form in input_forms(spec).items()
    }


@pytest.fixture(scope="module")
def forecaster() -> tuple[Spec, Any]:
    spec = featured_spec(FEATURES)
    moments = {name: Moments(count=9, mean=50.0, std=2.0, min=40, max=60) for name in ("size", "load", "price")}
    return spec, build_forecaster(spec, Statistics(features=moments, keys={}))


def test_the_inputs_have_the_contracts_names(forecaster: tuple[Spec, Any]) -> None:
    forms = {name: form.shape for name, form in input_forms(forecaster[0]).items()}
    assert forms == {"past_values": (4, 4), "past_observed": (4, 4), "future_values": (2, 2), "static_values": (1,)}


def test_what_was_announced_moves_the_forecast(forecaster: tuple[Spec, Any]) -> None:
    spec, model = forecaster
    inputs = inputs_of(spec)
    first = np.array(model(inputs)["mean"])
    inputs["future_values"] = inputs["future_values"] + np.array([30, 0], np.float32)
    assert not np.allclose(first, np.array(model(inputs)["mean"]))


def test_what_nobody_announced_is_the_mean(forecaster: tuple[Spec, Any]) -> None:
    spec, model = forecaster
    missing, mean = inputs_of(spec), inputs_of(spec)
    missing["future_values"][:, :, 0] = np.nan
    mean["future_values"][:, :, 0] = 50.0
    missing["static_values"][:] = np.nan
    mean["static_values"][:] = np.nan
    forecast = np.array(model(missing)["mean"])
    assert np.isfinite(forecast).all()
    np.testing.assert_array_equal(forecast, np.array(model(mean)["mean"]))


def test_announced_values_need_no_calendar() -> None:
    spec = featured_spec(FEATURES[1:3])
    model = build_forecaster(spec, Statistics(features={}, keys={}))
    assert np.array(model(inputs_of(spec))["mean"]).shape == (5, 2, 1)
