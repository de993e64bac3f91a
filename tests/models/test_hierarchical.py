"""The family of levels of attention: in a forecaster, by chunks and their summaries, and exported."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import keras
import numpy as np
import pytest
import tensorflow as tf
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from models.calibration import Calibration
from models.export import export
from models.families import hierarchical
from models.forecaster import build_forecaster
from models.forms import input_forms
from models.scaling import Constants
from pipelines.kernels.long_context import Summaries
from schemas.errors import SpecError
from schemas.model_spec import HierarchicalModel
from schemas.spec import Spec
from tests.models.conftest import easy_spec
from tests.models.test_forecaster import LOAD, STATISTICS, WIND, inputs_of

Inputs = dict[str, NDArray[Any]]

PAST = 26
OPTIONS = {"family": "hierarchical", "units": 8, "heads": 2, "patch": 2, "chunk": 3, "recent": 5}
CACHEABLE = OPTIONS | {"cacheable": True, "scaling": "per_key"}


def build(**model: Any) -> tuple[Spec, Any]:
    keras.utils.set_random_seed(3)
    spec = easy_spec(model=OPTIONS | model)
    model_ = build_forecaster(spec, STATISTICS)
    for number, weight in enumerate(model_.weights):  # away from zero, so that nothing can be forgotten unnoticed
        weight.assign_add(tf.random.stateless_normal(weight.shape, (3, number), stddev=0.1))
    return spec, model_


@pytest.fixture(scope="module")
def cacheable() -> tuple[Spec, Any, dict[str, Any]]:
    """Spec, forecaster and signatures of a cacheable model."""
    spec, model = build(**CACHEABLE)
    return spec, model, dict(hierarchical.signatures(spec, Constants.of(spec, STATISTICS), model))


@pytest.fixture(scope="module")
def plain() -> tuple[Spec, Any]:
    return build()


def outcome(model: Any, inputs: Inputs) -> Inputs:
    """The outputs by name, without a graph: each is needed once."""
    outputs = model({name: tf.constant(value) for name, value in inputs.items()}, training=False)
    return {name: np.asarray(output) for name, output in outputs.items()}


def mean_of(model: Any, inputs: Inputs) -> NDArray[np.float32]:
    mean: NDArray[np.float32] = outcome(model, inputs)["mean"]
    return mean


# --- the whole ---


@pytest.mark.parametrize(
    ("window", "options"),
    [
        ({"past": 1, "horizon": 1}, {"cacheable": True}),
        ({"past": 1, "horizon": 2}, {}),
        ({"past": 60, "horizon": 2}, {"channels": "independent"}),
    ],
)
def test_it_takes_every_length(window: dict[str, int], options: dict[str, Any]) -> None:
    features = [{"name": "wind", "role": "target"}, {"name": "load", "role": "target"}]
    spec = easy_spec(
        window=window,
        stream={"features": features},
        model=OPTIONS | options | {"quantiles": [0.1, 0.5, 0.9]},
    )
    model = build_forecaster(spec, STATISTICS)
    inputs = {
        name: np.ones((3, *form.shape), tf.as_dtype(form.dtype).as_numpy_dtype)
        for name, form in input_forms(spec).items()
    }
    assert outcome(model, inputs)["quantiles"].shape == (3, spec.window.horizon, 2, 3)


def test_a_gradient_reaches_every_weight(plain: tuple[Spec, Any]) -> None:
    spec, model = plain
    inputs = {name: tf.constant(value) for name, value in inputs_of(spec).items()}
    with tf.GradientTape() as tape:
        loss = tf.reduce_sum(tf.square(model(inputs)["mean"] - 100.0))
    gradients = tape.gradient(loss, [weight.value for weight in model.trainable_weights])
    for weight, gradient in zip(model.trainable_weights, gradients, strict=True):
        assert gradient is not None, weight.path
        assert np.abs(gradient).max() > 0, weight.path


def test_steps_before_the_series_began_change_nothing(plain: tuple[Spec, Any]) -> None:
    spec, model = plain
    inputs = inputs_of(spec)
    values, observed = inputs["past_values"].copy(), inputs["past_observed"].copy()
    values[:, :11, [WIND, LOAD]], observed[:, :11, [WIND, LOAD]] = np.nan, False
    other = values.copy()
    other[:, :11, 2] = 0.3  # the time of day of steps without events
    expected = mean_of(model, inputs | {"past_values": values, "past_observed": observed})
    changed = inputs | {"past_values": other, "past_observed": observed}
    np.testing.assert_array_equal(mean_of(model, changed), expected)


@pytest.mark.parametrize("model", [{}, CACHEABLE])
def test_relevance_is_a_share_of_each_present_step(model: dict[str, Any]) -> None:
    spec, forecaster = build(**model)
    attention = hierarchical.signatures(spec, Constants.of(spec, STATISTICS), forecaster)["attention"]
    inputs = inputs_of(spec)
    inputs["past_values"][:, 3:6, [WIND, LOAD]] = np.nan
    inputs["past_values"][3, :, [WIND, LOAD]] = np.nan
    outputs = outcome(attention, inputs)
    assert outputs["relevance"].shape == (5, PAST)
    np.testing.assert_allclose(outputs["relevance"].sum(axis=1), [1, 1, 1, 0, 1], rtol=1e-5)
    assert not outputs["relevance"][:, 3:6].any()
    assert (outputs["relevance"][0, 6:] > 0).all()
    np.testing.assert_allclose(outputs["level_1"].sum(axis=2).max(), 1, rtol=1e-5)
    assert sorted(outputs) == ["level_1", "level_2", "level_3", "relevance"]


def test_independent_targets_have_their_own_relevance() -> None:
    features = [{"name": "wind", "role": "target"}, {"name": "load", "role": "target"}]
    spec, forecaster = easy_spec(stream={"features": features}, model=OPTIONS | {"channels": "independent"}), None
    forecaster = build_forecaster(spec, STATISTICS)
    attention = hierarchical.signatures(spec, Constants.of(spec, STATISTICS), forecaster)["attention"]
    values = np.random.default_rng(0).normal(100, 20, (3, PAST, 2)).astype(np.float32)
    outputs = outcome(attention, {"past_values": values, "past_observed": np.ones(values.shape, bool)})
    assert outputs["relevance"].shape == (3, 2, PAST)
    np.testing.assert_allclose(outputs["relevance"].sum(axis=2), 1, rtol=1e-5)


# --- chunks and their summaries ---


def series_of(spec: Spec, length: int, seed: int) -> tuple[NDArray[np.float32], NDArray[np.bool_]]:
    """Steps of a series with gaps in each feature and in time, and runs in which nothing came for whole chunks."""
    rng = np.random.default_rng(seed)
    values = np.stack((rng.normal(5, 2, length), rng.normal(150, 50, length), rng.uniform(-0.5, 0.5, length)), axis=-1)
    observed = rng.random(values.shape) < 0.8
    gap = rng.integers(0, length)
    observed[gap : gap + 15, [WIND, LOAD]] = False
    observed[..., 2] = True
    values[~observed & (rng.random(values.shape) < 0.7)] = np.nan  # the others are filled
    # A window exists only where the target was observed in its last steps.
    recent = spec.model.recent if isinstance(spec.model, HierarchicalModel) else 0
    values[PAST - 1 :: recent, LOAD], observed[PAST - 1 :: recent, LOAD] = 100, True
    return values.astype(np.float32), observed


@settings(max_examples=5, deadline=None)
@given(first=st.integers(-100, 100), strides=st.lists(st.integers(0, 30), max_size=6), seed=st.integers(0, 99))
def test_summaries_predict_what_the_whole_window_does(
    cacheable: tuple[Spec, Any, dict[str, Any]], first: int, strides: list[int], seed: int
) -> None:
    spec, model, signatures = cacheable
    assert isinstance(spec.model, HierarchicalModel)
    layout = hierarchical.layout_of(spec.model, PAST)
    kept = Summaries.none()
    values, observed = series_of(spec, PAST + sum(strides), seed)
    future = np.random.default_rng(seed).uniform(-0.5, 0.5, (1, 6, 1)).astype(np.float32)
    shared = {"key": np.array([b"north"]), "future_values": future}
    at = 0
    for stride in (0, *strides):
        at += stride
        past = {"values": values[None, at : at + PAST], "observed": observed[None, at : at + PAST]}
        origin = np.array([first + at + PAST])
        whole = {f"past_{name}": part for name, part in past.items()}
        expected = mean_of(model, {**shared, **whole, "first_step": np.array([first + at])})

        missing = kept.missing(layout, origin)
        if len(missing):
            cut = layout.cut(missing, origin, past["values"], past["observed"])
            made = outcome(
                signatures["encode_chunk"],
                {"chunk_values": cut[0], "chunk_observed": cut[1], "key": np.repeat(shared["key"], len(missing))},
            )
        else:
            made = {"summary": np.zeros((0, 8), np.float32), "present": np.zeros(0, bool)}
        summaries, present, kept = kept.join(layout, origin, missing, made["summary"], made["present"])
        recent = {f"past_{name}": part[:, -spec.model.recent :] for name, part in past.items()}
        found = outcome(
            signatures["predict_from_summaries"],
            {**shared, **recent, "summaries": summaries, "present": present},
        )
        np.testing.assert_allclose(found["mean"], expected, rtol=1e-5)


def test_the_absolute_step_moves_the_cuts(cacheable: tuple[Spec, Any, dict[str, Any]]) -> None:
    spec, model, _ = cacheable
    inputs = inputs_of(spec)
    chunk = hierarchical.layout_of(spec.model, PAST).chunk  # type: ignore[arg-type]

    def at(step: int) -> NDArray[np.float32]:
        return mean_of(model, inputs | {"first_step": np.full(5, step)})

    np.testing.assert_allclose(at(7 - 5 * chunk), at(7), rtol=1e-6)
    assert np.abs(at(8) - at(7)).max() > 1e-3


@pytest.mark.parametrize(
    ("model", "message"),
    [
        ({"scaling": "window"}, r"\$\.model.*expected scaling shared or per_key, got window"),
        ({"channels": "independent"}, "expected channels together, got independent"),
        ({"anchor": "mean"}, "expected anchor last or none, got mean"),
        ({"reversible": True}, "expected reversible false"),
        ({"heads": 3}, "heads must divide units; 3 does not divide 8"),
    ],
)
def test_a_cacheable_model_that_looks_at_the_window_is_refused(model: dict[str, Any], message: str) -> None:
    with pytest.raises(SpecError, match=message):
        easy_spec(model=OPTIONS | {"cacheable": True} | model)


def test_the_last_value_must_lie_in_the_recent_steps() -> None:
    with pytest.raises(
        SpecError, match=r"\$\.model\.recent: expected at least \$\.grid\.max_gap \+ 1 = 3 steps, got 2"
    ):
        easy_spec(model=CACHEABLE | {"recent": 2})


# --- exported ---


def test_the_export_has_the_same_chunks(cacheable: tuple[Spec, Any, dict[str, Any]], tmp_path: Path) -> None:
    """And its intervals, which are calibrated, are those of the whole model."""
    _, model, signatures = cacheable
    spec = easy_spec(model=CACHEABLE, uncertainty={"intervals": [0.8]})
    offsets = np.array([-1, 2], np.float32) * np.linspace(1, 2, 6, dtype=np.float32)[:, None, None]
    calibration = Calibration((0.1, 0.9), offsets)
    export(spec, STATISTICS, model.get_weights(), to=tmp_path / "export", lineage={}, calibration=calibration)
    served = tf.saved_model.load(str(tmp_path / "export")).signatures
    inputs = inputs_of(spec)
    rng = np.random.default_rng(0)
    given: dict[str, Inputs] = {
        "serving_default": inputs,
        "attention": inputs,
        "encode_chunk": {
            "chunk_values": inputs["past_values"][:, :6],
            "chunk_observed": inputs["past_observed"][:, :6],
            "key": inputs["key"],
        },
        "predict_from_summaries": {
            "summaries": rng.normal(size=(5, 6, 8)).astype(np.float32),
            "present": rng.random((5, 6)) < 0.7,
            "past_values": inputs["past_values"][:, -5:],
            "past_observed": inputs["past_observed"][:, -5:],
            "future_values": inputs["future_values"],
            "key": inputs["key"],
        },
    }
    for name, tensors in given.items():
        expected = outcome((signatures | {"serving_default": model})[name], tensors)
        outputs = served[name](**{key: tf.constant(value) for key, value in tensors.items()})
        intervals = outputs.pop("quantiles", None)
        assert set(outputs) == set(expected)
        if "mean" in outputs:  # of "north" twice, "süd", and two keys that the dataset does not have
            deviation = np.array([10, 20, 50, 10, 50], np.float32)[:, None, None, None]
            np.testing.assert_allclose(intervals - expected["mean"][..., None], deviation * offsets, rtol=1e-3)
        for output, value in outputs.items():
            np.testing.assert_allclose(value, expected[output], rtol=1e-5, atol=1e-5, err_msg=f"{name}/{output}")
