"""Exports a trained model as a SavedModel that needs nothing of ours to be served.

Signatures, all with a free batch dimension:

| name | takes | gives |
|---|---|---|
| `serving_default` | the model's inputs by name, in original units | the model's outputs by name, in original units |
| `serving_examples` | `examples` string (batch,): serialised `tf.Example`s | the same |
| `describe` | `probe` int32 (batch,), any numbers | `window_fingerprint` and `spec_json`, string (batch,) |

An example holds one window, with the inputs' names: `past_values` as past * feature floats in row order,
`past_observed` as as many 0 or 1 (left out: all observed, but for NaN), `future_values` as horizon * feature floats,
`key` as bytes.
"""

from __future__ import annotations

import hashlib
import json
import os
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import tensorflow as tf
from tensorflow_serving.apis.predict_pb2 import PredictRequest
from tensorflow_serving.apis.prediction_log_pb2 import PredictionLog, PredictLog

from models.forecaster import TensorForm, build_forecaster, input_forms
from models.layout import MODEL_FILE, WARMUP_FILE
from models.scaling import KeyRows
from schemas.dataset import Statistics
from schemas.spec import Spec

DEFAULT_SIGNATURE = "serving_default"
EXAMPLES_SIGNATURE = "serving_examples"
DESCRIBE_SIGNATURE = "describe"

_WARMUP_BATCHES = (1, 32)


def export(
    spec: Spec,
    statistics: Statistics,
    weights: list[np.ndarray[Any, Any]],
    *,
    to: str | os.PathLike[str],
    lineage: Mapping[str, Any],
) -> None:
    """Writes a SavedModel, whole or not at all.

    Args:
      spec: with a model.
      statistics: of the dataset that it was trained on.
      weights: as `get_weights` of the model that `models.forecaster.build_forecaster` builds gives them.
      to: the folder to write; it must not exist.
      lineage: JSON values for the export's record: what it was made of, and how good it is.
    Raises:
      ModelError: the spec has no model.
    """
    forms = input_forms(spec)
    # Built anew for export: a model built for training may hold operations that only its device has.
    model = build_forecaster(spec, statistics, portable=True)
    model.set_weights(weights)
    # The plain variables, not the Keras model: saved through its own tracking, each has a second handle that only the
    # restore knows, and a server that restores in a TF1 session finds the graph's own ones empty. Nor would it show
    # TensorFlow the tables.
    module = tf.Module()
    module.weights = [variable.value for variable in model.variables]
    module.tables = [layer.table for layer in model.layers if isinstance(layer, KeyRows)]

    target = Path(to)
    unfinished = target.with_name(f".{target.name}-unfinished")
    shutil.rmtree(unfinished, ignore_errors=True)
    tf.saved_model.save(module, str(unfinished), signatures=_signatures(spec, model, forms))
    (unfinished / MODEL_FILE).parent.mkdir()
    _write_warmup(unfinished / WARMUP_FILE, spec.model_name, forms)
    record = {
        "format": 1,
        "spec": spec.semantic_document(),
        "fingerprint": spec.fingerprint,
        "window_fingerprint": spec.window_fingerprint,
        **lineage,
        "files": {
            path.relative_to(unfinished).as_posix(): hashlib.sha256(path.read_bytes()).hexdigest()
            for path in sorted(unfinished.rglob("*"))
            if path.is_file()
        },
    }
    (unfinished / MODEL_FILE).write_text(json.dumps(record, indent=2) + "\n", encoding="utf-8")
    unfinished.rename(target)


def _signatures(spec: Spec, model: Any, forms: Mapping[str, TensorForm]) -> dict[str, Any]:
    def predict(**inputs: tf.Tensor) -> dict[str, tf.Tensor]:
        outputs: dict[str, tf.Tensor] = model(inputs, training=False)
        return outputs

    def predict_examples(examples: tf.Tensor) -> dict[str, tf.Tensor]:
        parsed = tf.io.parse_example(examples, {name: _example_feature(form) for name, form in forms.items()})
        return predict(**{name: tf.cast(parsed[name], form.dtype) for name, form in forms.items()})

    window_fingerprint = spec.window_fingerprint
    spec_json = json.dumps(spec.semantic_document())

    def describe(probe: tf.Tensor) -> dict[str, tf.Tensor]:
        batch = tf.shape(probe)
        return {"window_fingerprint": tf.fill(batch, window_fingerprint), "spec_json": tf.fill(batch, spec_json)}

    def traced(function: Any, **inputs: tuple[tuple[int, ...], str]) -> Any:
        specs = {name: tf.TensorSpec((None, *shape), dtype, name=name) for name, (shape, dtype) in inputs.items()}
        return tf.function(function, autograph=False).get_concrete_function(**specs)

    return {
        DEFAULT_SIGNATURE: traced(predict, **{name: (form.shape, form.dtype) for name, form in forms.items()}),
        EXAMPLES_SIGNATURE: traced(predict_examples, examples=((), "string")),
        DESCRIBE_SIGNATURE: traced(describe, probe=((), "int32")),
    }


def _example_feature(form: TensorForm) -> Any:
    if form.dtype == "bool":  # an Example has no booleans
        return tf.io.FixedLenFeature(form.shape, tf.int64, default_value=np.ones(form.shape, np.int64))
    return tf.io.FixedLenFeature(form.shape, form.dtype)


def _write_warmup(path: Path, model_name: str, forms: Mapping[str, TensorForm]) -> None:
    with tf.io.TFRecordWriter(str(path)) as writer:
        for batch in _WARMUP_BATCHES:
            request = PredictRequest()
            request.model_spec.name = model_name
            request.model_spec.signature_name = DEFAULT_SIGNATURE
            for name, form in forms.items():
                zeros = np.zeros((batch, *form.shape), tf.as_dtype(form.dtype).as_numpy_dtype)
                value = np.full(batch, b"warm-up") if form.dtype == "string" else zeros
                request.inputs[name].CopyFrom(tf.make_tensor_proto(value))
            writer.write(PredictionLog(predict_log=PredictLog(request=request)).SerializeToString())
