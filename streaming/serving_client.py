"""The gRPC client of TensorFlow Serving, or of the embedded model server.

It asks every version that answers what windows it was made for (signature `describe`), before it uses the answer: a
model of other windows would predict, and be wrong.
"""

from __future__ import annotations

import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from types import TracebackType
from typing import Any, Self

import grpc
import numpy as np
from numpy.typing import NDArray

from schemas.errors import FingerprintMismatch, ServingError, ServingUnavailable
from schemas.spec import Spec
from streaming.serving_protos import (
    GetModelStatusRequest,
    ModelServiceStub,
    ModelVersionStatus,
    PredictionServiceStub,
    PredictRequest,
    PredictResponse,
)
from streaming.tensors import decode_tensor, encode_tensor

Arrays = Mapping[str, NDArray[Any]]

_UNAVAILABLE = (grpc.StatusCode.UNAVAILABLE, grpc.StatusCode.DEADLINE_EXCEEDED, grpc.StatusCode.RESOURCE_EXHAUSTED)
_UNLIMITED = -1


def predict_request(model: str, inputs: Arrays, *, version: int | None = None, signature: str = "") -> PredictRequest:
    """The request that asks `model` for its outputs; the latest version and the default signature unless told."""
    request = PredictRequest()
    request.model_spec.name = model
    request.model_spec.signature_name = signature
    if version is not None:
        request.model_spec.version.value = version
    for name, array in inputs.items():
        request.inputs[name].CopyFrom(encode_tensor(array, as_content=array.dtype.kind not in "OSU"))
    return request


class ServingClient:
    """Predicts with one served model.

    Args:
      spec: whose windows the model must have been made for; its `serving` section says where it is.
    """

    def __init__(self, spec: Spec) -> None:
        self.model = spec.model_name
        self.address = spec.serving.address
        self._fingerprint = spec.window_fingerprint
        self._deadline_s = spec.serving.deadline / 1_000
        self._pinned = spec.serving.version
        self._verified: set[int] = set()
        self._last_verified: int | None = None
        options = [("grpc.max_receive_message_length", _UNLIMITED), ("grpc.max_send_message_length", _UNLIMITED)]
        if (tls := spec.serving.tls) is None:
            self._channel = grpc.insecure_channel(self.address, options=options)
        else:
            credentials = grpc.ssl_channel_credentials(*tls.files("$.serving.tls"))
            self._channel = grpc.secure_channel(self.address, credentials, options=options)
        self._predictions = PredictionServiceStub(self._channel)
        self._models = ModelServiceStub(self._channel)

    def __enter__(self) -> Self:
        return self

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
                version = self._available_version()
                self._verify(version)
                return version
            except FingerprintMismatch:
                raise
            except ServingError as exc:
                if time.monotonic() >= until:
                    raise type(exc)(f"{exc} (waited {timeout_s:g} s)") from exc
            time.sleep(min(0.2, timeout_s))

    def predict(self, inputs: Arrays) -> tuple[dict[str, NDArray[Any]], int]:
        """Predicts one batch, with the pinned version or the latest.

        Args:
          inputs: the model's inputs by name, all with the same first axis.
        Returns:
          The outputs by name, and the version that made them; its windows are the spec's.
        Raises:
          ServingUnavailable: the server is unreachable, overloaded or too slow; trying again can help.
          FingerprintMismatch: the served version is of other windows, and no version that was right is left.
          ServingError: the server refused the request.
        """
        response = self._predict(inputs, self._pinned)
        version: int = response.model_spec.version.value
        try:
            self._verify(version)
        except FingerprintMismatch:
            # A wrong version has taken over: stay on the last right one while the server still has it.
            if self._last_verified is None or self._pinned is not None:
                raise
            version = self._last_verified
            try:
                response = self._predict(inputs, version)
            except ServingError as exc:
                raise FingerprintMismatch(
                    f"{self._where()}: the served version is of other windows than the spec's, and version {version}, "
                    f"the last one of the right windows, is gone: {exc}"
                ) from exc
        return {name: decode_tensor(tensor) for name, tensor in response.outputs.items()}, version

    def describe(self, version: int | None = None) -> tuple[str, str]:
        """What a version (the latest when None) says of itself: its window fingerprint, and its spec as JSON."""
        response = self._predict({"probe": np.zeros(1, np.int32)}, version, signature="describe")
        outputs = {name: decode_tensor(tensor)[0] for name, tensor in response.outputs.items()}
        return outputs["window_fingerprint"].decode(), outputs["spec_json"].decode()

    def _verify(self, version: int) -> None:
        if version not in self._verified:
            try:
                fingerprint, _ = self.describe(version)
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
            self._verified.add(version)
        self._last_verified = version

    def _available_version(self) -> int:
        """The pinned version, or the latest, once it is AVAILABLE."""
        request = GetModelStatusRequest()
        request.model_spec.name = self.model
        if self._pinned is not None:
            request.model_spec.version.value = self._pinned
        with self._errors_mapped():
            statuses = self._models.GetModelStatus(request, timeout=self._deadline_s).model_version_status
        available = [status.version for status in statuses if status.state == ModelVersionStatus.AVAILABLE]
        if available:
            return int(max(available))
        states = ", ".join(f"{s.version}: {ModelVersionStatus.State.Name(s.state)}" for s in statuses) or "no versions"
        raise ServingUnavailable(f"{self._where()}: expected an AVAILABLE version, got {states}")

    def _predict(self, inputs: Arrays, version: int | None, signature: str = "") -> PredictResponse:
        request = predict_request(self.model, inputs, version=version, signature=signature)
        with self._errors_mapped():
            return self._predictions.Predict(request, timeout=self._deadline_s)

    @contextmanager
    def _errors_mapped(self) -> Iterator[None]:
        try:
            yield
        except grpc.RpcError as exc:
            code, details = exc.code(), " ".join((exc.details() or "").split())
            kind = ServingUnavailable if code in _UNAVAILABLE else ServingError
            raise kind(f"{self._where()}: {code.name}: {details:.300}") from exc

    def _where(self) -> str:
        return f"model '{self.model}' at {self.address}"
