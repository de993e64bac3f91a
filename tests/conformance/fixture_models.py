"""The models that the conformance rows speak of, written by `python -m tests.conformance.fixture_models FOLDER`.

FOLDER/half_plus_two/123      y = x/2 + 2, y2 = x/2 + 3, y3 = x2/2 + 3
FOLDER/half_plus_three/123    y = x/2 + 3
FOLDER/two_versions/123, 124  half_plus_two twice
FOLDER/counter/1              a TF1 reference variable: get_counter, incr_counter, reset_counter, incr_counter_by
FOLDER/identity/1             y = x of any shape; s: strings; every dtype by its name
FOLDER/masked_sequences/1     an LSTM and attention with a mask; alone.npz: what each length gives by itself
FOLDER/weighty/1              half_plus_two with 64 MB of variables
FOLDER/models.config          serves the first five, half_plus_two as "default"
FOLDER/monitoring.config      a Prometheus page
"""

from __future__ import annotations

import json
import shutil
import sys
from pathlib import Path

import numpy as np
import tensorflow as tf

v1 = tf.compat.v1
_PREDICT = "tensorflow/serving/predict"
_REGRESS = "tensorflow/serving/regress"
_CLASSIFY = "tensorflow/serving/classify"


MODELS_CONFIG = """
model_config_list {
  config { name: "default" base_path: "FOLDER/half_plus_two" model_platform: "tensorflow" }
  config { name: "half_plus_three" base_path: "FOLDER/half_plus_three" model_platform: "tensorflow" }
  config {
    name: "two_versions" base_path: "FOLDER/two_versions" model_platform: "tensorflow"
    model_version_policy { all {} }
    version_labels { key: "A" value: 123 }
    version_labels { key: "B" value: 124 }
  }
  config { name: "counter" base_path: "FOLDER/counter" model_platform: "tensorflow" }
  config { name: "identity" base_path: "FOLDER/identity" model_platform: "tensorflow" }
}
"""


def _save(session, path: Path, signatures: dict) -> None:
    builder = v1.saved_model.Builder(str(path))
    builder.add_meta_graph_and_variables(session, ["serve"], signature_def_map=signatures)
    builder.save()


def _signature(inputs: dict, outputs: dict, method: str):
    info = v1.saved_model.utils.build_tensor_info
    return v1.saved_model.signature_def_utils.build_signature_def(
        {alias: info(tensor) for alias, tensor in inputs.items()},
        {alias: info(tensor) for alias, tensor in outputs.items()},
        method,
    )


def half_plus(path: Path, constant: float = 2.0) -> None:
    """`y = 0.5 x + constant`, as tensors and from tf.Examples."""
    with tf.Graph().as_default(), v1.Session() as session:
        a, b, c = v1.get_variable("a", initializer=0.5), v1.get_variable("b", initializer=constant), 3.0
        examples = v1.placeholder(tf.string, name="tf_example")
        features = v1.parse_example(
            examples,
            {
                "x": v1.FixedLenFeature([1], tf.float32),
                "x2": v1.FixedLenFeature([1], tf.float32, default_value=[0.0]),
            },
        )
        x = v1.placeholder_with_default(features["x"], None, name="x")
        x.set_shape([None, 1])
        x2 = v1.placeholder_with_default(features["x2"], None, name="x2")
        x2.set_shape([None, 1])
        y, y2, y3 = tf.add(a * x, b, name="y"), tf.add(a * x, c, name="y2"), tf.add(a * x2, c, name="y3")
        session.run(v1.global_variables_initializer())
        _save(
            session,
            path,
            {
                "serving_default": _signature({"x": x}, {"y": y}, _PREDICT),
                "regress_x_to_y": _signature({"inputs": examples}, {"outputs": y}, _REGRESS),
                "regress_x_to_y2": _signature({"inputs": examples}, {"outputs": y2}, _REGRESS),
                "regress_x2_to_y3": _signature({"inputs": x2}, {"outputs": y3}, _REGRESS),
                "classify_x_to_y": _signature({"inputs": examples}, {"scores": y}, _CLASSIFY),
                "classify_x2_to_y3": _signature({"inputs": x2}, {"scores": y3}, _CLASSIFY),
            },
        )


def counter(path: Path) -> None:
    """A variable of the kind that only a version 1 session can load."""
    with tf.Graph().as_default(), v1.Session() as session:
        count = v1.Variable(0.0, dtype=tf.float32, use_resource=False, name="counter")
        delta = v1.placeholder(tf.float32, [], name="delta")
        calls = {
            "get_counter": ({}, tf.identity(count)),
            "incr_counter": ({}, v1.assign_add(count, 1.0)),
            "reset_counter": ({}, v1.assign(count, 0.0)),
            "incr_counter_by": ({"delta": delta}, v1.assign_add(count, delta)),
        }
        session.run(v1.global_variables_initializer())
        _save(session, path, {k: _signature(i, {"output": tf.identity(o)}, _PREDICT) for k, (i, o) in calls.items()})


def identity(path: Path) -> None:
    """Gives back what it got, for each dtype that requests carry."""
    dtypes = ["float32", "float64", "int32", "int64", "uint8", "bool", "string", "complex64", "float16", "bfloat16"]
    with tf.Graph().as_default(), v1.Session() as session:
        signatures = {}
        for name in dtypes:
            x = v1.placeholder(name, None, name=name)
            signatures[name] = _signature({"x": x}, {"y": tf.identity(x)}, _PREDICT)
            if name in ("string", "float32"):
                alias = {"string": "y_bytes", "float32": "y"}[name]
                signatures[f"{name}_named"] = _signature({"x": x}, {alias: tf.identity(x)}, _PREDICT)
        signatures["serving_default"] = signatures["float32"]
        _save(session, path, signatures)


def masked_sequences(path: Path) -> None:
    """An LSTM and attention that ignore unobserved steps, and what they give for lengths 1 to 12, each by itself."""
    import keras

    keras.utils.set_random_seed(3)
    values = keras.layers.Input((None, 3), name="values")
    observed = keras.layers.Input((None,), name="observed", dtype="bool")
    state = keras.layers.LSTM(8)(values, mask=observed)
    attended = keras.layers.MultiHeadAttention(2, 4)(values, values, attention_mask=observed[:, None, :])
    weight = keras.ops.cast(observed, "float32")[:, :, None]
    pooled = keras.ops.sum(attended * weight, axis=1) / keras.ops.sum(weight, axis=1)
    model = keras.Model([values, observed], keras.layers.Dense(2)(keras.layers.Concatenate()([state, pooled])))
    archive = keras.export.ExportArchive()
    archive.track(model)
    archive.add_endpoint(
        "serve",
        lambda values, observed: {"y": model([values, observed])},
        input_signature=[
            tf.TensorSpec([None, None, 3], tf.float32, name="values"),
            tf.TensorSpec([None, None], tf.bool, name="observed"),
        ],
    )
    archive.write_out(str(path), verbose=False)
    declared = {"pad": {"values": 0.0, "observed": False}, "buckets": [4, 8, 16]}
    extra = path / "assets.extra"
    extra.mkdir(exist_ok=True)
    (extra / "model.json").write_text(json.dumps({"sequence_padding": {"serving_default": declared}}))
    random = np.random.default_rng(4)
    alone = {}
    for length in range(1, 13):
        x = random.normal(size=(2, length, 3)).astype(np.float32)
        alone[f"x{length}"] = x
        alone[f"y{length}"] = model([x, np.ones((2, length), bool)]).numpy()
    np.savez(path.parent / "alone.npz", **alone)


def weighty(path: Path) -> None:
    """half_plus_two with 64 MB of variables beside it."""
    with tf.Graph().as_default(), v1.Session() as session:
        ballast = v1.get_variable("ballast", initializer=tf.ones([16, 2**20]))
        x = v1.placeholder(tf.float32, None, name="x")
        y = tf.identity(0.5 * x + 2.0 * ballast[0, 0], name="y")
        session.run(v1.global_variables_initializer())
        _save(session, path, {"serving_default": _signature({"x": x}, {"y": y}, _PREDICT)})


def write(folder: Path) -> None:
    """Writes all of them."""
    half_plus(folder / "half_plus_two" / "123")
    half_plus(folder / "half_plus_three" / "123", constant=3.0)
    for version in ("123", "124"):
        shutil.copytree(folder / "half_plus_two" / "123", folder / "two_versions" / version)
    counter(folder / "counter" / "1")
    identity(folder / "identity" / "1")
    masked_sequences(folder / "masked_sequences" / "1")
    weighty(folder / "weighty" / "1")
    (folder / "models.config").write_text(MODELS_CONFIG.replace("FOLDER", str(folder)))
    (folder / "monitoring.config").write_text("prometheus_config { enable: true }\n")


if __name__ == "__main__":
    write(Path(sys.argv[1]))
