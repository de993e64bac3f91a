"""The gRPC client against a server that answers as it is told, and against the real one."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from typing import Any

import grpc
import numpy as np
import pytest

from schemas.errors import FingerprintMismatch, ServingError, ServingRefused, ServingTooLarge, ServingUnavailable
from schemas.spec import Spec
from streaming.serving_client import ServingClient
from streaming.serving_protos import (
    GetModelStatusRequest,
    GetModelStatusResponse,
    ModelVersionStatus,
    PredictRequest,
    PredictResponse,
)
from streaming.tensors import encode_tensor
from tests.certificates import Certificates
from tests.specs import tiny_spec

INPUTS = {"past_values": np.zeros((2, 3, 2), np.float32)}
Failure = tuple[grpc.StatusCode, str] | None


@dataclass
class Scripted:
    """A server of versions with window fingerprints; what `failures` holds comes first."""

    versions: dict[int, str]
    labels: dict[str, int] = field(default_factory=dict)
    failures: list[Failure] = field(default_factory=list)
    asked: list[PredictRequest] = field(default_factory=list)
    delay_s: float = 0.0

    def predict(self, request: PredictRequest, context: grpc.ServicerContext) -> PredictResponse:
        described = request.model_spec.signature_name == "describe"
        if not described:
            self.asked.append(request)
            time.sleep(self.delay_s)
            if self.failures and (failure := self.failures.pop(0)):
                context.abort(*failure)
        choice = request.model_spec.WhichOneof("version_choice")
        version = max(self.versions, default=0)
        if choice == "version":
            version = request.model_spec.version.value
        if choice == "version_label":
            version = self.labels.get(request.model_spec.version_label, 0)
        if version not in self.versions:
            context.abort(grpc.StatusCode.NOT_FOUND, f"no version {version}")
        response = PredictResponse()
        response.model_spec.version.value = version
        outputs: dict[str, Any] = {"mean": np.full((2, 1, 1), version, np.float32)}
        if described:
            outputs = {"window_fingerprint": np.array([self.versions[version]]), "spec_json": np.array(["{}"])}
        for name, array in outputs.items():
            response.outputs[name].CopyFrom(encode_tensor(array))
        return response

    def status(self, request: GetModelStatusRequest, context: grpc.ServicerContext) -> GetModelStatusResponse:
        response = GetModelStatusResponse()
        one = request.model_spec.version.value
        for version in [one] if one in self.versions else self.versions:
            response.model_version_status.add(version=version, state=ModelVersionStatus.AVAILABLE)
        return response


def serve(scripted: Scripted, address: str = "127.0.0.1:0", credentials: Any = None) -> tuple[grpc.Server, str]:
    def handlers(service: str, name: str, method: Callable[..., Any], kind: Any) -> Any:
        unary = grpc.unary_unary_rpc_method_handler(
            method,
            request_deserializer=kind.FromString,
            response_serializer=lambda message: message.SerializeToString(),
        )
        return grpc.method_handlers_generic_handler(f"tensorflow.serving.{service}", {name: unary})

    server = grpc.server(ThreadPoolExecutor(4))
    server.add_generic_rpc_handlers(
        [
            handlers("PredictionService", "Predict", scripted.predict, PredictRequest),
            handlers("ModelService", "GetModelStatus", scripted.status, GetModelStatusRequest),
        ]
    )
    port = server.add_secure_port(address, credentials) if credentials else server.add_insecure_port(address)
    server.start()
    return server, f"127.0.0.1:{port}"


def spec_for(address: str, **serving: Any) -> Spec:
    return tiny_spec(serving={"address": address, "deadline": "500ms"} | serving)


FINGERPRINT = tiny_spec().window_fingerprint


@pytest.fixture
def scripted() -> Scripted:
    return Scripted({1: FINGERPRINT, 2: FINGERPRINT}, {"stable": 1})


@pytest.fixture
def address(scripted: Scripted) -> Iterator[str]:
    server, address = serve(scripted)
    yield address
    server.stop(None).wait()


@pytest.mark.parametrize(
    ("serving", "version"), [({}, 2), ({"version": 1}, 1), ({"label": "stable"}, 1)], ids=["latest", "pinned", "label"]
)
def test_which_version_answers(address: str, serving: dict[str, Any], version: int) -> None:
    with ServingClient(spec_for(address, **serving)) as client:
        assert client.wait_until_available(1) == version
        answer = client.ask(INPUTS)()
        assert answer.version == version
        assert answer.outputs["mean"].tolist() == [[[version]], [[version]]]


def test_latency_is_the_request_s_and_not_the_waiting_s(scripted: Scripted, address: str) -> None:
    scripted.delay_s = 0.1
    with ServingClient(spec_for(address)) as client:
        waiting = client.ask(INPUTS)
        time.sleep(0.4)
        assert 95 <= waiting().latency_ms < 390  # its clock starts once it is sent


def test_several_requests_are_under_way(scripted: Scripted, address: str) -> None:
    scripted.delay_s = 0.2
    with ServingClient(spec_for(address)) as client:
        client.wait_until_available(1)
        began = time.monotonic()
        for waiting in [client.ask(INPUTS) for _ in range(4)]:
            waiting()
        assert time.monotonic() - began < 0.6


@pytest.mark.parametrize(
    ("code", "text", "kind"),
    [
        (grpc.StatusCode.UNAVAILABLE, "queue full", ServingUnavailable),
        (grpc.StatusCode.RESOURCE_EXHAUSTED, "Too many concurrent calls", ServingUnavailable),
        (grpc.StatusCode.RESOURCE_EXHAUSTED, "Received message larger than max (9 vs. 4)", ServingTooLarge),
        (grpc.StatusCode.INVALID_ARGUMENT, "Task size 9 is larger than maximum input batch size 8", ServingTooLarge),
        (grpc.StatusCode.INVALID_ARGUMENT, "expected float", ServingRefused),
        (grpc.StatusCode.NOT_FOUND, "no such version", ServingUnavailable),
        (grpc.StatusCode.PERMISSION_DENIED, "who are you", ServingError),
    ],
)
def test_errors_by_what_helps(
    scripted: Scripted, address: str, code: grpc.StatusCode, text: str, kind: type[ServingError]
) -> None:
    scripted.failures.append((code, text))
    with ServingClient(spec_for(address)) as client:
        with pytest.raises(ServingError, match=f"model 'tiny' at {address}: {code.name}: ") as caught:
            client.ask(INPUTS)()
        assert type(caught.value) is kind
        assert client.ask(INPUTS)().version == 2


def test_a_deadline_on_every_request(scripted: Scripted, address: str) -> None:
    scripted.delay_s = 2.0
    with ServingClient(spec_for(address)) as client:
        began = time.monotonic()
        with pytest.raises(ServingUnavailable, match="DEADLINE_EXCEEDED"):
            client.ask(INPUTS)()
        assert time.monotonic() - began < 1.5


def test_told_to_stop_it_does_not_wait_for_the_deadline(scripted: Scripted, address: str) -> None:
    stopping = threading.Event()
    with ServingClient(spec_for(address, deadline="1min"), stopping) as client:
        client.wait_until_available(1)
        scripted.delay_s = 6.0
        waiting = client.ask(INPUTS)
        threading.Timer(0.1, stopping.set).start()
        began = time.monotonic()
        with pytest.raises(ServingUnavailable, match="no answer before the end"):
            waiting()
        assert 2 < time.monotonic() - began < 5


def test_a_version_of_other_windows(scripted: Scripted, address: str) -> None:
    """Answers come from the last right version while the server has it; then from none."""
    with ServingClient(spec_for(address)) as client:
        assert client.ask(INPUTS)().version == 2
        scripted.versions[3] = "other windows"
        assert client.ask(INPUTS)().version == 2
        assert client.probe() == 2
        del scripted.versions[2]
        with pytest.raises(FingerprintMismatch, match="is gone"):
            client.ask(INPUTS)()
        with pytest.raises(FingerprintMismatch, match=r"expected a model of the windows .* got version 3 of other"):
            client.probe()
        scripted.versions[4] = FINGERPRINT
        assert client.probe() == client.ask(INPUTS)().version == 4


def test_is_there_again_at_once_when_the_server_is(scripted: Scripted) -> None:
    """gRPC itself would wait for up to two minutes before it connects again."""
    server, address = serve(scripted)
    with ServingClient(spec_for(address)) as client:
        client.wait_until_available(1)
        server.stop(None).wait()
        until = time.monotonic() + 3
        while time.monotonic() < until:
            with pytest.raises(ServingUnavailable):
                client.ask(INPUTS)()
            time.sleep(0.1)
        server, _ = serve(scripted, address)
        client.wait_until_available(2)
        server.stop(None).wait()


def test_tls_with_certificates_on_both_sides(scripted: Scripted, certificates: Certificates) -> None:
    pem = {name: (certificates.folder / f"{name}.pem").read_bytes() for name in ("ca", "server")}
    credentials = grpc.ssl_server_credentials([(pem["server"], pem["server"])], pem["ca"], require_client_auth=True)
    server, address = serve(scripted, credentials=credentials)
    with ServingClient(spec_for(address, tls=certificates.tls)) as client:
        assert client.wait_until_available(5) == 2
    for tls in ({"ca": certificates.path("ca")}, None):
        with ServingClient(spec_for(address, tls=tls)) as client, pytest.raises(ServingUnavailable):
            client.probe()
    server.stop(None).wait()
