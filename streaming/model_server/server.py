"""The server as one object: core, loader and faces, put together by the flags."""

from __future__ import annotations

import gc
import logging
import threading
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from streaming.model_server.batching_parameters import BatchingParameters, batching_parameters
from streaming.model_server.batching_session import BatchingExecution, BatchScheduler
from streaming.model_server.config_protos import METRICS_PATH, read_config
from streaming.model_server.flags import Flags
from streaming.model_server.grpc_server import GrpcServer, server_credentials
from streaming.model_server.http_rest_api import HttpRestApi
from streaming.model_server.http_server import HttpServer
from streaming.model_server.metrics import Metrics
from streaming.model_server.saved_model_bundle import SessionOptions
from streaming.model_server.saved_model_loader import SavedModelLoader
from streaming.model_server.sequence_padding import read_sequence_padding
from streaming.model_server.servable import ExecutionFactory, run_directly
from streaming.model_server.server_core import ServerCore, ServerCoreOptions
from streaming.model_server.status import invalid_argument
from streaming.model_server.warmup import Warmup
from streaming.serving_protos import ModelServerConfig

_log = logging.getLogger(__name__)

_PER_MODEL_PARAMETERS = "batching_params.pbtxt"
_READINESS_POLL_S = 0.1


@dataclass(frozen=True, slots=True)
class Addresses:
    """Where a running server listens."""

    host: str
    ports: dict[str, int]

    def __str__(self) -> str:
        return " ".join(f"{name.removesuffix('_port')}={self.host}:{port}" for name, port in self.ports.items())


class ModelServer:
    """A model server in this process."""

    def __init__(self, flags: Flags, config: ModelServerConfig) -> None:
        """Reads the config files, binds the addresses, and starts to load models.

        Raises:
          StatusError: a config is wrong.
          OSError: an address cannot be bound.
        """
        # What is loaded by now stays: without it, collections after an unload are short.
        gc.collect()
        gc.freeze()
        self._flags = flags
        self._metrics = Metrics()
        self._scheduler = self._make_scheduler()
        credentials = _read_credentials(flags.ssl_config_file) if flags.ssl_config_file else None
        metrics_path = _read_metrics_path(flags.monitoring_config_file) if flags.monitoring_config_file else None
        self.core = ServerCore(config, self._make_loader(), _core_options(flags))
        self._rest: HttpServer | None = None
        self._stopped = threading.Event()
        self._readiness = threading.Thread(target=self._watch_readiness, name="readiness", daemon=True)
        try:
            self._grpc = GrpcServer(
                self.core,
                self._metrics,
                max_threads=flags.grpc_threads,
                as_content=flags.enable_serialization_as_tensor_content,
                with_health=flags.enable_grpc_healthcheck_service,
                channel_arguments=flags.grpc_channel_arguments,
            )
            host = f"[{flags.bind_address}]" if ":" in flags.bind_address else flags.bind_address
            self._ports = {"grpc_port": self._grpc.listen(f"{host}:{flags.port}", credentials)}
            if flags.grpc_socket_path:
                self._grpc.listen(f"unix:{flags.grpc_socket_path}", None)
            if flags.rest_api_port:
                self._rest = HttpServer(
                    HttpRestApi(
                        self.core,
                        self._metrics,
                        timeout_s=flags.rest_api_timeout_in_ms / 1e3,
                        metrics_path=metrics_path,
                        cors=flags.rest_api_enable_cors_support,
                    ),
                    host=flags.bind_address,
                    port=max(0, flags.rest_api_port),
                    threads=flags.rest_threads,
                    timeout_s=flags.rest_api_timeout_in_ms / 1e3,
                )
                self._ports["rest_port"] = self._rest.port
        except OSError:
            self.core.close()
            raise

    def start(self) -> Addresses:
        """Begins to answer, whether or not models are loaded yet."""
        self._grpc.start()
        if self._rest is not None:
            self._rest.start()
        self._readiness.start()
        return Addresses(self._flags.bind_address, self._ports)

    def stop(self) -> None:
        """Takes no new requests, lets running ones end, and unloads all models."""
        grace_s = self._flags.shutdown_grace_seconds
        _log.info("Stopping: waiting at most %g s for running requests", grace_s)
        self._stopped.set()
        if self._readiness.ident is not None:
            self._readiness.join()
        self._grpc.stop(grace_s)
        if self._rest is not None:
            self._rest.stop(grace_s)
        self.core.close()

    def _watch_readiness(self) -> None:
        ready = False
        while not self._stopped.wait(_READINESS_POLL_S):
            if ready != self.core.is_ready():
                ready = not ready
                self._grpc.set_ready(ready=ready)

    def _make_scheduler(self) -> BatchScheduler | None:
        if not self._flags.enable_batching:
            return None
        file = self._flags.batching_parameters_file
        return BatchScheduler(
            batching_parameters(read_config("BatchingParameters", file)) if file else BatchingParameters(),
            self._metrics,
        )

    def _make_loader(self) -> SavedModelLoader:
        flags = self._flags
        return SavedModelLoader(
            SessionOptions(
                flags.saved_model_tags,
                flags.intra_op_threads,
                flags.tensorflow_inter_op_parallelism or flags.tensorflow_session_parallelism,
            ),
            self._execution,
            Warmup(self._metrics, flags.num_request_iterations_for_warmup) if flags.enable_model_warmup else None,
            flags.allowed_model_roots,
            self._metrics,
        )

    def _execution(self, path: Path) -> ExecutionFactory:
        """How the model of a version folder runs."""
        scheduler = self._scheduler
        if scheduler is None:
            return run_directly
        if self._flags.enable_per_model_batching_parameters:
            file = path / _PER_MODEL_PARAMETERS
            if not file.exists():
                return run_directly
            scheduler = BatchScheduler(batching_parameters(read_config("BatchingParameters", file)), self._metrics)
        return BatchingExecution(scheduler, read_sequence_padding(path))


def _core_options(flags: Flags) -> ServerCoreOptions:
    return ServerCoreOptions(
        poll_wait_s=flags.file_system_poll_wait_seconds,
        config_file=flags.model_config_file,
        config_poll_wait_s=flags.model_config_file_poll_wait_seconds,
        settle_s=flags.version_settle_seconds,
        allowed_roots=flags.allowed_model_roots,
        allow_labels_for_unavailable=flags.allow_version_labels_for_unavailable_models,
        max_load_retries=flags.max_num_load_retries,
        load_retry_interval_s=flags.load_retry_interval_micros / 1e6,
        load_threads=max(1, flags.num_load_threads),
    )


def _read_credentials(path: Path) -> Any:
    config = read_config("SSLConfig", path)
    if not config.server_key or not config.server_cert:
        raise invalid_argument(f"{path}: expected server_key and server_cert")
    # TensorFlow Serving's file holds the PEM texts themselves.
    return server_credentials(
        config.server_key.encode(),
        config.server_cert.encode(),
        config.custom_ca.encode(),
        client_verify=config.client_verify,
    )


def _read_metrics_path(path: Path) -> str | None:
    config = read_config("MonitoringConfig", path).prometheus_config
    return (config.path or METRICS_PATH) if config.enable else None
