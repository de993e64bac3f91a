"""The streaming image, built for real and run against a real Kafka and the model server. Minutes."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
from collections.abc import Iterator

import pytest
import yaml

from deploy.images.build import Builder, Image
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
def streaming_image(builder: Builder, tmp_path_factory: pytest.TempPathFactory) -> Image:
    wheel = make_wheel(tmp_path_factory.mktemp("wheel") / "checkout")
    (CHECKOUT / "dist").mkdir(exist_ok=True)
    for old in (CHECKOUT / "dist").glob("*.whl"):
        old.unlink()
    shutil.copy(wheel, CHECKOUT / "dist")
    return builder.build("streaming", builder.base())


def test_the_streaming_image_predicts(builder: Builder, streaming_image: Image, live: LiveStream) -> None:
    """The real consumer in its image, with a real Kafka and the model server in the machine's network."""
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
