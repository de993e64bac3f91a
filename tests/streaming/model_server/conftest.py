from __future__ import annotations

import shutil
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import grpc
import numpy as np
import pytest

from streaming.serving_protos import GetModelStatusRequest, ModelServerConfig, PredictRequest, ReloadConfigRequest
from streaming.tensors import encode_tensor
from tests.conformance.conftest import models
from tests.conformance.server_process import ServerProcess

__all__ = ["models"]


@dataclass
class Playground:
    """A server without models, and a folder of the test's own from which it may load some."""

    server: ServerProcess
    folder: Path
    models: Path

    def name(self, name: str) -> str:
        """A model's name on the server, which keeps the states of other tests' models."""
        return f"{self.folder.name}.{name}"

    def publish(self, name: str, version: int, source: str = "half_plus_two/123") -> Path:
        """Puts a version into the base path of `name` by a rename."""
        base = self.folder / name
        base.mkdir(exist_ok=True)
        hidden = self.folder / f".{name}-{version}"
        shutil.copytree(self.models / source, hidden)
        return hidden.rename(base / str(version))

    def reload(self, *names: str, timeout_s: float = 30.0, **entry: object) -> None:
        """Serves these models and no others; `entry` goes into each entry of the config."""
        config = ModelServerConfig()
        for name in names:
            config.model_config_list.config.add(
                **{
                    "name": self.name(name),
                    "base_path": str(self.folder / name),
                    "model_platform": "tensorflow",
                    **entry,
                }
            )
        request = ReloadConfigRequest(config=config)
        response = self.server.model.HandleReloadConfigRequest(request, timeout=timeout_s)
        assert response.status.error_code == 0

    def predict(self, name: str, x: float = 2.0, **spec: object) -> tuple[float, int]:
        """The answer for one value, and the version that gave it."""
        request = PredictRequest(model_spec={"name": self.name(name), **spec})
        request.inputs["x"].CopyFrom(encode_tensor(np.array([x], np.float32)))
        response = self.server.prediction.Predict(request, timeout=30)
        return response.outputs["y"].float_val[0], response.model_spec.version.value

    def states(self, name: str) -> dict[int, tuple[int, int, str]]:
        """State, error code and message of each version."""
        request = GetModelStatusRequest(model_spec={"name": self.name(name)})
        entries = self.server.model.GetModelStatus(request, timeout=30).model_version_status
        return {e.version: (e.state, e.status.error_code, e.status.error_message) for e in entries}


def eventually(condition: Callable[[], bool], timeout_s: float = 20.0) -> None:
    """Waits until a condition holds."""
    give_up = time.monotonic() + timeout_s
    while not condition():
        assert time.monotonic() < give_up, "did not come true in time"
        time.sleep(0.02)


def code_of(call: Callable[[], object]) -> tuple[grpc.StatusCode, str]:
    """The status with which a call fails."""
    with pytest.raises(grpc.RpcError) as caught:
        call()
    return caught.value.code(), caught.value.details()


@pytest.fixture(scope="session")
def empty_server(tmp_path_factory):
    roots = tmp_path_factory.mktemp("roots")
    config = roots / "models.config"
    config.write_text("")
    with ServerProcess(
        tmp_path_factory.mktemp("empty"),
        f"--model_config_file={config}",
        f"--allowed_model_roots={roots}",
        "--file_system_poll_wait_seconds=0.1",
        "--load_retry_interval_micros=300000",
        "--max_num_load_retries=1",
        "--rest_api_port=-1",
    ) as server:
        yield server, roots


@pytest.fixture
def playground(empty_server, models, request):
    server, roots = empty_server
    folder = roots / request.node.name.replace("[", "-").replace("]", "")
    folder.mkdir()
    return Playground(server, folder, models)
