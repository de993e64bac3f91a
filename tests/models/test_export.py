"""The exported model, as those see it who have none of our code."""

from __future__ import annotations

import hashlib
import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tensorflow as tf
from numpy.typing import NDArray
from tensorflow.core.protobuf.saved_model_pb2 import SavedModel
from tensorflow_serving.apis.prediction_log_pb2 import PredictionLog

from models import layout
from models.export import export
from models.forecaster import build_forecaster
from schemas.spec import parse_spec
from streaming.model_server.call import UNBOUNDED
from streaming.model_server.saved_model_bundle import SessionBundle, SessionOptions
from streaming.model_server.servable import Servable
from tests.models.conftest import Trained, easy_spec
from tests.models.test_forecaster import SCALING_NAMES, STATISTICS, inputs_of

BARE_PROCESS = """
import sys
import numpy as np
import tensorflow as tf

given = np.load(sys.argv[2], allow_pickle=True)
model = tf.saved_model.load(sys.argv[1])
predicted = model.signatures["serving_default"](**{name: tf.constant(given[name]) for name in given.files})
np.savez(sys.argv[3], **{name: value.numpy() for name, value in predicted.items()})
assert not {"models", "schemas"} & {name.split(".")[0] for name in sys.modules}, "our code was loaded"
"""


@pytest.fixture(scope="module")
def inputs(trained: Trained) -> dict[str, NDArray[Any]]:
    return inputs_of(trained.spec)


@pytest.fixture(scope="module")
def expected(trained: Trained, inputs: dict[str, NDArray[Any]]) -> NDArray[np.float32]:
    model = build_forecaster(trained.spec, trained.dataset.statistics)
    model.load_weights(trained.run / layout.WEIGHTS_FILE)
    mean: NDArray[np.float32] = model.predict_on_batch(inputs)["mean"]
    return mean


@pytest.fixture(scope="module")
def folder(trained: Trained) -> Path:
    return trained.run / layout.EXPORT_FOLDER


def operations(folder: Path) -> set[str]:
    """The kinds of operations in an exported graph."""
    (meta,) = SavedModel.FromString((folder / "saved_model.pb").read_bytes()).meta_graphs
    graph = meta.graph_def
    inner = (node.op for function in graph.library.function for node in function.node_def)
    return {node.op for node in graph.node} | set(inner)


def serialized(inputs: dict[str, NDArray[Any]], leave_out: str | None = None) -> list[bytes]:
    examples = []
    for window in range(len(inputs["key"])):
        example = tf.train.Example()
        for name, value in inputs.items():
            feature = example.features.feature[name]
            if name == "key":
                feature.bytes_list.value.append(value[window])
            elif value.dtype == np.bool_ and name != leave_out:
                feature.int64_list.value.extend(value[window].ravel().astype(int).tolist())
            elif name != leave_out:
                feature.float_list.value.extend(value[window].ravel().tolist())
            else:
                del example.features.feature[name]
        examples.append(example.SerializeToString())
    return examples


def test_a_bare_process_predicts_what_keras_does(
    folder: Path, inputs: dict[str, NDArray[Any]], expected: NDArray[np.float32], tmp_path: Path
) -> None:
    np.savez(tmp_path / "inputs.npz", **inputs)  # type: ignore[arg-type]
    arguments = [str(folder), str(tmp_path / "inputs.npz"), str(tmp_path / "outputs.npz")]
    subprocess.run([sys.executable, "-c", BARE_PROCESS, *arguments], cwd=tmp_path, check=True, timeout=120)
    outputs = np.load(tmp_path / "outputs.npz")
    assert outputs.files == ["mean"]
    assert outputs["mean"].dtype == np.float32
    np.testing.assert_allclose(outputs["mean"], expected, rtol=1e-5, atol=1e-5)


def test_the_session_loader_of_tensorflow_1_predicts_the_same(
    folder: Path, inputs: dict[str, NDArray[Any]], expected: NDArray[np.float32]
) -> None:
    with tf.Graph().as_default(), tf.compat.v1.Session() as session:
        signature = tf.compat.v1.saved_model.load(session, ["serve"], str(folder)).signature_def["serving_default"]
        feed = {signature.inputs[name].name: value for name, value in inputs.items()}
        mean = session.run(signature.outputs["mean"].name, feed)
    np.testing.assert_allclose(mean, expected, rtol=1e-5, atol=1e-5)


def test_windows_of_other_shapes_are_refused_by_the_graph_itself(folder: Path, inputs: dict[str, NDArray[Any]]) -> None:
    servable = Servable("weather", 1, SessionBundle(folder, SessionOptions()))  # which checks no shapes
    signature = servable.signatures["serving_default"]

    def predict(inputs: dict[str, NDArray[Any]]) -> Any:
        arrays = [inputs[feed.alias] for feed in signature.feeds]
        return servable.run(signature.feeds, arrays, signature.fetches, UNBOUNDED)

    assert len(predict(inputs)[0]) == len(inputs["key"])
    for name in ("past_values", "past_observed"):
        with pytest.raises(Exception, match="EnsureShape"):
            predict(inputs | {name: np.repeat(inputs[name], 2, axis=2)})
    servable.unload()


def test_signatures(folder: Path) -> None:
    signatures = tf.saved_model.load(str(folder)).signatures

    def forms(tensors: dict[str, Any]) -> dict[str, tuple[list[int | None], str]]:
        return {name: (form.shape.as_list(), form.dtype.name) for name, form in tensors.items()}

    mean = {"mean": ([None, 6, 1], "float32")}
    texts = {"window_fingerprint": ([None], "string"), "spec_json": ([None], "string")}
    expected = {
        "serving_default": (
            {
                "past_values": ([None, 26, 3], "float32"),
                "past_observed": ([None, 26, 3], "bool"),
                "future_values": ([None, 6, 1], "float32"),
                "key": ([None], "string"),
            },
            mean,
        ),
        "serving_examples": ({"examples": ([None], "string")}, mean),
        "describe": ({"probe": ([None], "int32")}, texts),
    }
    assert {
        name: (forms(signature.structured_input_signature[1]), forms(signature.structured_outputs))
        for name, signature in signatures.items()
    } == expected


def test_describe_says_whose_windows_it_takes(folder: Path, trained: Trained) -> None:
    described = tf.saved_model.load(str(folder)).signatures["describe"](probe=tf.constant([7, 8]))
    assert described["window_fingerprint"].numpy().tolist() == [trained.spec.window_fingerprint.encode()] * 2
    for text in described["spec_json"].numpy():
        assert parse_spec(json.loads(text)).fingerprint == trained.spec.fingerprint


def test_examples_give_the_same_as_tensors(
    folder: Path, inputs: dict[str, NDArray[Any]], expected: NDArray[np.float32]
) -> None:
    predict = tf.saved_model.load(str(folder)).signatures["serving_examples"]
    mean = predict(examples=tf.constant(serialized(inputs)))["mean"]
    np.testing.assert_allclose(mean, expected, rtol=1e-5, atol=1e-5)
    without_flags = inputs | {"past_observed": np.ones_like(inputs["past_observed"])}
    np.testing.assert_array_equal(
        predict(examples=tf.constant(serialized(inputs, leave_out="past_observed")))["mean"],
        predict(examples=tf.constant(serialized(without_flags)))["mean"],
    )


@pytest.mark.parametrize("scaling", SCALING_NAMES)
def test_every_scaling_is_exported_with_the_inputs_it_uses(scaling: str, tmp_path: Path) -> None:
    spec = easy_spec(model={"scaling": scaling})
    model = build_forecaster(spec, STATISTICS)
    export(spec, STATISTICS, model.get_weights(), to=tmp_path / "export", lineage={})
    inputs = inputs_of(spec)
    predict = tf.saved_model.load(str(tmp_path / "export")).signatures["serving_default"]
    mean = predict(**{name: tf.constant(value) for name, value in inputs.items()})["mean"]
    np.testing.assert_allclose(mean, model.predict_on_batch(inputs)["mean"], rtol=1e-5, atol=1e-5)
    assert ("key" in inputs) == (scaling == "per_key")


def test_no_operation_needs_a_gpu_even_if_exported_beside_one(
    trained: Trained, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    # Keras takes the fused operation of the GPU where it sees one while it traces.
    monkeypatch.setattr(tf.config, "list_logical_devices", lambda *_: [tf.config.LogicalDevice("/device:GPU:0", "GPU")])
    spec, statistics = trained.spec, trained.dataset.statistics
    weights = build_forecaster(spec, statistics).get_weights()
    export(spec, statistics, weights, to=tmp_path / "export", lineage={})
    assert not {name for name in operations(tmp_path / "export") if "Cudnn" in name}


def test_warm_up_requests_are_ones_that_the_model_takes(folder: Path, trained: Trained) -> None:
    signatures = tf.saved_model.load(str(folder)).signatures
    records = tf.data.TFRecordDataset(str(folder / layout.WARMUP_FILE)).as_numpy_iterator()
    requests = [PredictionLog.FromString(record).predict_log.request for record in records]
    assert requests
    for request in requests:
        assert request.model_spec.name == trained.spec.model_name
        inputs = {name: tf.constant(tf.make_ndarray(tensor)) for name, tensor in request.inputs.items()}
        assert np.isfinite(signatures[request.model_spec.signature_name](**inputs)["mean"]).all()


def test_the_record_says_what_it_is_and_hashes_every_other_file(folder: Path, trained: Trained) -> None:
    record = json.loads((folder / layout.MODEL_FILE).read_text())
    assert record["window_fingerprint"] == trained.spec.window_fingerprint
    assert record["fingerprint"] == trained.spec.fingerprint
    assert parse_spec(record["spec"]).fingerprint == trained.spec.fingerprint
    manifest = (trained.dataset.path / "manifest.json").read_bytes()
    assert record["lineage"]["dataset_manifest_sha256"] == hashlib.sha256(manifest).hexdigest()
    assert record["metrics"]["standardised"]["skill"] == trained.summary.skill
    files = {path.relative_to(folder).as_posix(): path for path in folder.rglob("*") if path.is_file()}
    del files[layout.MODEL_FILE]
    assert record["files"] == {name: hashlib.sha256(path.read_bytes()).hexdigest() for name, path in files.items()}
