"""Rows D: the REST interface."""

import gzip
import json
import urllib.error
import urllib.request

import pytest


def call(target, method, path, body=None, **headers):
    """Gives (HTTP status, body, headers)."""
    if not target.rest:
        pytest.skip("no --rest-target")
    data = body if isinstance(body, bytes | None) else json.dumps(body).encode()
    request = urllib.request.Request(target.rest + path, data=data, headers=headers, method=method)
    try:
        with urllib.request.urlopen(request, timeout=30) as response:
            return response.status, response.read().decode(), response.headers
    except urllib.error.HTTPError as error:
        with error:
            return error.code, error.read().decode(), error.headers


def post(target, path, body, **headers):
    status, text, _ = call(target, "POST", path, body, **headers)
    return status, json.loads(text)


PREDICT = "/v1/models/default:predict"
IDENTITY = "/v1/models/identity:predict"


@pytest.mark.parametrize(
    ("body", "expected"),
    [
        ({"instances": [2.0, 3.0, 4.0]}, {"predictions": [3.0, 3.5, 4.0]}),
        ({"inputs": [2.0, 3.0, 4.0]}, {"outputs": [3.0, 3.5, 4.0]}),
        ({"instances": [[1.0, 2.0], [3.0, 4.0]]}, {"predictions": [[2.5, 3.0], [3.5, 4.0]]}),
        ({"instances": [{"x": 2}, {"x": 4}]}, {"predictions": [3.0, 4.0]}),
        ({"inputs": {"x": [[2]]}}, {"outputs": [[3.0]]}),
        ({"inputs": 2.0}, {"outputs": 3.0}),
        ({"signature_name": "regress_x2_to_y3", "instances": [[2.0]]}, {"predictions": [[4.0]]}),
    ],
    ids=["D1", "D2", "D3", "row objects", "column object", "scalar", "signature"],
)
def test_d1_d2_d3_predict(target, body, expected):
    assert post(target, PREDICT, body) == (200, expected)


def test_d5_classify(target):
    body = {"signature_name": "classify_x_to_y", "examples": [{"x": 20.0}]}
    assert post(target, "/v1/models/default:classify", body) == (200, {"results": [[["", 12.0]]]})


def test_d6_regress(target):
    body = {"signature_name": "regress_x_to_y", "examples": [{"x": 80.0}]}
    assert post(target, "/v1/models/default:regress", body) == (200, {"results": [42.0]})


def test_context_of_examples(target):
    body = {"signature_name": "regress_x_to_y", "context": {"x": 80.0}, "examples": [{"x2": 1.0}, {"x": [2.0]}]}
    assert post(target, "/v1/models/default:regress", body) == (200, {"results": [42.0, 3.0]})


@pytest.mark.parametrize("path", ["/v1/models/default", "/v1/models/default/versions/123", "/V1/Models/default"])
def test_d7_status(target, path):
    status, text, headers = call(target, "GET", path)
    assert status == 200
    assert headers["Content-Type"] == "application/json"
    entry = {"version": "123", "state": "AVAILABLE", "status": {"error_code": "OK", "error_message": ""}}
    assert json.loads(text) == {"model_version_status": [entry]}


def test_d8_metadata(target):
    status, text, _ = call(target, "GET", "/v1/models/default/metadata")
    assert status == 200
    document = json.loads(text)
    assert document["model_spec"] == {"name": "default", "signature_name": "", "version": "123"}
    default = document["metadata"]["signature_def"]["signature_def"]["serving_default"]
    assert default == {
        "inputs": {
            "x": {
                "dtype": "DT_FLOAT",
                "tensor_shape": {"dim": [{"size": "-1", "name": ""}, {"size": "1", "name": ""}], "unknown_rank": False},
                "name": "x:0",
            }
        },
        "outputs": {
            "y": {
                "dtype": "DT_FLOAT",
                "tensor_shape": {"dim": [{"size": "-1", "name": ""}, {"size": "1", "name": ""}], "unknown_rank": False},
                "name": "y:0",
            }
        },
        "method_name": "tensorflow/serving/predict",
        "defaults": {},
    }


def test_d9_unknown_model(target):
    body = {"instances": [1.0]}
    expected = {"error": "Servable not found for request: Latest(half)"}
    assert post(target, "/v1/models/half:predict", body) == (404, expected)
    assert call(target, "GET", "/v1/models/half")[0] == 404


WRONG_BODIES = {
    "D10": (b"", "JSON Parse error: The document is empty"),
    "no JSON": (b"{", "JSON Parse error"),
    "lone surrogate": (b'{"signature_name": "\\ud800"}', "surrogate"),
    "no object": (b"[1]", "Is not object"),
    "D12": ({"instances": ["x", "y"]}, "not of expected type: float"),
    "D13": (
        {"signature_name": "nope", "instances": [1]},
        'Serving signature name: "nope" not found in signature def',
    ),
    "D14": ({"signature_name": 100, "instances": [1]}, "'signature_name' key must be a string value."),
    "D15": (
        {"instances": [1], "inputs": [1]},
        "Not formatted correctly expecting only one of 'inputs' or 'instances' keys to exist",
    ),
    "neither": ({}, "Missing 'inputs' or 'instances' key"),
    "D18": ({"instances": [[1, 2], [3, 4], [5, 6, 7]]}, "Expecting tensor size: 2 but got: 3"),
    "empty": ({"instances": []}, "No values in 'instances' array"),
    "no list": ({"instances": 1}, "'instances' to be an list/array"),
    "other keys": ({"instances": [{"y": 1}]}, "keys must be equal to: x"),
    "no such column": ({"inputs": {"y": 1}}, "Missing named input: x in 'inputs' object."),
    "bool as float": ({"instances": [True]}, "not of expected type: float"),
    "null": ({"instances": [None]}, "not of expected type: float"),
    "lossy": ({"instances": [1e300]}, "without loss of precision"),
}


@pytest.mark.parametrize(("body", "text"), WRONG_BODIES.values(), ids=WRONG_BODIES)
def test_d10_to_d18_wrong_bodies(target, body, text):
    status, document = post(target, PREDICT, body)
    assert status == 400
    assert text in document["error"]


WRONG_PATHS = [
    ("GET", "/v1/foo"),
    ("POST", "/v1/models"),
    ("GET", "/v1/models/foo:predict"),
    ("GET", "/v1/models/foo/version/50"),
    ("GET", "/v1/models/foo/versions/HELLO"),
    ("POST", "/v1/models/foo/label/x:predict"),
    ("GET", "/v1/models/foo/versions/50/labels/x"),
    ("POST", "/v1/models/foo/metadata"),
]


@pytest.mark.parametrize(("method", "path"), WRONG_PATHS)
def test_d36_malformed_paths(target, method, path):
    status, text, _ = call(target, method, path, b"{}" if method == "POST" else None)
    assert status == 400
    assert "Malformed request" in json.loads(text)["error"]


def test_d37_no_model_name(target):
    status, text, _ = call(target, "GET", "/v1/models")
    assert (status, json.loads(text)["error"]) == (400, "Missing model name in request.")


def test_outside_v1_is_not_found(target):
    assert call(target, "GET", "/nothing/here")[0] == 404


@pytest.mark.parametrize(("label", "version"), [("A", "123"), ("B", "124")])
def test_labels(target, label, version):
    path = f"/v1/models/two_versions/labels/{label}"
    assert post(target, f"{path}:predict", {"instances": [2.0]}) == (200, {"predictions": [3.0]})
    _, text, _ = call(target, "GET", f"{path}/metadata")
    assert json.loads(text)["model_spec"]["version"] == version


def test_d39_unknown_label(target):
    status, document = post(target, "/v1/models/two_versions/labels/x:predict", {"instances": [2.0]})
    assert (status, document["error"]) == (400, "Unrecognized servable version label: x")


def test_version_that_is_no_number(target):
    status, document = post(target, "/v1/models/default/versions/99999999999999999999:predict", {"instances": [1]})
    assert status == 400
    assert "to numeric" in document["error"]


def test_d44_prometheus_page(target):
    post(target, PREDICT, {"instances": [1.0]})
    status, text, headers = call(target, "GET", "/monitoring/prometheus/metrics")
    assert status == 200
    assert headers["Content-Type"].startswith("text/plain")
    assert "# TYPE :tensorflow:serving:request_count counter" in text
    assert ':tensorflow:serving:request_count{model_name="default",status="OK"} ' in text
    assert 'le="+Inf"}' in text
    assert ":tensorflow:serving:request_latency_sum{" in text
    assert ":tensorflow:serving:request_latency_count{" in text


def test_gzip_body(target):
    body = gzip.compress(b'{"instances": [2.0]}')
    assert post(target, PREDICT, body, **{"Content-Encoding": "gzip"}) == (200, {"predictions": [3.0]})


def test_text_after_the_document_is_ignored(target):
    assert post(target, PREDICT, b'{"instances": [2.0]} and more') == (200, {"predictions": [3.0]})


@pytest.mark.parametrize(
    ("value", "text"),
    [
        ("2", "2.0"),
        ("0.2", "0.2"),
        ("9000000", "9e+06"),
        ("0.00003", "3e-05"),
        ("NaN", "NaN"),
        ("Infinity", "Infinity"),
        ("-Infinity", "-Infinity"),
        ("123456", "123456.0"),
    ],
)
def test_numbers_as_tensorflow_serving_writes_them(target, value, text):
    status, body, _ = call(target, "POST", IDENTITY, b'{"signature_name": "float32", "inputs": [%s]}' % value.encode())
    assert status == 200, body
    assert body.replace(" ", "").replace("\n", "") == f'{{"outputs":[{text}]}}'


@pytest.mark.parametrize(
    ("signature", "value", "accepted"),
    [
        ("int32", 2**31 - 1, True),
        ("int32", 2**31, False),
        ("int32", 1.5, False),
        ("int64", -(2**63), True),
        ("int64", 2**63, False),
        ("uint8", 255, True),
        ("bool", True, True),
        ("bool", 1, False),
        ("string", "żółw", True),
        ("string", 1, False),
    ],
)
def test_types_of_values(target, signature, value, accepted):
    status, document = post(target, IDENTITY, {"signature_name": signature, "inputs": [value]})
    if accepted:
        assert (status, document) == (200, {"outputs": [value]})
    else:
        assert status == 400
        assert "not of expected type" in document["error"]


def test_bytes_as_base64(target):
    body = {"signature_name": "string_named", "instances": [{"b64": "AAH/"}, {"b64": "aGk="}]}
    assert post(target, IDENTITY, body) == (200, {"predictions": [{"b64": "AAH/"}, {"b64": "aGk="}]})
    body["signature_name"] = "string"
    body["instances"] = [{"b64": "aGk="}]
    assert post(target, IDENTITY, body) == (200, {"predictions": ["hi"]})
    body["instances"] = [{"b64": "not base64!"}]
    assert post(target, IDENTITY, body)[0] == 400
