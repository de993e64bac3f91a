"""The gRPC face of the server: services, addresses, and the edge where exceptions become statuses."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import grpc

from streaming.model_server.call import Call
from streaming.model_server.get_model_metadata import get_model_metadata
from streaming.model_server.get_model_status import get_model_status
from streaming.model_server.predict import predict
from streaming.model_server.server_core import ServerCore
from streaming.model_server.status import status_of, wire_message
from streaming.serving_protos import GetModelMetadataRequest, GetModelStatusRequest, PredictRequest

_MAX_MESSAGE_BYTES = 2**31 - 1
_CODES = {code.value[0]: code for code in grpc.StatusCode}

Method = Callable[[Any, Call], Any]


class GrpcServer:
    """Serves a core over gRPC."""

    def __init__(
        self,
        core: ServerCore,
        *,
        address: str,
        max_threads: int,
        as_content: bool,
        channel_arguments: Sequence[tuple[str, str | int]] = (),
    ) -> None:
        """Binds, but does not serve yet.

        Args:
          core: what is served.
          address: `host:port`; port 0 takes a free one.
          max_threads: requests that are worked on at the same time.
          as_content: answers carry `tensor_content`.
          channel_arguments: for the gRPC library.

        Raises:
          OSError: the address cannot be bound.
        """
        self._server = grpc.server(
            ThreadPoolExecutor(max_threads, thread_name_prefix="grpc"),
            options=[
                ("grpc.max_receive_message_length", _MAX_MESSAGE_BYTES),
                ("grpc.max_send_message_length", _MAX_MESSAGE_BYTES),
                ("grpc.so_reuseport", 0),
                *channel_arguments,
            ],
        )

        def run_predict(request: Any, call: Call) -> Any:
            return predict(core, request, call, as_content=as_content)

        self._server.add_generic_rpc_handlers(
            (
                _service(
                    "tensorflow.serving.PredictionService",
                    {
                        "Predict": (PredictRequest, run_predict),
                        "GetModelMetadata": (GetModelMetadataRequest, lambda r, _: get_model_metadata(core, r)),
                    },
                ),
                _service(
                    "tensorflow.serving.ModelService",
                    {"GetModelStatus": (GetModelStatusRequest, lambda r, _: get_model_status(core, r))},
                ),
            )
        )
        try:
            self.port = self._server.add_insecure_port(address)
        except RuntimeError as error:
            raise OSError(f"cannot listen on {address}: {error}") from error

    def start(self) -> None:
        """Begins to serve."""
        self._server.start()

    def stop(self, grace_s: float) -> None:
        """Takes no new requests, and waits for the running ones for at most `grace_s` seconds."""
        self._server.stop(grace_s).wait()


def _service(name: str, methods: dict[str, tuple[Any, Method]]) -> grpc.GenericRpcHandler:
    return grpc.method_handlers_generic_handler(
        name,
        {
            method: grpc.unary_unary_rpc_method_handler(
                _at_the_edge(run),
                request_deserializer=request.FromString,
                response_serializer=_serialize,
            )
            for method, (request, run) in methods.items()
        },
    )


def _serialize(message: Any) -> bytes:
    return bytes(message.SerializeToString())


def _at_the_edge(run: Method) -> Callable[[Any, grpc.ServicerContext], Any]:
    """Lets a method raise what it likes: the client gets a code and a sentence."""

    def handle(request: Any, context: grpc.ServicerContext) -> Any:
        remaining_s = context.time_remaining()
        expires_s = math.inf if remaining_s is None else time.monotonic() + remaining_s
        try:
            return run(request, Call(expires_s, lambda: not context.is_active()))
        except Exception as exc:
            error = status_of(exc)
        return context.abort(_CODES[error.code], wire_message(error.message))

    return handle
