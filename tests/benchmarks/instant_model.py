"""A model server that answers at once, of every window with the same random numbers.

It takes the model's own time out of a measurement.

python -m tests.benchmarks.instant_model SPEC PORT
"""

from __future__ import annotations

import sys
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import grpc
import numpy as np

from schemas.spec import Spec, load_spec
from streaming.serving_protos import (
    GetModelStatusRequest,
    GetModelStatusResponse,
    ModelVersionStatus,
    PredictRequest,
    PredictResponse,
)
from streaming.tensors import encode_tensor

UNLIMITED = [("grpc.max_receive_message_length", -1), ("grpc.max_send_message_length", -1)]


def serve(spec: Spec, port: int) -> grpc.Server:
    """Starts the server."""
    forecast = np.random.default_rng(0).normal(size=(spec.window.horizon, len(spec.targets))).astype(np.float32)
    forecasts = np.tile(forecast, (spec.serving.max_batch, 1, 1))

    def answer(outputs: dict[str, np.ndarray[Any, Any]]) -> PredictResponse:
        response = PredictResponse()
        response.model_spec.name = spec.model_name
        response.model_spec.version.value = 1
        for name, array in outputs.items():
            response.outputs[name].CopyFrom(encode_tensor(array, as_content=array.dtype.kind == "f"))
        return response

    def predict(request: PredictRequest, context: Any) -> PredictResponse:
        if request.model_spec.signature_name == "describe":
            fingerprint = np.array([spec.window_fingerprint.encode()], dtype=object)
            return answer({"window_fingerprint": fingerprint, "spec_json": np.array([b"{}"], dtype=object)})
        rows = request.inputs["past_values"].tensor_shape.dim[0].size
        return answer({"mean": forecasts[:rows]})

    def status(request: GetModelStatusRequest, context: Any) -> GetModelStatusResponse:
        response = GetModelStatusResponse()
        response.model_version_status.add(version=1, state=ModelVersionStatus.AVAILABLE)
        return response

    def method(call: Any, request: Any) -> Any:
        def write(response: Any) -> bytes:
            return response.SerializeToString()

        return grpc.unary_unary_rpc_method_handler(
            call, request_deserializer=request.FromString, response_serializer=write
        )

    server = grpc.server(ThreadPoolExecutor(4), options=UNLIMITED)
    server.add_generic_rpc_handlers(
        (
            grpc.method_handlers_generic_handler(
                "tensorflow.serving.PredictionService", {"Predict": method(predict, PredictRequest)}
            ),
            grpc.method_handlers_generic_handler(
                "tensorflow.serving.ModelService", {"GetModelStatus": method(status, GetModelStatusRequest)}
            ),
        )
    )
    server.add_insecure_port(f"127.0.0.1:{port}")
    server.start()
    return server


if __name__ == "__main__":
    serve(load_spec(sys.argv[1]), int(sys.argv[2])).wait_for_termination()
