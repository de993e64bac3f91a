"""The local stack of a stream: Kafka with its topics, and the model server with its models."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable
from pathlib import Path

from deploy.local.kafka import Ports
from deploy.local.ports import require_free
from deploy.local.process import DetachedProcess, Running
from deploy.local.stack import Stack, status, up
from deploy.local.state import claim, default_state_dir
from flows.model_config import CONFIG_POLL_S, prepare
from schemas.spec import Spec
from schemas.text_spec import TextSpec

MODEL_SERVER = "model-server"


def start(
    spec: Spec | TextSpec | None,
    *,
    state_dir: Path | None = None,
    port: int | None = None,
    report: Callable[[str], None] = lambda _: None,
) -> Stack:
    """Starts Kafka and, for a spec, its topics and the model server on its address.

    Args:
      spec: the stream, or None for Kafka alone.
      state_dir: where everything is kept; `.tidegauge` by default.
      port: Kafka's port, 0 for a free one; the default port when left out.
      report: is told, in words, what takes time.
    Raises:
      LocalStackError: a port is taken, there is no Java, the state folder is not ours, a process does not start.
      BrokerError: a topic cannot be created.
    """
    state_dir = state_dir or default_state_dir()
    ports = None if port is None else Ports(port, 0 if port == 0 else port + 1)
    stack = up(state_dir, ports=ports, report=report)
    if spec is not None:
        _create_topics(spec, stack, report)
        start_model_server(spec, state_dir)
    return status(state_dir)


def start_model_server(spec: Spec | TextSpec, state_dir: Path) -> Running:
    """Starts the embedded model server for the spec's models, unless it runs already, and waits until it answers.

    Raises:
      LocalStackError: its port is taken, or it does not start.
    """
    process = DetachedProcess(MODEL_SERVER, claim(state_dir))
    with process.lock:
        if running := process.running():
            return running
        require_free(_port(spec), "the model server")
        port_file = process.pid_file.with_suffix(".ports")
        port_file.unlink(missing_ok=True)
        command = [sys.executable, "-m", "streaming.model_server.main", *model_server_args(spec)]
        return process.start(
            [*command, f"--port_file={port_file}"],
            endpoints={"grpc": spec.serving.address},
            ready=port_file.exists,
            timeout_s=60,
        )


def model_server_args(spec: Spec | TextSpec) -> list[str]:
    """The flags with which a model server serves the spec's models on the spec's address.

    Which versions it serves says the model config file, which is made where there is none; see `flows.model_config`.
    """
    base = Path(spec.paths.models).absolute()
    (base / spec.model_name).mkdir(parents=True, exist_ok=True)
    return [
        f"--port={_port(spec)}",
        f"--model_config_file={prepare(spec)}",
        f"--model_config_file_poll_wait_seconds={CONFIG_POLL_S}",
        f"--allowed_model_roots={base}",
    ]


def _create_topics(spec: Spec | TextSpec, stack: Stack, report: Callable[[str], None]) -> None:
    from streaming.stream_topics import prepare_topics
    from streaming.topics import TopicAdmin

    with TopicAdmin(stack.bootstrap or spec.kafka) as admin:
        for warning in prepare_topics(admin, spec, oldest_ms=None, now_ms=time.time_ns() // 1_000_000):
            report(warning)


def _port(spec: Spec | TextSpec) -> int:
    return int(spec.serving.address.rpartition(":")[2])
