"""The server that the conformance rows are put to.

By default it is the embedded server, started here on the fixture models. To put the same rows to another server, such
as `tensorflow/serving`: write the models with `python -m tests.conformance.fixture_models FOLDER`, let it serve
FOLDER/models.config with `--monitoring_config_file=FOLDER/monitoring.config`, and run

    pytest tests/conformance --target HOST:GRPC_PORT --rest-target HOST:REST_PORT
"""

from __future__ import annotations

import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

import grpc
import pytest

from streaming.serving_protos import ModelServiceStub, PredictionServiceStub
from tests.conformance.server_process import REPOSITORY, ServerProcess


def pytest_addoption(parser):
    parser.addoption("--target", help="host:port of a server's gRPC interface")
    parser.addoption("--rest-target", help="host:port of its REST interface")
    parser.addoption("--batching-target", help="host:port of a server with batching on, see test_batching.py")


@dataclass
class Target:
    """A running server with the fixture models."""

    prediction: PredictionServiceStub
    model: ModelServiceStub
    rest: str


@pytest.fixture(scope="session")
def models(tmp_path_factory) -> Path:
    """The folder of the fixture models."""
    folder = tmp_path_factory.mktemp("models")
    command = [sys.executable, "-m", "tests.conformance.fixture_models", str(folder)]
    done = subprocess.run(command, cwd=REPOSITORY, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr[-4000:]
    return folder


@pytest.fixture(scope="session")
def target(request):
    """The server under test."""
    address = request.config.getoption("--target", default=None)
    if address is None:
        models = request.getfixturevalue("models")
        folder = request.getfixturevalue("tmp_path_factory").mktemp("server")
        with ServerProcess(
            folder,
            f"--model_config_file={models / 'models.config'}",
            f"--monitoring_config_file={models / 'monitoring.config'}",
            "--rest_api_port=-1",
            "--allow_version_labels_for_unavailable_models",
        ) as server:
            yield Target(server.prediction, server.model, server.rest)
        return
    rest = request.config.getoption("--rest-target")
    with grpc.insecure_channel(address) as channel:
        yield Target(PredictionServiceStub(channel), ModelServiceStub(channel), f"http://{rest}" if rest else "")
