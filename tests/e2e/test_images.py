"""The images, built for real and run: one predicts from a real Kafka, one trains what another one serves. Minutes."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import grpc
import pytest
import yaml

from deploy.images.build import Builder, Image
from deploy.local.ports import free_port
from tests.deploy.test_images import CHECKOUT, make_wheel
from tests.e2e.conftest import LiveStream
from tests.e2e.test_stream import history, send

pytestmark = [pytest.mark.slow, pytest.mark.timeout(1800)]


@pytest.fixture(scope="module")
def builder(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Builder]:
    if missing := [program for program in ("buildah", "debootstrap") if shutil.which(program) is None]:
        pytest.skip(f"images are built with {' and '.join(missing)}, which this machine has not")
    if os.geteuid() != 0:
        pytest.skip("images are built as root")
    builder = Builder(CHECKOUT, CHECKOUT / "build" / "images")
    yield builder
    builder.forget()


@pytest.fixture(scope="module")
def built(builder: Builder, tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Image]:
    """Builds one of the images with the wheel of this checkout."""
    wheel = make_wheel(tmp_path_factory.mktemp("wheel") / "checkout")
    (CHECKOUT / "dist").mkdir(exist_ok=True)
    for old in (CHECKOUT / "dist").glob("*.whl"):
        old.unlink()
    shutil.copy(wheel, CHECKOUT / "dist")
    return lambda name: builder.build(name, builder.base())


def test_the_streaming_image_predicts(builder: Builder, built: Callable[[str], Image], live: LiveStream) -> None:
    """The real consumer in its image, with a real Kafka and the model server in the machine's network."""
    streaming_image = built("streaming")
    assert streaming_image.size < 400e6
    send(live, history(40, 200, "xyz"))
    spec = yaml.safe_dump(live.spec.model_dump(mode="json", exclude_defaults=True))
    stream = "cat > spec.yaml; exec tidegauge stream --spec spec.yaml --from earliest --until-end --json"
    command = builder.command(streaming_image, "sh", "-c", stream)
    done = subprocess.run(command, input=spec, capture_output=True, text=True, timeout=120, check=False)
    assert done.returncode == 0, done.stderr
    counts = json.loads(done.stdout)
    assert counts["in"] == 200
    assert len(live.predictions()) == counts["predictions"] > 0


def test_the_batch_image_trains_what_the_model_server_image_serves(
    builder: Builder, built: Callable[[str], Image], tmp_path: Path
) -> None:
    """The demo's data to a forecast, in two containers that share folders as volumes."""
    batch, server = built("batch"), built("model-server")
    port = free_port()
    document = yaml.safe_load((CHECKOUT / "deploy" / "specs" / "weather.yaml").read_text())
    document |= {"model": {"family": "linear"}, "serving": {"address": f"127.0.0.1:{port}"}}
    document["paths"] = {"models": "/models"}
    (tmp_path / "spec.yaml").write_text(yaml.safe_dump(document))
    shutil.copy(CHECKOUT / "deploy" / "data" / "weather.csv.gz", tmp_path)
    (tmp_path / "models").mkdir()
    for path in (tmp_path, tmp_path / "models"):
        path.chmod(0o777)  # the containers' user is another one
    folders = {tmp_path: "/job", tmp_path / "models": "/models"}
    inside = builder.command(batch, folders=folders)

    def verb(*arguments: str) -> dict[str, Any]:
        command = [*inside, "tidegauge", arguments[0], "--spec", "/job/spec.yaml", "--json", *arguments[1:]]
        done = subprocess.run(command, capture_output=True, text=True, timeout=600, check=False)
        assert done.returncode == 0, done.stderr
        document: dict[str, Any] = json.loads(done.stdout)
        return document

    assert verb("ingest", "--input", "/job/weather.csv.gz", "--output", "/job/data")["events"]["used"] == 26_115
    verb("train", "--data", "/job/data", "--output", "/job/run")
    assert verb("push", "--run", "/job/run")["version"] == 1
    flags = (f"--port={port}", "--model_name=nyc-weather", "--model_base_path=/models/nyc-weather")
    serving = subprocess.Popen(
        builder.command(server, "tidegauge-model-server", *flags, folders=folders), start_new_session=True
    )
    try:
        with grpc.insecure_channel(f"127.0.0.1:{port}") as channel:
            grpc.channel_ready_future(channel).result(timeout=120)
        forecast = verb("predict", "--input", "/job/weather.csv.gz", "--key", "EWR")
    finally:
        os.killpg(serving.pid, signal.SIGTERM)
        serving.wait(timeout=30)
    [temperature] = forecast["targets"]
    assert len(temperature["mean"]) == 24
    assert all(-60 < value < 130 for value in temperature["mean"])  # degF
