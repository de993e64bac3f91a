"""The gRPC face of the server: services, addresses, and the edge where exceptions become statuses."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import grpc
from grpc_health.v1 import health, health_pb2, health_pb2_grpc
from grpc_reflection.v1alpha import reflection, reflection_pb2_grpc

from streaming.model_server.call import Call
from streaming.model_server.classifier import classify
from streaming.model_server.get_model_metadata import get_model_metadata
from streaming.model_server.get_model_status import get_model_status
from streaming.model_server.metrics import Metrics
from streaming.model_server.multi_inference import multi_inference
from streaming.model_server.predict import predict
from streaming.model_server.regressor import regress
from streaming.model_server.reload_config import handle_reload_config_request
from streaming.model_server.server_core import ServerCore
from streaming.model_server.status import Code, status_of, wire_message
from streaming.model_server.worker_threads import WorkerThreads
from streaming.serving_protos import (
    MODEL_SERVICE,
    PREDICTION_SERVICE,
    ClassificationRequest,
    GetModelMetadataRequest,
    GetModelStatusRequest,
    MultiInferenceRequest,
    PredictRequest,
    RegressionRequest,
    ReloadConfigRequest,
)

_MAX_MESSAGE_BYTES = 2**31 - 1
_CODES = {code.value[0]: code for code in grpc.StatusCode}
_HEALTH_SERVICES = ("", PREDICTION_SERVICE, MODEL_SERVICE, "PredictionService", "ModelService")
_COUNTED = ("Predict", "Classify", "Regress")

Method = Callable[[Any, Call], Any]


class GrpcServer:
    """Serves a core over gRPC."""

    def __init__(
        self,
        core: ServerCore,
        metrics: Metrics,
        *,
        max_threads: int,
        as_content: bool,
        with_health: bool,
        channel_arguments: Sequence[tuple[str, str | int]] = (),
    ) -> None:
        """Makes a server that listens nowhere yet.

        Args:
          core: what is served.
          metrics: are counted.
          max_threads: requests that are worked on at the same time.
          as_content: answers carry `tensor_content`.
          with_health: offer `grpc.health.v1.Health`.
          channel_arguments: for the gRPC library.
        """
        self._threads = WorkerThreads(max_threads, "grpc")
        self._server = grpc.server(
            self._threads,
            options=[
                ("grpc.max_receive_message_length", _MAX_MESSAGE_BYTES),
                ("grpc.max_send_message_length", _MAX_MESSAGE_BYTES),
                ("grpc.so_reuseport", 0),
                *channel_arguments,
            ],
        )
        edge = _Edge(core, metrics, self._threads.step_aside)
        edge.serve(
            self._server,
            PREDICTION_SERVICE,
            {
                "Predict": (PredictRequest, lambda r, c: predict(core, r, c, as_content=as_content)),
                "Classify": (ClassificationRequest, lambda r, c: classify(core, r, c)),
                "Regress": (RegressionRequest, lambda r, c: regress(core, r, c)),
                "MultiInference": (MultiInferenceRequest, lambda r, c: multi_inference(core, r, c)),
                "GetModelMetadata": (GetModelMetadataRequest, lambda r, _: get_model_metadata(core, r)),
            },
        )
        edge.serve(
            self._server,
            MODEL_SERVICE,
            {
                "GetModelStatus": (GetModelStatusRequest, lambda r, _: get_model_status(core, r)),
                "HandleReloadConfigRequest": (
                    ReloadConfigRequest,
                    lambda r, c: handle_reload_config_request(core, metrics, r, c),
                ),
            },
        )
        services = [PREDICTION_SERVICE, MODEL_SERVICE, reflection.SERVICE_NAME]
        self._health = health.HealthServicer()
        if with_health:
            health_pb2_grpc.add_HealthServicer_to_server(self._health, self._server)
            services.append(health.SERVICE_NAME)
        servicer = _Reflection(services, self._threads.step_aside)
        reflection_pb2_grpc.add_ServerReflectionServicer_to_server(servicer, self._server)
        self.set_ready(ready=False)

    def listen(self, address: str, credentials: grpc.ServerCredentials | None) -> int:
        """Binds an address, `host:port` or `unix:path`, in the clear if there are no credentials.

        Returns:
          The port; of a port 0, the one that was taken.

        Raises:
          OSError: the address cannot be bound.
        """
        try:
            if credentials is None:
                return int(self._server.add_insecure_port(address))
            return int(self._server.add_secure_port(address, credentials))
        except RuntimeError as error:
            raise OSError(f"cannot listen on {address}: {error}") from error

    def start(self) -> None:
        """Begins to serve."""
        self._server.start()

    def set_ready(self, *, ready: bool) -> None:
        """Says to health checks whether every model answers."""
        status = health_pb2.HealthCheckResponse.SERVING if ready else health_pb2.HealthCheckResponse.NOT_SERVING
        for service in _HEALTH_SERVICES:
            self._health.set(service, status)

    def stop(self, grace_s: float) -> None:
        """Takes no new requests, and waits for the running ones for at most `grace_s` seconds."""
        self._health.enter_graceful_shutdown()
        self._server.stop(grace_s).wait()
        self._threads.shutdown(wait=False)


def server_credentials(key: bytes, certificate: bytes, custom_ca: bytes, *, client_verify: bool) -> Any:
    """Credentials of a server, from PEM texts; with `client_verify`, clients must have a certificate of `custom_ca`."""
    return grpc.ssl_server_credentials(
        [(key, certificate)], root_certificates=custom_ca or None, require_client_auth=client_verify
    )


class _Edge:
    """Lets methods raise what they like: the client gets a code and a sentence, and the metrics an entry."""

    def __init__(self, core: ServerCore, metrics: Metrics, step_aside: Callable[[], None]) -> None:
        self._core = core
        self._metrics = metrics
        self._step_aside = step_aside

    def serve(self, server: grpc.Server, service: str, methods: Mapping[str, tuple[Any, Method]]) -> None:
        """Adds a service of unary methods, each with its request's class."""
        handlers = {method: self._handler(method, request, run) for method, (request, run) in methods.items()}
        server.add_generic_rpc_handlers((grpc.method_handlers_generic_handler(service, handlers),))
        # gRPC's core knows the registered ones by name, and looks no further.
        server.add_registered_method_handlers(service, handlers)

    def _handler(self, api: str, request_class: Any, run: Method) -> grpc.RpcMethodHandler:
        def handle(request: Any, context: grpc.ServicerContext) -> Any:
            started = time.perf_counter()
            try:
                response = run(request, self._call(context, api))
            except Exception as exc:
                error = status_of(exc)
                self._count(api, request, started, error.code)
                return context.abort(_CODES[error.code], wire_message(error.message))
            self._count(api, request, started, Code.OK)
            return response

        return grpc.unary_unary_rpc_method_handler(
            handle, request_deserializer=request_class.FromString, response_serializer=_serialize
        )

    def _call(self, context: grpc.ServicerContext, api: str) -> Call:
        remaining_s = context.time_remaining()
        expires_s = math.inf if remaining_s is None else time.monotonic() + remaining_s
        return Call(expires_s, lambda: not context.is_active(), api, self._step_aside)

    def _count(self, api: str, request: Any, started: float, code: Code) -> None:
        if api not in _COUNTED:
            return
        name = self._label(request)
        self._metrics.request_count.add((name, code.name))
        if code is Code.OK:
            self._metrics.request_latency.add((name, api, "GRPC"), (time.perf_counter() - started) * 1e6)
            if api != "Predict":
                self._count_examples(name, request)

    def _label(self, request: Any) -> str:
        """The model's name if there is such a model, so that clients cannot make up metrics."""
        name = str(request.model_spec.name)
        return name if self._core.knows(name) else ""

    def _count_examples(self, name: str, request: Any) -> None:
        lists = request.input
        count = len(lists.example_list.examples) + len(lists.example_list_with_context.examples)
        self._metrics.request_example_counts.add((name,), count)
        self._metrics.request_example_count_total.add((name,), count)


class _Reflection(reflection.ReflectionServicer):  # type: ignore[misc]  # it has no types
    """Reflection, whose streams last as long as their clients like."""

    def __init__(self, services: Sequence[str], step_aside: Callable[[], None]) -> None:
        super().__init__(services)
        self._step_aside = step_aside

    def ServerReflectionInfo(self, request_iterator: Any, context: grpc.ServicerContext) -> Any:  # noqa: N802
        self._step_aside()
        yield from super().ServerReflectionInfo(request_iterator, context)


def _serialize(message: Any) -> bytes:
    return bytes(message.SerializeToString())
