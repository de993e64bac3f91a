"""The REST interface: paths to methods, statuses to HTTP, and some pages that TensorFlow Serving has not got."""

from __future__ import annotations

import re
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from urllib.parse import unquote

import orjson
from google.protobuf import json_format

from streaming.model_server import json_tensor
from streaming.model_server.call import Call
from streaming.model_server.classifier import classify
from streaming.model_server.get_model_metadata import SIGNATURE_DEF, get_model_metadata
from streaming.model_server.get_model_status import get_model_status
from streaming.model_server.metrics import Metrics
from streaming.model_server.predict import DEFAULT_SIGNATURE, checked_inputs
from streaming.model_server.regressor import regress
from streaming.model_server.server_core import ServerCore
from streaming.model_server.status import Code, invalid_argument, status_of
from streaming.serving_protos import (
    ClassificationRequest,
    GetModelMetadataRequest,
    GetModelStatusRequest,
    ModelSpec,
    RegressionRequest,
    SignatureDefMap,
)

_VERSION = r"(?:/versions/(?P<version>\d+)|/labels/(?P<label>[^/:]+))?"
_INFERENCE = re.compile(
    rf"/v1/models/(?P<model>[^/:]+){_VERSION}:(?P<method>classify|regress|predict)", re.IGNORECASE | re.ASCII
)
_STATUS = re.compile(rf"/v1/models(?:/(?P<model>[^/:]+))?{_VERSION}(?P<metadata>/metadata)?", re.IGNORECASE | re.ASCII)
_MAX_VERSION = 2**63 - 1

_HTTP_STATUS = {
    Code.OK: 200,
    Code.CANCELLED: 499,
    Code.UNKNOWN: 500,
    Code.INVALID_ARGUMENT: 400,
    Code.DEADLINE_EXCEEDED: 504,
    Code.NOT_FOUND: 404,
    Code.ALREADY_EXISTS: 409,
    Code.PERMISSION_DENIED: 403,
    Code.RESOURCE_EXHAUSTED: 429,
    Code.FAILED_PRECONDITION: 400,
    Code.ABORTED: 409,
    Code.OUT_OF_RANGE: 400,
    Code.UNIMPLEMENTED: 501,
    Code.INTERNAL: 500,
    Code.UNAVAILABLE: 503,
    Code.DATA_LOSS: 500,
    Code.UNAUTHENTICATED: 401,
}
_CORS = {
    "Access-Control-Allow-Origin": "*",
    "Access-Control-Allow-Methods": "POST, GET",
    "Access-Control-Allow-Headers": "Content-Type",
}


@dataclass(frozen=True)
class HttpRequest:
    """A request as it came: path without query, headers in lower case, body unpacked."""

    method: str
    path: str
    headers: Mapping[str, str]
    body: bytes


@dataclass(frozen=True)
class HttpResponse:
    """A response to send."""

    status: int
    body: bytes
    content_type: str = "application/json"
    headers: Mapping[str, str] = field(default_factory=dict)


class HttpRestApi:
    """Answers requests; knows nothing of sockets."""

    def __init__(
        self, core: ServerCore, metrics: Metrics, *, timeout_s: float, metrics_path: str | None, cors: bool
    ) -> None:
        """Sets what is answered.

        Args:
          core: the models.
          metrics: are counted, and shown at `metrics_path`.
          timeout_s: after which a request is not worth working on.
          metrics_path: of the Prometheus page; None for none.
          cors: let pages of other origins call.
        """
        self._core = core
        self._metrics = metrics
        self._timeout_s = timeout_s
        self._cors = cors
        self._pages: dict[str, Callable[[], HttpResponse]] = {
            "/healthz": lambda: HttpResponse(200, b'{"status": "ok"}'),
            "/readyz": self._ready,
            "/models": self._models,
        }
        if metrics_path is not None:
            self._pages[metrics_path] = lambda: HttpResponse(
                200, metrics.text().encode(), content_type="text/plain; charset=utf-8"
            )

    def answer(self, request: HttpRequest) -> HttpResponse:
        """Answers one request, whatever it is."""
        headers = _CORS if self._cors else {}
        page = self._pages.get(request.path)
        if page is not None and request.method in ("GET", "HEAD"):
            return page()
        if not request.path.lower().startswith("/v1/"):
            return HttpResponse(404, _error_body(f"Not found: {request.path}"), headers=headers)
        if self._cors and request.method == "OPTIONS":
            return _preflight(request)
        started = time.perf_counter()
        model, api = "", ""
        try:
            if request.method == "POST" and (match := _INFERENCE.fullmatch(request.path)):
                model, api = unquote(match["model"]), match["method"].lower()
                text = self._infer(_spec(match), api, request.body)
            elif request.method == "GET" and (match := _STATUS.fullmatch(request.path)):
                if match["model"] is None:
                    raise invalid_argument("Missing model name in request.")
                model, api = unquote(match["model"]), "metadata" if match["metadata"] else "status"
                text = self._metadata(_spec(match)) if match["metadata"] else self._status(_spec(match))
            else:
                raise invalid_argument(f"Malformed request: {request.method} {request.path}")
            code, body = Code.OK, text.encode()
        except Exception as exc:
            error = status_of(exc)
            code, body = error.code, _error_body(error.message)
        known = model if self._core.knows(model) else ""
        self._metrics.request_count.add((known, code.name))
        if code is Code.OK:
            latency_us = (time.perf_counter() - started) * 1e6
            self._metrics.request_latency.add((known, api.capitalize(), "REST"), latency_us)
        return HttpResponse(_HTTP_STATUS[code], body, headers=headers)

    def _infer(self, spec: ModelSpec, method: str, body: bytes) -> str:
        call = Call(time.monotonic() + self._timeout_s, api=method.capitalize())
        document = json_tensor.parse_object(body)
        spec.signature_name = json_tensor.signature_name(document)
        if method == "predict":
            return self._predict(spec, document, call)
        context, examples = json_tensor.request_examples(document, method)
        request = (ClassificationRequest if method == "classify" else RegressionRequest)(model_spec=spec)
        if context is None:
            request.input.example_list.examples.extend(examples)
        else:
            request.input.example_list_with_context.context.CopyFrom(context)
            request.input.example_list_with_context.examples.extend(examples)
        self._metrics.request_example_counts.add((spec.name,), len(examples))
        self._metrics.request_example_count_total.add((spec.name,), len(examples))
        if method == "classify":
            return json_tensor.classifications_text(classify(self._core, request, call).result)
        return json_tensor.regressions_text(regress(self._core, request, call).result)

    def _predict(self, spec: ModelSpec, document: Mapping[str, object], call: Call) -> str:
        with self._core.servable(spec) as servable:
            key = spec.signature_name or DEFAULT_SIGNATURE
            signature = servable.signatures.get(key)
            if signature is None:
                raise invalid_argument(f'Serving signature name: "{key}" not found in signature def')
            if not signature.inputs:
                raise invalid_argument(f"Failed to get input map for signature: {spec.signature_name or 'DEFAULT'}")
            dtypes = {alias: ref.dtype for alias, ref in signature.inputs.items()}
            arrays, by_row = json_tensor.predict_inputs(document, dtypes)
            feeds = checked_inputs(signature, arrays)
            fetches = signature.fetches
            results = servable.run(feeds, [arrays[ref.alias] for ref in feeds], fetches, call)
        outputs = {ref.alias: array for ref, array in zip(fetches, results, strict=True)}
        return json_tensor.predictions_text(outputs) if by_row else json_tensor.outputs_text(outputs)

    def _status(self, spec: ModelSpec) -> str:
        if spec.WhichOneof("version_choice") == "version_label":
            spec.version.value = self._core.version_of_label(spec.name, spec.version_label)
        response = get_model_status(self._core, GetModelStatusRequest(model_spec=spec))
        # The code of a status is its name in JSON, OK included.
        return str(
            json_format.MessageToJson(
                response, preserving_proto_field_name=True, always_print_fields_with_no_presence=True
            )
        )

    def _metadata(self, spec: ModelSpec) -> str:
        request = GetModelMetadataRequest(model_spec=spec, metadata_field=[SIGNATURE_DEF])
        response = get_model_metadata(self._core, request)
        signatures = SignatureDefMap()
        response.metadata[SIGNATURE_DEF].Unpack(signatures)
        model_spec, signature_def = (
            json_format.MessageToJson(
                message, preserving_proto_field_name=True, always_print_fields_with_no_presence=True
            )
            for message in (response.model_spec, signatures)
        )
        return f'{{\n"model_spec":{model_spec},\n"metadata": {{"signature_def": {signature_def}}}\n}}\n'

    def _ready(self) -> HttpResponse:
        if self._core.is_ready():
            return HttpResponse(200, b'{"status": "ready"}')
        return HttpResponse(503, b'{"status": "not ready: some model has no version that answers"}')

    def _models(self) -> HttpResponse:
        models = [
            {
                "name": name,
                "labels": dict(self._core.labels(name)),
                "versions": [
                    {
                        "version": str(status.version),
                        "state": status.state.name,
                        "error": status.error.message if status.error else "",
                    }
                    for status in self._core.versions(name)
                ],
            }
            for name in self._core.model_names()
        ]
        return HttpResponse(200, orjson.dumps({"models": models}))


def _spec(match: re.Match[str]) -> ModelSpec:
    spec = ModelSpec(name=unquote(match["model"]))
    if match["version"] is not None:
        if len(match["version"]) > len(str(_MAX_VERSION)) or int(match["version"]) > _MAX_VERSION:
            raise invalid_argument(f"Failed to convert version: {match['version'][:32]} to numeric.")
        spec.version.value = int(match["version"])
    elif match["label"] is not None:
        spec.version_label = unquote(match["label"])
    return spec


def _preflight(request: HttpRequest) -> HttpResponse:
    if request.headers.get("origin", "").startswith(("http://", "https://")):
        return HttpResponse(200, b"", headers=_CORS)
    return HttpResponse(400, _error_body("Expected an Origin of http or https in a preflight request"), headers=_CORS)


def _error_body(message: str) -> bytes:
    return orjson.dumps({"error": message.encode("utf-8", "replace").decode()})
