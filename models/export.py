"""Exports a trained model as a SavedModel that needs nothing of ours to be served.

Signatures, all with a free batch dimension:

| name | takes | gives |
|---|---|---|
| `serving_default` | the model's inputs by name, in original units | the model's outputs by name, in original units |
| `serving_examples` | `examples` string (batch,): serialised `tf.Example`s | the same |
| `describe` | `probe` int32 (batch,), any numbers | `window_fingerprint` and `spec_json`, string (batch,) |

and those that the family adds (`models.families.family.Signatures`). A model of windows with a label gives `label`
string (batch,) and `scores` float32 (batch, class), which add up to 1; `describe` tells the `classes` then, string
(batch, class), in the order of the scores.

An example holds one window, with the inputs' names: `past_values` as past * feature floats in row order,
`past_observed` as as many 0 or 1 (left out: all observed, but for NaN), `future_values` as horizon * feature floats,
`key` as bytes.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from typing import Any

import numpy as np
import tensorflow as tf
from numpy.typing import NDArray

from models.calibration import Calibration, calibrated
from models.classes import LOGITS
from models.families import FAMILIES
from models.families.forest import YdfForest
from models.fitting import State
from models.forecaster import build_forecaster
from models.forms import TensorForm, input_forms
from models.saved_model import DEFAULT_SIGNATURE, EXAMPLES_SIGNATURE, traced, tracked, write_saved_model
from models.scaling import Constants, KeyRows
from schemas.dataset import EXPORTED_STATISTICS_FILE, Statistics
from schemas.model_spec import EnsembleModel
from schemas.spec import Spec

_WARMUP_BATCHES = (1, 32)


def export(
    spec: Spec,
    statistics: Statistics,
    weights: list[np.ndarray[Any, Any]],
    *,
    to: str | os.PathLike[str],
    lineage: Mapping[str, Any],
    calibration: Calibration | None = None,
    state: State | None = None,
) -> None:
    """Writes a SavedModel, whole or not at all.

    Args:
      spec: with a model.
      statistics: of the dataset that it was trained on.
      weights: as `get_weights` of the model that `models.forecaster.build_forecaster` builds gives them.
      to: the folder to write; it must not exist.
      lineage: JSON values for the export's record: what it was made of, and how good it is.
      calibration: of its quantiles.
      state: as `models.forecaster.build_forecaster` takes it.
    Raises:
      ModelError: the spec has no model.
    """
    forms = input_forms(spec)
    # Built anew for export: a model built for training may hold operations that only its device has.
    model = build_forecaster(spec, statistics, portable=True, state=state)
    model.set_weights(weights)
    models = {DEFAULT_SIGNATURE: model, **_of_family(spec, statistics, model)}
    if calibration is not None:
        models |= {
            name: calibrated(spec, statistics, inner, calibration)
            for name, inner in models.items()
            if "mean" in inner.output
        }
    layers = [layer for inner in models.values() for layer in inner._flatten_layers()]  # an ensemble's are nested
    tables = [layer.table for layer in layers if isinstance(layer, KeyRows)]
    forests = [forest for layer in layers if isinstance(layer, YdfForest) for forest in layer.resources]
    write_saved_model(
        spec,
        tracked(model.variables, [*tables, *forests]),
        {
            **{name: _signature(spec, inner) for name, inner in models.items()},
            EXAMPLES_SIGNATURE: _examples_signature(spec, models[DEFAULT_SIGNATURE], forms),
        },
        to=to,
        warmup=[_zeros(forms, batch) for batch in _WARMUP_BATCHES],
        record={"classes": list(spec.classes), **lineage} if spec.classes else lineage,
        described={"classes": spec.classes} if spec.classes else None,
        beside={EXPORTED_STATISTICS_FILE: _without_keys(statistics)},
    )


def _without_keys(statistics: Statistics) -> bytes:
    """What live values are compared with: of every feature, and not of what may be very many keys."""
    return statistics.model_copy(update={"keys": {}, "key_profiles": {}}).model_dump_json().encode()


def _of_family(spec: Spec, statistics: Statistics, model: Any) -> Mapping[str, Any]:
    """The Keras models of the signatures that the family adds."""
    assert spec.model is not None
    if isinstance(spec.model, EnsembleModel):
        return {}
    signatures = FAMILIES[spec.model.family].signatures
    return signatures(spec, Constants.of(spec, statistics), model) if signatures is not None else {}


def _outputs(spec: Spec, model: Any, inputs: Mapping[str, tf.Tensor]) -> dict[str, tf.Tensor]:
    outputs: dict[str, tf.Tensor] = model(inputs, training=False)
    if LOGITS not in outputs:
        return outputs
    logits = outputs[LOGITS]
    return {
        "label": tf.gather(tf.constant(spec.classes), tf.argmax(logits, axis=1)),
        "scores": tf.nn.softmax(logits),
    }


def _signature(spec: Spec, model: Any) -> Any:
    def call(**inputs: tf.Tensor) -> dict[str, tf.Tensor]:
        return _outputs(spec, model, inputs)

    return traced(call, **{name: (tensor.shape[1:], tensor.dtype) for name, tensor in model.input.items()})


def _examples_signature(spec: Spec, model: Any, forms: Mapping[str, TensorForm]) -> Any:
    def call(examples: tf.Tensor) -> dict[str, tf.Tensor]:
        parsed = tf.io.parse_example(examples, {name: _example_feature(form) for name, form in forms.items()})
        inputs = {name: tf.cast(parsed[name], form.dtype) for name, form in forms.items()}
        return _outputs(spec, model, inputs)

    return traced(call, examples=((), "string"))


def _example_feature(form: TensorForm) -> Any:
    if form.dtype == "bool":  # an Example has no booleans
        return tf.io.FixedLenFeature(form.shape, tf.int64, default_value=np.ones(form.shape, np.int64))
    return tf.io.FixedLenFeature(form.shape, form.dtype)


def _zeros(forms: Mapping[str, TensorForm], batch: int) -> dict[str, NDArray[Any]]:
    def of(form: TensorForm) -> NDArray[Any]:
        if form.dtype == "string":
            return np.full(batch, b"warm-up")
        return np.zeros((batch, *form.shape), tf.as_dtype(form.dtype).as_numpy_dtype)

    return {name: of(form) for name, form in forms.items()}
