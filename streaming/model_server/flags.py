"""The command line of `tensorflow_model_server`, and what this server adds to it."""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from streaming.model_server.model_config import read_model_config_file, single_model
from streaming.serving_protos import ModelServerConfig

_CPUS = os.cpu_count() or 1
_BATCHED_THREADS = max(128, 4 * _CPUS)

_WITHOUT_EFFECT = (
    "enable_profiler",
    "enable_signature_method_name_check",
    "flush_filesystem_caches",
    "num_unload_threads",
    "per_process_gpu_memory_fraction",
    "platform_config_file",
    "prefer_tflite_model",
    "remove_unused_fields_from_bundle_metagraph",
    "tensorflow_session_config_file",
    "thread_pool_factory_config_file",
    "xla_cpu_compilation_enabled",
)
"""Flags of TensorFlow Serving that are accepted, so that its command lines work, and change nothing here."""


@dataclass(frozen=True)
class Flags:
    """All flags, with the values that hold when they are not given. docs/model-server.md says what each one means."""

    port: int = 8500
    bind_address: str = "127.0.0.1"
    port_file: Path | None = None
    grpc_socket_path: str = ""
    rest_api_port: int = 0
    rest_api_num_threads: int = 0
    rest_api_timeout_in_ms: int = 30_000
    rest_api_enable_cors_support: bool = False
    model_name: str = "default"
    model_base_path: str = ""
    model_config_file: Path | None = None
    model_config_file_poll_wait_seconds: float = 0.0
    file_system_poll_wait_seconds: float = 1.0
    version_settle_seconds: float = 1.0
    saved_model_tags: tuple[str, ...] = ("serve",)
    allowed_model_roots: tuple[Path, ...] = ()
    allow_version_labels_for_unavailable_models: bool = False
    max_num_load_retries: int = 5
    load_retry_interval_micros: int = 60_000_000
    num_load_threads: int = 0
    grpc_max_threads: int = 0
    grpc_channel_arguments: tuple[tuple[str, str | int], ...] = ()
    tensorflow_session_parallelism: int = 0
    tensorflow_intra_op_parallelism: int = 0
    tensorflow_inter_op_parallelism: int = 0
    enable_serialization_as_tensor_content: bool = False
    enable_batching: bool = False
    batching_parameters_file: Path | None = None
    enable_per_model_batching_parameters: bool = False
    enable_model_warmup: bool = True
    num_request_iterations_for_warmup: int = 1
    enable_grpc_healthcheck_service: bool = True
    ssl_config_file: Path | None = None
    monitoring_config_file: Path | None = None
    log_format: str = "text"
    shutdown_grace_seconds: float = 30.0

    @property
    def intra_op_threads(self) -> int:
        """Threads of one operation; with batching 1, since batches side by side use the cores better."""
        given = self.tensorflow_intra_op_parallelism or self.tensorflow_session_parallelism
        return given or int(self.enable_batching)

    @property
    def grpc_threads(self) -> int:
        """Threads for gRPC requests; with batching, as many as are to share a batch, since each sleeps in one."""
        return self.grpc_max_threads or (_BATCHED_THREADS if self.enable_batching else 2 * _CPUS)

    @property
    def rest_threads(self) -> int:
        """Threads for REST requests; with batching, as many as are to share a batch, since each sleeps in one."""
        return self.rest_api_num_threads or (_BATCHED_THREADS if self.enable_batching else 4 * _CPUS)

    def model_server_config(self) -> ModelServerConfig:
        """What is to be served, from the config file or the single-model flags.

        Raises:
          StatusError: the config file cannot be read.
        """
        if self.model_config_file is not None:
            return read_model_config_file(self.model_config_file)
        return single_model(self.model_name, self.model_base_path)


def parse_flags(argv: Sequence[str]) -> Flags:
    """Parses `--flag=value` and `--flag value`; a bool may stand alone. Exits with 2 and a line for wrong flags."""
    parser = argparse.ArgumentParser(
        prog="tidegauge-model-server", description="TensorFlow Serving's model server.", allow_abbrev=False
    )
    defaults = Flags()

    def flag(name: str, kind: Callable[[str], object] | None = None, *, says: str) -> None:
        default = getattr(defaults, name)
        if isinstance(default, bool):
            parser.add_argument(f"--{name}", type=_bool, nargs="?", const=True, default=default, help=says)
        else:
            parser.add_argument(f"--{name}", type=kind or type(default), default=default, help=says)

    flag("port", says="TCP port of gRPC; 0 takes a free one (see --port_file)")
    flag("bind_address", says="address to listen on; 0.0.0.0 for all, as TensorFlow Serving does")
    flag("port_file", Path, says="JSON file that is written with the ports and the pid once the server listens")
    flag("grpc_socket_path", says="path of a Unix socket on which gRPC is offered too")
    flag("rest_api_port", says="TCP port of REST; 0 for none, -1 takes a free one (see --port_file)")
    flag("rest_api_num_threads", says="REST requests worked on at the same time; 0 is 4 per CPU, 128 with batching")
    flag("rest_api_timeout_in_ms", says="milliseconds that a REST request may take")
    flag("rest_api_enable_cors_support", says="let web pages of other origins call the REST interface")
    flag("model_name", says="name of the model of --model_base_path")
    flag("model_base_path", says="folder whose numeric children are the versions")
    flag("model_config_file", Path, says="text-format ModelServerConfig; replaces --model_name and --model_base_path")
    flag("model_config_file_poll_wait_seconds", says="seconds between looks at --model_config_file; 0 for never")
    flag("file_system_poll_wait_seconds", says="seconds between looks for versions; 0 for once, less for never")
    flag("version_settle_seconds", says="seconds for which a version folder must be unchanged before it is loaded")
    flag("saved_model_tags", _words, says="comma-separated tags of the MetaGraph to load")
    flag("allowed_model_roots", _folders, says="comma-separated folders; models elsewhere are refused")
    flag("allow_version_labels_for_unavailable_models", says="let new labels name versions that are not loaded yet")
    flag("max_num_load_retries", says="times that loading a version is tried again")
    flag("load_retry_interval_micros", says="microseconds between tries")
    flag("num_load_threads", says="versions loaded at the same time; 0 is 1")
    flag("grpc_max_threads", says="gRPC requests worked on at the same time; 0 is 2 per CPU, 128 with batching")
    flag("grpc_channel_arguments", _channel_arguments, says="comma-separated key=value for the gRPC server")
    flag("tensorflow_session_parallelism", says="threads of a session; the next two override it")
    flag("tensorflow_intra_op_parallelism", says="threads of one operation; 0 is all, 1 with batching")
    flag("tensorflow_inter_op_parallelism", says="operations run side by side; 0 runs them in the request's thread")
    flag("enable_serialization_as_tensor_content", says="answer in tensor_content instead of typed fields")
    flag("enable_batching", says="run requests of several clients as one batch")
    flag("batching_parameters_file", Path, says="text-format BatchingParameters")
    flag("enable_per_model_batching_parameters", says="batch by the batching_params.pbtxt in each version folder only")
    flag("enable_model_warmup", says="run assets.extra/tf_serving_warmup_requests before a version is available")
    flag("num_request_iterations_for_warmup", says="times that each warm-up request is run")
    flag("enable_grpc_healthcheck_service", says="offer grpc.health.v1.Health")
    flag("ssl_config_file", Path, says="text-format SSLConfig: TLS for gRPC")
    flag("monitoring_config_file", Path, says="text-format MonitoringConfig: a Prometheus page on the REST port")
    flag("log_format", says="text or json, on stderr")
    flag("shutdown_grace_seconds", says="seconds that running requests get after SIGTERM")
    for name in _WITHOUT_EFFECT:
        parser.add_argument(f"--{name}", nargs="?", default=argparse.SUPPRESS, help=argparse.SUPPRESS)
    given = vars(parser.parse_args(list(argv)))
    for name in _WITHOUT_EFFECT:
        if name in given:
            del given[name]
            print(f"tidegauge-model-server: --{name} has no effect", file=sys.stderr)
    flags = Flags(**given)
    if flags.log_format not in ("text", "json"):
        parser.error(f"--log_format: expected text or json, got {flags.log_format}")
    if not flags.model_base_path and flags.model_config_file is None:
        parser.error("expected --model_base_path or --model_config_file")
    return flags


def _bool(text: str) -> bool:
    values = {"true": True, "1": True, "false": False, "0": False}
    if text.lower() not in values:
        raise argparse.ArgumentTypeError(f"expected true or false, got {text}")
    return values[text.lower()]


def _words(text: str) -> tuple[str, ...]:
    return tuple(word for word in text.split(",") if word)


def _folders(text: str) -> tuple[Path, ...]:
    return tuple(Path(os.path.realpath(word)) for word in _words(text))


def _channel_arguments(text: str) -> tuple[tuple[str, str | int], ...]:
    pairs = [word.partition("=") for word in _words(text)]
    return tuple((key, int(value) if value.lstrip("-").isdigit() else value) for key, _, value in pairs)
