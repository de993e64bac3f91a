"""Rows A: Predict over gRPC."""

import grpc
import numpy as np
import pytest

from streaming.serving_protos import DataType, PredictRequest, TensorProto
from streaming.tensors import decode_tensor, encode_tensor

INVALID = grpc.StatusCode.INVALID_ARGUMENT


def request(model="default", signature="", outputs=(), **inputs):
    message = PredictRequest(output_filter=outputs)
    message.model_spec.name = model
    message.model_spec.signature_name = signature
    for alias, value in inputs.items():
        message.inputs[alias].CopyFrom(
            value if isinstance(value, TensorProto) else encode_tensor(np.asarray(value, np.float32))
        )
    return message


def refused(target, message, code, *texts):
    with pytest.raises(grpc.RpcError) as caught:
        target.prediction.Predict(message, timeout=30)
    assert caught.value.code() == code, caught.value.details()
    for text in texts:
        assert text in caught.value.details()


@pytest.mark.parametrize("outputs", [["y"], []], ids=["A1 filter", "A2 no filter"])
def test_a1_a2_answers_in_typed_fields(target, outputs):
    response = target.prediction.Predict(request(outputs=outputs, x=[2.0]))
    assert set(response.outputs) == {"y"}
    y = response.outputs["y"]
    assert y.dtype == DataType.DT_FLOAT
    assert list(y.float_val) == [3.0]
    assert y.tensor_content == b""
    spec = response.model_spec
    assert (spec.name, spec.signature_name, spec.version.value) == ("default", "serving_default", 123)
    assert not spec.HasField("version_label")


def test_a3_scalar(target):
    y = target.prediction.Predict(request(x=2.0)).outputs["y"]
    assert decode_tensor(y) == 3.0
    assert not y.tensor_shape.dim


def test_a4_no_model_spec(target):
    refused(target, PredictRequest(), INVALID, "Missing ModelSpec")


def test_a5_no_name(target):
    refused(target, request(model=""), INVALID, "ModelSpec has no name specified.")


def test_a6_unknown_model(target):
    refused(target, request("test", x=1.0), grpc.StatusCode.NOT_FOUND, "Servable not found for request: Latest(test)")


def test_a7_unknown_version(target):
    message = request(x=1.0)
    message.model_spec.version.value = 99
    refused(target, message, grpc.StatusCode.NOT_FOUND, "Servable not found for request: Specific(default, 99)")


def test_a8_no_inputs(target):
    refused(
        target,
        request(),
        INVALID,
        "input size does not match signature: 0!=1 len({}) != len({x}). Sent extra: {}. Missing but required: {x}.",
    )


def test_a9_unknown_inputs(target):
    refused(
        target,
        request(unknown_key1=1.0, unknown_key2=2.0),
        INVALID,
        "Sent extra: {unknown_key1,unknown_key2}",
        "Missing but required: {x}",
    )


def test_a10_one_input_of_another_name(target):
    refused(
        target,
        request(key=1.0),
        INVALID,
        "Signature input alias: x(feed name: ",
        "not found in request and no default value provided. Inputs expected to be in the request {key}, "
        "or default input alias set: ",
    )


@pytest.mark.parametrize(
    ("array", "name"), [(np.array([True]), "bool"), (np.array([b"a"]), "string")], ids=["A11", "A12"]
)
def test_a11_a12_other_dtype(target, array, name):
    refused(target, request(x=encode_tensor(array)), INVALID, f"to be float but {name} is provided")


def test_a13_unknown_output(target):
    refused(
        target,
        request(outputs=["output_filter"], x=1.0),
        INVALID,
        "output tensor alias not found in signature: output_filter Outputs expected to be in the set {y}.",
    )


def test_a14_output_named_twice(target):
    refused(target, request(outputs=["y", "y"], x=1.0), INVALID, "duplicate output tensor alias: y")


def test_a15_unknown_signature(target):
    refused(
        target,
        request(signature="nope", x=1.0),
        grpc.StatusCode.FAILED_PRECONDITION,
        'Serving signature key "nope" not found.',
    )


def test_a16_predict_on_a_regress_signature(target):
    response = target.prediction.Predict(request(signature="regress_x2_to_y3", inputs=[[2.0]]))
    assert list(response.outputs["outputs"].float_val) == [4.0]
    assert response.model_spec.signature_name == "regress_x2_to_y3"


def test_a19_signatures_without_inputs_and_state(target):
    steps = [
        ("reset_counter", {}, (), 0.0),
        ("get_counter", {}, (), 0.0),
        ("incr_counter", {}, (), 1.0),
        ("reset_counter", {}, (), 0.0),
        ("incr_counter", {}, ("output",), 1.0),
        ("incr_counter_by", {"delta": 3.0}, (), 4.0),
    ]
    for signature, inputs, outputs, expected in steps:
        response = target.prediction.Predict(request("counter", signature, outputs, **inputs))
        assert list(response.outputs["output"].float_val) == [expected], signature


def test_a20_shape_is_not_compared_with_the_signature(target):
    y = target.prediction.Predict(request(x=[2.0, 3.0, 4.0])).outputs["y"]
    assert list(y.float_val) == [3.0, 3.5, 4.0]
    assert [dim.size for dim in y.tensor_shape.dim] == [3]
    assert y.tensor_content == b""


def test_a21_missing_values_repeat_the_last(target):
    tensor = TensorProto(dtype=DataType.DT_FLOAT, float_val=[2.0], tensor_shape={"dim": [{"size": 3}]})
    assert list(target.prediction.Predict(request(x=tensor)).outputs["y"].float_val) == [3.0, 3.0, 3.0]


def test_surplus_values_are_ignored(target):
    tensor = TensorProto(dtype=DataType.DT_FLOAT, float_val=[2.0, 4.0, 6.0], tensor_shape={"dim": [{"size": 2}]})
    assert list(target.prediction.Predict(request(x=tensor)).outputs["y"].float_val) == [3.0, 4.0]


def test_a23_tensor_content_of_wrong_length(target):
    tensor = TensorProto(dtype=DataType.DT_FLOAT, tensor_content=b"123456", tensor_shape={"dim": [{"size": 2}]})
    refused(target, request(x=tensor), INVALID, "tensor parsing error: x")


@pytest.mark.parametrize(
    "name", ["float32", "float64", "int32", "int64", "uint8", "bool", "complex64", "float16", "string"]
)
@pytest.mark.parametrize("as_content", [False, True])
@pytest.mark.parametrize("shape", [(), (3,), (2, 0, 3), (2, 1, 2)])
def test_every_dtype_passes_through(target, name, as_content, shape):
    values = np.random.default_rng(1).integers(0, 2, shape)
    array = values.astype(str).astype(object) if name == "string" else values.astype(name)
    message = request("identity", name, x=encode_tensor(array, as_content=as_content))
    y = decode_tensor(target.prediction.Predict(message).outputs["y"])
    assert y.shape == shape
    if name == "string":
        assert y.ravel().tolist() == [str(value).encode() for value in values.ravel()]
    else:
        assert y.dtype == array.dtype
        assert np.array_equal(y, array)
