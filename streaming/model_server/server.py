"""The server as one object: core, loader and faces, put together by the flags."""

from __future__ import annotations

import gc
import logging
from dataclasses import dataclass
from pathlib import Path

from streaming.model_server.flags import Flags
from streaming.model_server.grpc_server import GrpcServer
from streaming.model_server.saved_model_bundle import SessionOptions
from streaming.model_server.saved_model_loader import SavedModelLoader
from streaming.model_server.servable import ExecutionFactory, run_directly
from streaming.model_server.server_core import ServerCore, ServerCoreOptions
from streaming.serving_protos import ModelServerConfig

_log = logging.getLogger(__name__)


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
        """Starts to load models, and binds the addresses.

        Raises:
          StatusError: the config is wrong.
          OSError: an address cannot be bound.
        """
        # What is loaded by now stays: without it, collections after an unload are short.
        gc.collect()
        gc.freeze()
        loader = SavedModelLoader(
            SessionOptions(
                flags.saved_model_tags,
                flags.tensorflow_intra_op_parallelism or flags.tensorflow_session_parallelism,
                flags.tensorflow_inter_op_parallelism or flags.tensorflow_session_parallelism,
            ),
            self._execution,
            None,
            flags.allowed_model_roots,
        )
        self._flags = flags
        self.core = ServerCore(
            config,
            loader,
            ServerCoreOptions(
                poll_wait_s=flags.file_system_poll_wait_seconds,
                config_file=flags.model_config_file,
                config_poll_wait_s=flags.model_config_file_poll_wait_seconds,
                settle_s=flags.version_settle_seconds,
                allowed_roots=flags.allowed_model_roots,
                allow_labels_for_unavailable=flags.allow_version_labels_for_unavailable_models,
                max_load_retries=flags.max_num_load_retries,
                load_retry_interval_s=flags.load_retry_interval_micros / 1e6,
                load_threads=max(1, flags.num_load_threads),
            ),
        )
        try:
            self._grpc = GrpcServer(
                self.core,
                address=f"{flags.bind_address}:{flags.port}",
                max_threads=flags.grpc_max_threads,
                as_content=flags.enable_serialization_as_tensor_content,
                channel_arguments=flags.grpc_channel_arguments,
            )
        except OSError:
            self.core.close()
            raise

    def start(self) -> Addresses:
        """Begins to answer, whether or not models are loaded yet."""
        self._grpc.start()
        return Addresses(self._flags.bind_address, {"grpc_port": self._grpc.port})

    def stop(self) -> None:
        """Takes no new requests, lets running ones end, and unloads all models."""
        _log.info("Stopping: waiting at most %g s for running requests", self._flags.shutdown_grace_seconds)
        self._grpc.stop(self._flags.shutdown_grace_seconds)
        self.core.close()

    def _execution(self, path: Path) -> ExecutionFactory:  # noqa: ARG002
        return run_directly
