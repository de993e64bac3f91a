"""The gRPC client of TensorFlow Serving, or of the embedded model server.

It asks every version that answers what windows it was made for (signature `describe`), before it uses the answer: a
model of other windows would predict, and be wrong.
"""

from __future__ import annotations

import math
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from functools import partial
from threading import Event as StopFlag
from types import TracebackType
from typing import Self

import grpc
import numpy as np

from schemas.errors import FingerprintMismatch, ServingError, ServingRefused, ServingTooLarge, ServingUnavailable
from schemas.spec import Spec, served_levels
from schemas.text_spec import TextSpec
from streaming.model_client import Answer, Arrays, Waiting
from streaming.serving_protos import (
    GetModelStatusRequest,
    ModelServiceStub,
    ModelVersionStatus,
    PredictionServiceStub,
    PredictRequest,
    PredictResponse,
)
from streaming.tensors import decode_tensor, serialize_tensor

# What is not here, such as UNAUTHENTICATED, is neither the inputs' fault nor does it go away by itself.
_KINDS: dict[grpc.StatusCode, type[ServingError]] = {
    grpc.StatusCode.UNAVAILABLE: ServingUnavailable,
    grpc.StatusCode.DEADLINE_EXCEEDED: ServingUnavailable,
    grpc.StatusCode.RESOURCE_EXHAUSTED: ServingUnavailable,
    grpc.StatusCode.CANCELLED: ServingUnavailable,
    # A version that is gone: the next request finds the one that took its place.
    grpc.StatusCode.NOT_FOUND: ServingUnavailable,
    grpc.StatusCode.INVALID_ARGUMENT: ServingRefused,
    grpc.StatusCode.FAILED_PRECONDITION: ServingRefused,
    grpc.StatusCode.OUT_OF_RANGE: ServingRefused,
    grpc.StatusCode.INTERNAL: ServingRefused,
    grpc.StatusCode.UNKNOWN: ServingRefused,
}
# "Received message larger than max", "Task size 9 is larger than maximum input batch size 8".
_TOO_LARGE = "larger than max"
_SIZE_CODES = (grpc.StatusCode.RESOURCE_EXHAUSTED, grpc.StatusCode.INVALID_ARGUMENT)
STOPPING_TIMEOUT_S = 3.0
"""What a request may still take once we are told to stop."""
STATUS_TIMEOUT_S = 5.0
LOOK_S = 0.25

_PROBE = {"probe": np.zeros(1, np.int32)}
_OPTIONS = [
    ("grpc.max_receive_message_length", -1),
    ("grpc.max_send_message_length", -1),
    # By default gRPC waits for up to two minutes before it connects again; how long we wait is the breaker's matter.
    ("grpc.initial_reconnect_backoff_ms", 100),
    ("grpc.max_reconnect_backoff_ms", 1_000),
]


def predict_request(
    model: str, inputs: Arrays, *, version: int | None = None, label: str | None = None, signature: str = ""
) -> PredictRequest:
    """The request that asks `model` for its outputs; the latest version and the default signature unless told."""
    request = PredictRequest()
    request.model_spec.name = model
    request.model_spec.signature_name = signature
    if version is not None:
        request.model_spec.version.value = version
    elif label is not None:
        request.model_spec.version_label = label
    for name, array in inputs.items():
        request.inputs[name].MergeFromString(serialize_tensor(array, as_content=array.dtype.kind not in "OSU"))
    return request


class _Call:
    """A request under way, which notes when it ended."""

    def __init__(self, future: grpc.Future, stopping: StopFlag) -> None:
        self._future, self._stopping = future, stopping
        self._began, self._ended = time.monotonic(), 0.0
        future.add_done_callback(self._note)

    @property
    def latency_ms(self) -> float:
        """How long it took; once it has ended."""
        return ((self._ended or time.monotonic()) - self._began) * 1_000

    def result(self) -> PredictResponse:
        """Waits for it; told to stop, for a few seconds at most.

        Raises:
          grpc.RpcError: it failed.
          grpc.FutureCancelledError: it was given up.
        """
        give_up = math.inf
        while True:
            try:
                return self._future.result(timeout=LOOK_S)
            except grpc.FutureTimeoutError:
                if self._stopping.is_set():
                    give_up = min(give_up, time.monotonic() + STOPPING_TIMEOUT_S)
                if time.monotonic() >= give_up:
                    self._future.cancel()

    def _note(self, _: grpc.Future) -> None:
        self._ended = time.monotonic()


class ServingClient:
    """Predicts with one served model.

    Args:
      spec: whose windows the model must have been made for; its `serving` section says where it is.
      stopping: once set, answers are no longer waited for as long as `serving.deadline` says.
    """

    def __init__(self, spec: Spec | TextSpec, stopping: StopFlag | None = None) -> None:
        self._stopping = stopping or StopFlag()
        self.model = spec.model_name
        self.address = spec.serving.address
        self._fingerprint = spec.window_fingerprint
        self._deadline_s = spec.serving.deadline / 1_000
        self._version, self._label = spec.serving.version, spec.serving.label
        self._may_fall_back = self._version is None and self._label is None
        self._verified: dict[int, tuple[float, ...]] = {}  # the levels of their quantiles
        self._last_verified: int | None = None
        if (tls := spec.serving.tls) is None:
            self._channel = grpc.insecure_channel(self.address, options=_OPTIONS)
        else:
            credentials = grpc.ssl_channel_credentials(*tls.files("$.serving.tls"))
            self._channel = grpc.secure_channel(self.address, credentials, options=_OPTIONS)
        self._predictions = PredictionServiceStub(self._channel)
        self._models = ModelServiceStub(self._channel)

    def __enter__(self) -> Self:
        return self

    @property
    def version(self) -> int | None:
        """The version that answered last."""
        return self._last_verified

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        """Closes the connection."""
        self._channel.close()

    def wait_until_available(self, timeout_s: float) -> int:
        """Waits for a version that answers, and checks its windows.

        Returns:
          The version.
        Raises:
          ServingError: there is none within `timeout_s` seconds; the message says what the server last said.
          FingerprintMismatch: it was made for other windows.
        """
        until = time.monotonic() + timeout_s
        while True:
            try:
                return self.probe()
            except FingerprintMismatch:
                raise
            except ServingError as exc:
                if time.monotonic() >= until:
                    raise type(exc)(f"{exc} (waited {timeout_s:g} s)") from exc
            time.sleep(min(0.2, timeout_s))

    def probe(self) -> int:
        """Which version would answer now; its windows are the spec's.

        Raises:
          ServingError: none would, for the reason that the message says.
          FingerprintMismatch: only one of other windows would.
        """
        available = self._available_versions(self._version)
        version = self.version_of_label(self._label) if self._label is not None else max(available)
        try:
            self._verify(version)
        except FingerprintMismatch:
            if not self._may_fall_back or self._last_verified not in available:
                raise
            version = self._last_verified
        self._last_verified = version
        return version

    def states(self) -> dict[int, str]:
        """The state of each version that the server knows, such as AVAILABLE or LOADING; none of an unknown model.

        Raises:
          ServingError: the server does not answer.
        """
        request = GetModelStatusRequest()
        request.model_spec.name = self.model
        with self._errors_mapped():
            try:
                statuses = self._models.GetModelStatus(request, timeout=min(self._deadline_s, STATUS_TIMEOUT_S))
            except grpc.RpcError as exc:
                if exc.code() is grpc.StatusCode.NOT_FOUND:
                    return {}
                raise
        return {
            int(status.version): ModelVersionStatus.State.Name(status.state) for status in statuses.model_version_status
        }

    def ask(self, inputs: Arrays) -> Waiting:
        """Sends one batch to the chosen version, without waiting for the answer.

        Args:
          inputs: the model's inputs by name, all with the same first axis.
        Returns:
          What waits for the answer, of a version whose windows are the spec's. It raises
          ServingUnavailable: the server is unreachable, overloaded or too slow; trying again can help.
          ServingRefused: it does not take these inputs.
          FingerprintMismatch: the served version is of other windows, and no version that was right is left.
          ServingError: it refuses us.
        """
        return self.ask_signature("", inputs)

    def ask_signature(self, signature: str, inputs: Arrays) -> Waiting:
        """As `ask`, of a signature that is not the default one."""
        call = _Call(self._send(inputs, self._version, self._label, signature), self._stopping)
        return partial(self._await, signature, inputs, call)

    def _await(self, signature: str, inputs: Arrays, call: _Call) -> Answer:
        with self._errors_mapped():
            response = call.result()
        version: int = response.model_spec.version.value
        try:
            self._verify(version)
        except FingerprintMismatch:
            # A wrong version has taken over: stay on the last right one while the server still has it.
            if not self._may_fall_back or self._last_verified is None:
                raise
            version = self._last_verified
            call = _Call(self._send(inputs, version, signature=signature), self._stopping)
            try:
                with self._errors_mapped():
                    response = call.result()
            except ServingError as exc:
                raise FingerprintMismatch(
                    f"{self._where()}: the served version is of other windows than the spec's, and version {version}, "
                    f"the last one of the right windows, is gone: {exc}"
                ) from exc
        self._last_verified = version
        return self._answer(response, call, version)

    def ask_version(self, version: int, inputs: Arrays, signature: str = "") -> Waiting:
        """Sends one batch to a version and no other, whatever the spec chooses; else as `ask`."""
        call = _Call(self._send(inputs, version, signature=signature), self._stopping)

        def wait() -> Answer:
            with self._errors_mapped():
                response = call.result()
            self._verify(version)
            return self._answer(response, call, version)

        return wait

    def versions_of_ours(self) -> list[int]:
        """The versions that are AVAILABLE and whose windows are the spec's, whichever the spec chooses."""
        ours = []
        for version in self._available_versions(None):
            with suppress(FingerprintMismatch):
                self._verify(version)
                ours.append(version)
        return ours

    def version_of_label(self, label: str) -> int:
        """The version that has a label now. The server's answer to GetModelStatus does not tell."""
        return int(self._describe(None, label).model_spec.version.value)

    def _answer(self, response: PredictResponse, call: _Call, version: int) -> Answer:
        outputs = {name: decode_tensor(tensor) for name, tensor in response.outputs.items()}
        return Answer(outputs, version, call.latency_ms, self._verified[version])

    def describe(self, version: int | None = None) -> tuple[str, str]:
        """What a version (the latest when None) says of itself: its window fingerprint, and its spec as JSON."""
        response = self._describe(version)
        outputs = {name: decode_tensor(tensor)[0] for name, tensor in response.outputs.items()}
        return outputs["window_fingerprint"].decode(), outputs["spec_json"].decode()

    def classes(self, version: int) -> tuple[str, ...]:
        """What the scores of a version that classifies texts are of, in their order."""
        response = self._describe(version)
        return tuple(name.decode() for name in decode_tensor(response.outputs["classes"])[0])

    def _verify(self, version: int) -> None:
        if version not in self._verified:
            try:
                fingerprint, spec_json = self.describe(version)
            except ServingUnavailable:
                raise
            except (ServingError, KeyError) as exc:
                raise FingerprintMismatch(
                    f"{self._where()}: version {version} does not say which windows it was made for: {exc}"
                ) from exc
            if fingerprint != self._fingerprint:
                raise FingerprintMismatch(
                    f"{self._where()}: expected a model of the windows {self._fingerprint} (this spec's), "
                    f"got version {version} of {fingerprint}"
                )
            self._verified[version] = served_levels(spec_json)

    def _available_versions(self, version: int | None) -> list[int]:
        """The versions that are AVAILABLE, at least one; `version` alone, where it is not None."""
        request = GetModelStatusRequest()
        request.model_spec.name = self.model
        if version is not None:
            request.model_spec.version.value = version
        with self._errors_mapped():
            statuses = self._models.GetModelStatus(
                request, timeout=min(self._deadline_s, STATUS_TIMEOUT_S)
            ).model_version_status
        available = [int(status.version) for status in statuses if status.state == ModelVersionStatus.AVAILABLE]
        if available:
            return available
        states = ", ".join(f"{s.version}: {ModelVersionStatus.State.Name(s.state)}" for s in statuses) or "no versions"
        raise ServingUnavailable(f"{self._where()}: expected an AVAILABLE version, got {states}")

    def _describe(self, version: int | None, label: str | None = None) -> PredictResponse:
        with self._errors_mapped():
            return _Call(self._send(_PROBE, version, label, "describe"), self._stopping).result()

    def _send(self, inputs: Arrays, version: int | None, label: str | None = None, signature: str = "") -> grpc.Future:
        request = predict_request(self.model, inputs, version=version, label=label, signature=signature)
        return self._predictions.Predict.future(request, timeout=self._deadline_s)

    @contextmanager
    def _errors_mapped(self) -> Iterator[None]:
        try:
            yield
        except grpc.RpcError as exc:
            code, details = exc.code(), " ".join((exc.details() or "").split())
            kind = ServingTooLarge if _TOO_LARGE in details and code in _SIZE_CODES else _KINDS.get(code, ServingError)
            raise kind(f"{self._where()}: {code.name}: {details:.300}") from exc
        except grpc.FutureCancelledError as exc:
            raise ServingUnavailable(f"{self._where()}: no answer before the end") from exc

    def _where(self) -> str:
        return f"model '{self.model}' at {self.address}"
