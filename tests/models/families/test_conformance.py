"""What holds of every neural family, in each of its forms."""

from __future__ import annotations

from functools import cache
from typing import Any

import keras
import numpy as np
import pytest
import tensorflow as tf
from numpy.typing import NDArray

from models.forecaster import build_forecaster
from models.forms import input_forms
from models.saved_model import traced
from schemas.spec import Spec
from tests.models.test_encoding import (
    AREA,
    BATCH,
    FEATURES,
    HORIZON,
    KIND,
    LOAD,
    PRICE,
    SKY,
    STATISTICS,
    SUN,
    TIME,
    WIND,
    rich_inputs,
    rich_spec,
)

FORMS: dict[str, dict[str, Any]] = {
    "mlp": {"family": "mlp", "units": 6, "layers": 2},
    "mlp plain": {"family": "mlp", "units": 6, "layers": 2, "shortcuts": False, "activation": "tanh"},
    "rnn": {"family": "rnn", "units": 6, "segment": 3},
    "rnn by steps": {"family": "rnn", "units": 6, "segment": 1, "cell": "simple", "layers": 2},
    "lstm": {"family": "lstm", "units": 6, "segment": 3, "layers": 2},
    "lstm of both ends": {"family": "lstm", "units": 6, "segment": 3, "bidirectional": True, "forget": "chrono"},
    "attention": {"family": "attention", "units": 6, "heads": 2, "feed_forward": 5, "patch": 3, "stride": 2},
    "attention over the batch": {
        "family": "attention",
        "units": 6,
        "heads": 1,
        "layers": 1,
        "norm": "batch",
        "patch": 4,
    },
    "hierarchical": {"family": "hierarchical", "units": 6, "heads": 2, "patch": 2, "chunk": 3, "recent": 4},
    "cnn": {"family": "cnn", "units": 6, "layers": 2, "patch": 2, "stride": 1},
    "cnn wide": {"family": "cnn", "kind": "wide", "units": 6, "layers": 1, "kernel": 3, "patch": 3, "stride": 2},
}
SETTINGS: dict[str, dict[str, Any]] = {
    "together": {"quantiles": [0.1, 0.5, 0.75]},
    "independent": {"channels": "independent", "reversible": True, "anchor": "mean"},
    "targets only": {},  # without covariates, and so without what families make of them
}
COLUMNS = {
    "past_values": (SUN, SKY, WIND, LOAD, PRICE, AREA, KIND, TIME),
    "future_values": (PRICE, TIME),
    "static_values": (AREA, KIND),
}

every_form = pytest.mark.parametrize("form", FORMS)
every_setting = pytest.mark.parametrize("setting", ["together", "independent"])


def spec_of(form: str, setting: str) -> Spec:
    spec = rich_spec(**FORMS[form], **SETTINGS[setting])
    if setting != "targets only":
        return spec
    bare = spec.stream.model_copy(update={"features": tuple(spec.stream.features[index] for index in (SUN, LOAD))})
    return spec.model_copy(update={"stream": bare})


@cache
def model_of(form: str, setting: str) -> Any:
    """With weights that are all something, and some way from 0."""
    keras.utils.set_random_seed(3)
    model = build_forecaster(spec_of(form, setting), STATISTICS)
    rng = np.random.default_rng(4)
    noisy = [
        weight + rng.uniform(0.05, 0.3, weight.shape) * rng.choice([-1, 1], weight.shape)
        for weight in model.get_weights()
    ]
    model.set_weights(
        [
            np.abs(weight) if "variance" in variable.name else weight
            for weight, variable in zip(noisy, model.weights, strict=True)
        ]
    )
    return model


def inputs_of(setting: str) -> dict[str, NDArray[Any]]:
    inputs = rich_inputs()
    if setting == "targets only":
        return {name: inputs[name][..., [SUN, LOAD]] for name in ("past_values", "past_observed")}
    return inputs


def outputs_of(model: Any, inputs: dict[str, NDArray[Any]]) -> dict[str, NDArray[np.float32]]:
    return {name: np.asarray(output) for name, output in model(inputs, training=False).items()}


@every_form
@every_setting
def test_forms_of_the_outputs(form: str, setting: str) -> None:
    outputs = outputs_of(model_of(form, setting), inputs_of(setting))
    assert outputs["mean"].shape == (BATCH, HORIZON, 2)
    assert all(output.dtype == np.float32 and np.isfinite(output).all() for output in outputs.values())
    if setting == "together":
        assert outputs["quantiles"].shape == (BATCH, HORIZON, 2, 3)
        assert (np.diff(outputs["quantiles"], axis=-1) >= 0).all()
        np.testing.assert_array_equal(outputs["quantiles"][..., 1], outputs["mean"])


@every_form
def test_every_feature_counts(form: str) -> None:
    model, inputs = model_of(form, "together"), inputs_of("together")
    variants, told = [inputs], []
    for name, columns in COLUMNS.items():
        for place, column in enumerate(columns):
            if name == "past_values" and column in (AREA, KIND):
                continue  # what is static comes as such
            values = inputs[name].copy()
            told.append(
                (FEATURES[column]["name"], name, np.isfinite(values[..., place]).reshape(BATCH, -1).any(axis=1))
            )
            if column in (SKY, KIND):
                values[..., place] = (values[..., place] + 1) % 3
            else:
                values[..., place] += 0.2 if column == TIME else 3
            variants.append(inputs | {name: values})
    together = {name: np.concatenate([variant[name] for variant in variants]) for name in inputs}
    mean = outputs_of(model, together)["mean"].reshape(len(variants), BATCH, -1)
    for (feature, name, rows), changed in zip(told, np.abs(mean[1:] - mean[0]).max(axis=-1), strict=True):
        assert (changed[rows] > 1e-4).all(), (feature, name)


@every_form
def test_what_is_missing_changes_nothing(form: str) -> None:
    model, inputs = model_of(form, "together"), inputs_of("together")
    other = {
        name: np.where(np.isfinite(value), value, np.inf) for name, value in inputs.items() if name != "past_observed"
    }
    other["past_observed"] = inputs["past_observed"] | ~np.isfinite(inputs["past_values"])
    for name, output in outputs_of(model, inputs).items():
        np.testing.assert_array_equal(
            outputs_of(model, {key: value.astype(inputs[key].dtype) for key, value in other.items()})[name], output
        )


@every_form
def test_a_window_does_not_know_its_batch(form: str) -> None:
    model, inputs = model_of(form, "independent"), inputs_of("independent")
    whole = outputs_of(model, inputs)
    for row in (0, BATCH - 1):
        alone = outputs_of(model, {name: value[row : row + 1] for name, value in inputs.items()})
        for name, output in alone.items():
            np.testing.assert_allclose(output[0], whole[name][row], rtol=1e-5, atol=1e-4)


@every_form
def test_independent_targets_do_not_know_each_other(form: str) -> None:
    model, inputs = model_of(form, "independent"), inputs_of("independent")
    values = inputs["past_values"].copy()
    values[:, 2:5, LOAD] += 30
    moved = np.abs(outputs_of(model, inputs | {"past_values": values})["mean"] - outputs_of(model, inputs)["mean"])
    assert (moved[..., 0] == 0).all()
    assert (moved[..., 1].max(axis=1) > 1e-3).all()


@every_form
@every_setting
def test_gradients_reach_every_weight(form: str, setting: str) -> None:
    model, inputs = model_of(form, setting), inputs_of(setting)
    with tf.GradientTape() as tape:
        outputs = model(inputs, training=True)
        loss = sum(
            tf.reduce_sum(output * tf.random.stateless_normal(output.shape, (1, 2))) for output in outputs.values()
        )
    for variable, gradient in zip(
        model.trainable_variables, tape.gradient(loss, model.trainable_variables), strict=True
    ):
        assert gradient is not None, variable.path
        found = tf.convert_to_tensor(gradient).numpy()
        assert np.isfinite(found).all(), variable.path
        assert np.abs(found).max() > 1e-7, variable.path


@every_form
def test_a_model_that_has_learnt_nothing_repeats_the_last_value(form: str) -> None:
    spec, inputs = spec_of(form, "targets only"), inputs_of("targets only")
    model = build_forecaster(spec, STATISTICS)
    model.set_weights([np.zeros_like(weight) for weight in model.get_weights()])
    mean = outputs_of(model, inputs)["mean"]
    for row in range(3):
        for column in range(2):
            seen = inputs["past_observed"][row, :, column] & np.isfinite(inputs["past_values"][row, :, column])
            last = inputs["past_values"][row, seen, column][-1]
            np.testing.assert_allclose(mean[row, :, column], np.full(HORIZON, last), rtol=1e-4)


@pytest.mark.parametrize("form", ["rnn", "rnn by steps", "lstm", "lstm of both ends"])  # the others are always portable
def test_a_portable_model_of_the_same_weights_forecasts_the_same(form: str) -> None:
    spec, inputs, model = spec_of(form, "together"), inputs_of("together"), model_of(form, "together")
    portable = build_forecaster(spec, STATISTICS, portable=True)
    portable.set_weights(model.get_weights())
    for name, output in outputs_of(model, inputs).items():
        np.testing.assert_allclose(outputs_of(portable, inputs)[name], output, rtol=1e-5, atol=1e-4)


@pytest.mark.parametrize("form", ["rnn", "lstm of both ends", "cnn wide"])
def test_what_is_exported_needs_no_gpu_even_beside_one(form: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Keras takes the fused operations of the GPU where it sees one while it traces."""
    monkeypatch.setattr(tf.config, "list_logical_devices", lambda *_: [tf.config.LogicalDevice("/device:GPU:0", "GPU")])
    spec, inputs, model = spec_of(form, "independent"), inputs_of("independent"), model_of(form, "independent")
    portable = build_forecaster(spec, STATISTICS, portable=True)
    portable.set_weights(model.get_weights())
    forms = {name: (form.shape, form.dtype) for name, form in input_forms(spec).items()}
    signature = traced(lambda **tensors: portable(tensors, training=False), **forms)
    found = signature(**{name: tf.constant(value) for name, value in inputs.items()})
    np.testing.assert_allclose(found["mean"], outputs_of(model, inputs)["mean"], rtol=1e-5, atol=1e-4)
    graph = signature.graph.as_graph_def()
    inner = (node.op for function in graph.library.function for node in function.node_def)
    assert not {operation for operation in (*inner, *(node.op for node in graph.node)) if "Cudnn" in operation}


@every_form
def test_lengths_that_no_segment_fits(form: str) -> None:
    spec = spec_of(form, "targets only")
    spec = spec.model_copy(update={"window": spec.window.model_copy(update={"past": 1, "horizon": 7})})
    inputs = {name: np.ones((3, *value.shape), value.dtype) for name, value in input_forms(spec).items()}
    assert outputs_of(build_forecaster(spec, STATISTICS), inputs)["mean"].shape == (3, 7, 2)
