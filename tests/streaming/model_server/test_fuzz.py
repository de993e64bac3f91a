"""Requests that nobody should send: each gets a clean status, and the server stays as it was."""

import contextlib
import json
import random
import socket

import grpc
import numpy as np
import pytest

from streaming.serving_protos import (
    ClassificationRequest,
    GetModelMetadataRequest,
    GetModelStatusRequest,
    MultiInferenceRequest,
    PredictRequest,
    RegressionRequest,
    ReloadConfigRequest,
    TensorProto,
)
from streaming.tensors import encode_tensor
from tests.conformance.server_process import ServerProcess

METHODS = {
    "tensorflow.serving.PredictionService/Predict": PredictRequest,
    "tensorflow.serving.PredictionService/Classify": ClassificationRequest,
    "tensorflow.serving.PredictionService/Regress": RegressionRequest,
    "tensorflow.serving.PredictionService/MultiInference": MultiInferenceRequest,
    "tensorflow.serving.PredictionService/GetModelMetadata": GetModelMetadataRequest,
    "tensorflow.serving.ModelService/GetModelStatus": GetModelStatusRequest,
    "tensorflow.serving.ModelService/HandleReloadConfigRequest": ReloadConfigRequest,
}
# UNKNOWN would be an exception that slipped through; INTERNAL is right only for bytes that do not parse, where gRPC
# says it.
CLEAN = {
    grpc.StatusCode.INVALID_ARGUMENT,
    grpc.StatusCode.NOT_FOUND,
    grpc.StatusCode.FAILED_PRECONDITION,
    grpc.StatusCode.UNIMPLEMENTED,
    grpc.StatusCode.PERMISSION_DENIED,
    grpc.StatusCode.OUT_OF_RANGE,
    grpc.StatusCode.RESOURCE_EXHAUSTED,
}
NAMES = ["default", "", "../../etc/passwd", "a" * 5000, "\0", "żółw", "%2e%2e", "default/../..", "two\nlines"]
DIMS = [-(2**63), -1, 0, 1, 2, 3, 255, 2**31, 2**40, 2**62, 2**63 - 1]


@pytest.fixture(scope="module")
def server(models, tmp_path_factory):
    folder = tmp_path_factory.mktemp("fuzzed")
    with ServerProcess(
        folder,
        f"--model_base_path={models / 'half_plus_two'}",
        f"--allowed_model_roots={models}",
        "--rest_api_port=-1",
    ) as running:
        yield running


def alive(server):
    request = PredictRequest(model_spec={"name": "default"})
    request.inputs["x"].CopyFrom(encode_tensor(np.array([2.0], np.float32)))
    return list(server.prediction.Predict(request, timeout=20).outputs["y"].float_val) == [3.0]


def tensor(rng):
    proto = TensorProto(dtype=rng.choice([1, 1, 1, 0, 2, 3, 7, 10, 19, 23, 101, 10_000]))
    for _ in range(rng.choice([0, 1, 1, 2, 3, 70, 300])):
        proto.tensor_shape.dim.add(size=rng.choice(DIMS))
    proto.tensor_shape.unknown_rank = rng.random() < 0.05
    for field, value in (("float_val", 1.5), ("string_val", b"\xff"), ("int_val", -7), ("half_val", 2**31 - 1)):
        if rng.random() < 0.4:
            getattr(proto, field).extend([value] * rng.randrange(5))
    if rng.random() < 0.3:
        proto.tensor_content = rng.randbytes(rng.randrange(20))
    return proto


def fill_spec(spec, rng):
    spec.name = rng.choice(NAMES)
    if rng.random() < 0.2:
        spec.version.value = rng.choice(DIMS)
    elif rng.random() < 0.2:
        spec.version_label = rng.choice(NAMES)
    if rng.random() < 0.4:
        spec.signature_name = rng.choice(["regress_x_to_y", "classify_x2_to_y3", *NAMES])


def grpc_request(rng):
    """A method and the bytes of a request: hostile, damaged, or noise."""
    path, kind = rng.choice(list(METHODS.items()))
    if rng.random() < 0.15:
        return path, rng.randbytes(rng.randrange(200))
    request = kind()
    if kind is MultiInferenceRequest:
        for _ in range(rng.randrange(4)):
            task = request.tasks.add(method_name=rng.choice(["tensorflow/serving/regress", "", "\0"]))
            fill_spec(task.model_spec, rng)
    elif kind is ReloadConfigRequest:
        # Never a config that is right: that would change what is served.
        request.config.model_config_list.config.add(name=rng.choice(NAMES), base_path=rng.choice(["x", "/etc", "/\0"]))
    else:
        fill_spec(request.model_spec, rng)
    if kind is PredictRequest:
        for _ in range(rng.choice([0, 1, 1, 1, 2])):
            request.inputs[rng.choice(["x", "x", "x", "inputs", "", "\0"])].CopyFrom(tensor(rng))
        request.output_filter.extend(rng.choices(["y", "", "z"], k=rng.choice([0, 0, 1, 2])))
    elif kind is GetModelMetadataRequest:
        request.metadata_field.extend(rng.choices(["signature_def", "x"], k=rng.randrange(3)))
    elif hasattr(request, "input") and rng.random() < 0.8:
        example = request.input.example_list.examples.add()
        for name in rng.choices(["x", "x2", "", "\0"], k=rng.randrange(3)):
            feature = example.features.feature[name]
            rng.choice([feature.float_list, feature.int64_list]).value.extend([1] * rng.randrange(3))
    data = bytearray(request.SerializeToString())
    # A damaged reload may be a right one, of no models: that too would change what is served.
    if data and kind is not ReloadConfigRequest and rng.random() < 0.25:
        for _ in range(rng.randrange(1, 4)):
            data[rng.randrange(len(data))] = rng.randrange(256)
    return path, bytes(data)


def check_grpc(server, rng):
    path, data = grpc_request(rng)
    done = server.channel.unary_unary("/" + path).future(data, timeout=30)
    code, details = done.code(), done.details()
    if code != grpc.StatusCode.OK:
        clean = code in CLEAN or (code == grpc.StatusCode.INTERNAL and "Exception deserializing request!" in details)
        assert clean, (path, data, code, details)
        assert "Traceback" not in details
        assert len(details) < 1100


VALUES = [
    "1",
    '"x"',
    "null",
    "true",
    "[]",
    "{}",
    "1e999",
    "-1",
    "NaN",
    "9" * 5000,
    '{"b64": "*"}',
    "[1, [2]]",
    '"\\ud800"',
]
PATHS = [
    "/v1/models/default:predict",
    "/v1/models/default/versions/123:predict",
    "/v1/models/default:classify",
    "/v1/models/default:regress",
    "/v1/models/../../etc/passwd:predict",
    "/v1/models/%2e%2e%2fetc:predict",
    "/v1/models/%00:predict",
    "/v1/models/%ff%fe:predict",
    "/v1/models/default/labels/%00:predict",
    "/v1/models/default/metadata",
    "/v1/models/default",
    "/../../etc/passwd",
    "//etc/passwd",
    "/v1/../v1/models",
    "*",
    "http://x/v1/models/default:predict",
]


def rest_request(rng):
    """The bytes of one HTTP request."""
    if rng.random() < 0.1:
        return rng.randbytes(rng.randrange(1, 200)) + b"\r\n\r\n"
    key = rng.choice(["instances", "inputs", "examples", "x"])
    value = rng.choice(VALUES)
    body = rng.choice(
        [
            f'{{"{key}": {value}}}',
            f'{{"{key}": [{value}, {value}]}}',
            f'{{"{key}": [{{"x": {value}}}]}}',
            f'{{"signature_name": {value}, "{key}": [1]}}',
            f'{{"signature_name": "regress_x_to_y", "{key}": [{{"x": {value}}}]}}',
            "[" * rng.choice([100, 100_000]) + "]" * 100,
            '{"instances":' * 5000,
            "",
        ]
    ).encode("utf-8", "surrogatepass")
    if rng.random() < 0.2 and body:
        damaged = bytearray(body)
        damaged[rng.randrange(len(body))] = rng.randrange(256)
        body = bytes(damaged)
    method = rng.choice(["POST"] * 6 + ["GET", "PUT", "DELETE", "HEAD", "OPTIONS", "P\x01"])
    head = f"{method} {rng.choice(PATHS)} HTTP/1.1\r\nConnection: close\r\nContent-Length: {len(body)}\r\n\r\n"
    return head.encode() + body


def check_rest(server, rng):
    request = rest_request(rng)
    answer = b""
    # The server may answer, and hang up, before it has read all of a hopeless request.
    with (
        socket.create_connection(("127.0.0.1", server.ports["rest_port"]), timeout=30) as connection,
        contextlib.suppress(ConnectionError),
    ):
        connection.sendall(request)
        connection.shutdown(socket.SHUT_WR)
        while chunk := connection.recv(65536):
            answer += chunk
    if not answer:
        return
    head, _, body = answer.partition(b"\r\n\r\n")
    status = int(head.split()[1])
    assert 200 <= status < 500 or status == 501, (request[:500], answer[:500])
    assert b"root:" not in body
    assert b"Traceback" not in body
    if status != 200 and body:
        assert set(json.loads(body)) == {"error"}


def check(server, count):
    for number in range(count):
        rng = random.Random(number)
        (check_grpc if number % 2 else check_rest)(server, rng)
    assert alive(server)
    log = server.log.read_text()
    assert "unexpected" not in log, log[log.index("unexpected") :][:3000]


def test_hostile_requests_get_a_clean_status(server):
    check(server, 1000)


@pytest.mark.slow
def test_ten_thousand_hostile_requests(server):
    check(server, 10_000)
