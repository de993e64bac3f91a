"""A model server in a process of its own, as a parent process starts it."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
import time
from pathlib import Path

import grpc

from streaming.serving_protos import ModelServiceStub, PredictionServiceStub

REPOSITORY = Path(__file__).parents[2]


class ServerProcess:
    """Starts the server on free ports, waits for it, and stops it."""

    def __init__(
        self, folder: Path, *flags: str, ready: bool = True, timeout_s: float = 90.0, under: tuple[str, ...] = ()
    ) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        self.log = folder / "stderr.log"
        port_file = folder / "ports.json"
        port_file.unlink(missing_ok=True)
        command = [*under, sys.executable, "-m", "streaming.model_server.main", "--port=0", f"--port_file={port_file}"]
        with self.log.open("ab") as stderr:
            self.process = subprocess.Popen(
                [*command, "--version_settle_seconds=0.2", *flags],
                stdout=subprocess.PIPE,
                stderr=stderr,
                text=True,
                cwd=REPOSITORY,
            )
        self.lines: list[str] = []
        give_up = time.monotonic() + timeout_s
        wanted = " ready " if ready else " listening "
        while not any(wanted in line for line in self.lines):
            line = self.process.stdout.readline()
            if not line or time.monotonic() > give_up:
                raise RuntimeError(f"the server did not start: {self.log.read_text()[-4000:]}")
            self.lines.append(line)
        self.ports = json.loads(port_file.read_text())
        self.target = f"127.0.0.1:{self.ports['grpc_port']}"
        self.channel = grpc.insecure_channel(
            self.target, options=[("grpc.max_receive_message_length", -1), ("grpc.max_send_message_length", -1)]
        )
        self.prediction = PredictionServiceStub(self.channel)
        self.model = ModelServiceStub(self.channel)

    @property
    def rest(self) -> str:
        """The base address of the REST interface."""
        return f"http://127.0.0.1:{self.ports['rest_port']}"

    def stop(self, timeout_s: float = 30.0) -> int:
        """Ends the server as an operator would. Returns its exit status."""
        self.channel.close()
        if self.process.poll() is None:
            self.process.send_signal(signal.SIGTERM)
        try:
            return self.process.wait(timeout_s)
        finally:
            if self.process.poll() is None:
                self.process.kill()
                self.process.wait()
            self.process.stdout.close()

    def __enter__(self) -> ServerProcess:
        return self

    def __exit__(self, *_: object) -> None:
        self.stop()
