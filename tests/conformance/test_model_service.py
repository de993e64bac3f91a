"""Rows C: status, metadata and labels over gRPC. Those that change what is served: tests/streaming/model_server."""

import grpc
import pytest

from streaming.serving_protos import GetModelMetadataRequest, GetModelStatusRequest, PredictRequest, SignatureDefMap


def status_request(name, version=None):
    message = GetModelStatusRequest()
    message.model_spec.name = name
    if version is not None:
        message.model_spec.version.value = version
    return message


def refused(call, message, code, text):
    with pytest.raises(grpc.RpcError) as caught:
        call(message, timeout=30)
    assert caught.value.code() == code, caught.value.details()
    assert text in caught.value.details()


def test_c1_status(target):
    (entry,) = target.model.GetModelStatus(status_request("default")).model_version_status
    assert (entry.version, entry.state, entry.status.error_code, entry.status.error_message) == (123, 30, 0, "")


def test_c4_no_model_spec(target):
    refused(
        target.model.GetModelStatus,
        GetModelStatusRequest(),
        grpc.StatusCode.INVALID_ARGUMENT,
        "Missing ModelSpec",
    )


def test_c5_unknown_model(target):
    refused(
        target.model.GetModelStatus,
        status_request("X"),
        grpc.StatusCode.NOT_FOUND,
        "Could not find any versions of model X",
    )


def test_c6_unknown_version(target):
    refused(
        target.model.GetModelStatus,
        status_request("default", 99),
        grpc.StatusCode.NOT_FOUND,
        "Could not find version 99 of model default",
    )


def test_c7_metadata(target):
    message = GetModelMetadataRequest(metadata_field=["signature_def"])
    message.model_spec.name = "default"
    response = target.prediction.GetModelMetadata(message)
    spec = response.model_spec
    assert (spec.name, spec.version.value, spec.signature_name) == ("default", 123, "")
    assert set(response.metadata) == {"signature_def"}
    signatures = SignatureDefMap()
    assert response.metadata["signature_def"].Unpack(signatures)
    default = signatures.signature_def["serving_default"]
    assert default.method_name == "tensorflow/serving/predict"
    assert default.inputs["x"].name == "x:0"
    assert [dim.size for dim in default.inputs["x"].tensor_shape.dim] == [-1, 1]
    assert {"regress_x_to_y", "classify_x_to_y", "regress_x2_to_y3"} <= set(signatures.signature_def)


@pytest.mark.parametrize("fields", [[], ["nope"], ["signature_def", "nope"]])
def test_metadata_fields_are_checked(target, fields):
    message = GetModelMetadataRequest(metadata_field=fields)
    message.model_spec.name = "default"
    refused(target.prediction.GetModelMetadata, message, grpc.StatusCode.INVALID_ARGUMENT, "etadata")


@pytest.mark.parametrize(
    ("choice", "expected"),
    [({}, 124), ({"version": {"value": 123}}, 123), ({"version_label": "A"}, 123), ({"version_label": "B"}, 124)],
    ids=["latest", "version", "label A", "label B"],
)
def test_c10_versions_and_labels(target, choice, expected):
    message = PredictRequest(model_spec={"name": "two_versions", **choice})
    message.inputs["x"].dtype = 1
    message.inputs["x"].float_val.append(2.0)
    response = target.prediction.Predict(message)
    assert response.model_spec.version.value == expected
    assert not response.model_spec.HasField("version_label")


def test_c11_unknown_label(target):
    message = PredictRequest(model_spec={"name": "two_versions", "version_label": "nonexistent label"})
    refused(
        target.prediction.Predict,
        message,
        grpc.StatusCode.INVALID_ARGUMENT,
        "Unrecognized servable version label: nonexistent label",
    )
