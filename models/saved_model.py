"""Writes a SavedModel that needs nothing of ours to be served, whole or not at all; every kind of model shares this.

Beside the graph, in `assets.extra/`, are requests that a server warms up with, and a record of what the model is, what
it was made of and the sha256 of each of its files. Every model has a signature `describe`: TF Serving's API shows no
assets, so this is how a client learns what it talks to.
"""

from __future__ import annotations

import hashlib
import json
import os
import shutil
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import tensorflow as tf
from numpy.typing import NDArray
from tensorflow_serving.apis.predict_pb2 import PredictRequest
from tensorflow_serving.apis.prediction_log_pb2 import PredictionLog, PredictLog

from models.layout import MODEL_FILE, WARMUP_FILE
from schemas.spec import Spec
from schemas.text_spec import TextSpec

DEFAULT_SIGNATURE = "serving_default"
EXAMPLES_SIGNATURE = "serving_examples"
DESCRIBE_SIGNATURE = "describe"

Form = tuple[tuple[int | None, ...], str]
"""Of an input: its shape without the batch, and its dtype."""


def traced(function: Callable[..., Any], **inputs: Form) -> Any:
    """A signature: a concrete function of named tensors with a free first dimension.

    The graph itself refuses other shapes: a server that runs it in a session feeds it whatever a client sends, and much
    of a graph takes a window of another spec without complaint.
    """
    specs = {name: tf.TensorSpec((None, *shape), dtype, name=name) for name, (shape, dtype) in inputs.items()}

    def checked(**tensors: tf.Tensor) -> Any:
        return function(**{name: tf.ensure_shape(tensor, specs[name].shape) for name, tensor in tensors.items()})

    return tf.function(checked, autograph=False).get_concrete_function(**specs)


def tracked(variables: Iterable[Any], resources: Iterable[Any]) -> tf.Module:
    """What a SavedModel must hold for its signatures to work: variables, and tables and the like.

    The plain variables, not the Keras model: saved through its own tracking, each has a second handle that only the
    restore knows, and a server that restores in a TF1 session finds the graph's own ones empty. Nor would it show
    TensorFlow the tables.

    Args:
      variables: Keras's.
      resources: TensorFlow's trackable objects.
    """
    module = tf.Module()
    module.weights = [variable.value for variable in variables]
    module.resources = list(resources)
    return module


def write_saved_model(
    spec: Spec | TextSpec,
    module: tf.Module,
    signatures: Mapping[str, Any],
    *,
    to: str | os.PathLike[str],
    warmup: Sequence[Mapping[str, NDArray[Any]]],
    record: Mapping[str, Any],
    described: Mapping[str, Sequence[str]] | None = None,
    beside: Mapping[str, bytes] | None = None,
) -> None:
    """Writes a model with these signatures and `describe`.

    Args:
      spec: what the model was made for.
      module: holds all variables and resources of the signatures; see `tracked`.
      signatures: by name, as `traced` gives them.
      to: the folder to write; it must not exist.
      warmup: the inputs of requests to the default signature.
      record: JSON values: what the model was made of, and how good it is.
      described: lists of strings that `describe` tells too.
      beside: contents of further files, by their paths in the model's folder.
    """
    target = Path(to)
    unfinished = target.with_name(f".{target.name}-unfinished")
    shutil.rmtree(unfinished, ignore_errors=True)
    describe = traced(_describe(spec, described or {}), probe=((), "int32"))
    tf.saved_model.save(module, str(unfinished), signatures={**signatures, DESCRIBE_SIGNATURE: describe})
    (unfinished / MODEL_FILE).parent.mkdir()
    _write_warmup(unfinished / WARMUP_FILE, spec.model_name, warmup)
    for path, content in (beside or {}).items():
        (unfinished / path).write_bytes(content)
    document = {
        "format": 1,
        "spec": spec.semantic_document(),
        "fingerprint": spec.fingerprint,
        "window_fingerprint": spec.window_fingerprint,
        **record,
        "files": {
            path.relative_to(unfinished).as_posix(): hashlib.sha256(path.read_bytes()).hexdigest()
            for path in sorted(unfinished.rglob("*"))
            if path.is_file()
        },
    }
    (unfinished / MODEL_FILE).write_text(json.dumps(document, indent=2) + "\n", encoding="utf-8")
    unfinished.rename(target)


def _describe(spec: Spec | TextSpec, more: Mapping[str, Sequence[str]]) -> Callable[..., dict[str, tf.Tensor]]:
    window_fingerprint, spec_json = spec.window_fingerprint, json.dumps(spec.semantic_document())

    def describe(probe: tf.Tensor) -> dict[str, tf.Tensor]:
        batch = tf.shape(probe)
        told = {name: tf.tile(tf.constant([list(strings)]), [batch[0], 1]) for name, strings in more.items()}
        return {
            "window_fingerprint": tf.fill(batch, window_fingerprint),
            "spec_json": tf.fill(batch, spec_json),
            **told,
        }

    return describe


def _write_warmup(path: Path, model_name: str, warmup: Sequence[Mapping[str, NDArray[Any]]]) -> None:
    with tf.io.TFRecordWriter(str(path)) as writer:
        for inputs in warmup:
            request = PredictRequest()
            request.model_spec.name = model_name
            request.model_spec.signature_name = DEFAULT_SIGNATURE
            for name, value in inputs.items():
                request.inputs[name].CopyFrom(tf.make_tensor_proto(np.asarray(value)))
            writer.write(PredictionLog(predict_log=PredictLog(request=request)).SerializeToString())
