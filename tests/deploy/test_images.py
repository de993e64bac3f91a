"""What goes into the images: locked packages, our wheel, a few modules of TensorFlow."""

from __future__ import annotations

import fnmatch
import os
import re
import shutil
import subprocess
import sys
import tomllib
import zipfile
from pathlib import Path

import pytest

from deploy.images.build import IMAGES

CHECKOUT = Path(__file__).parents[2]
FILES = CHECKOUT / "deploy" / "images"
ROOMS = ("schemas", "pipelines", "models", "streaming", "flows", "deploy")
EXTRAS = {"streaming": ["stream"], "batch": ["batch", "train", "stream"], "model-server": ["serve"]}


def locked(path: Path) -> dict[str, str]:
    """Version by package."""
    return dict(re.findall(r"^([a-z0-9-]+)==([^ ;]+)", path.read_text(), flags=re.MULTILINE))


@pytest.mark.parametrize("image", IMAGES)
def test_an_image_has_the_tested_versions_of_what_it_needs(image: str) -> None:
    everything, own = locked(CHECKOUT / "requirements.lock"), locked(FILES / f"{image}.lock")
    assert own.items() <= everything.items()
    extras = tomllib.loads((CHECKOUT / "pyproject.toml").read_text())["project"]["optional-dependencies"]
    named = {re.split(r"[\[<>=]", package)[0].lower() for extra in EXTRAS[image] for package in extras[extra]}
    without = set((FILES / "streaming.excludes").read_text().split()) if image == "streaming" else set()
    assert named - set(own) == without & named
    assert locked(FILES / "protos.lock").items() <= everything.items()


@pytest.mark.parametrize("image", IMAGES)
def test_a_build_finds_what_it_copies(image: str) -> None:
    """Each source is in the checkout (the wheel once it is made), and the build may see it."""
    ignore = (CHECKOUT / ".dockerignore").read_text().split()
    dockerfile = (FILES / f"Dockerfile.{image}").read_text()
    sources = [
        word for line in re.findall(r"^COPY (?!--)(.*)$", dockerfile, re.MULTILINE) for word in line.split()[:-1]
    ]
    assert any(source.endswith(".lock") for source in sources)
    for source in sources:
        assert any(fnmatch.fnmatch(source, pattern[1:]) for pattern in ignore if pattern.startswith("!"))
        assert source == "dist/*.whl" or (CHECKOUT / source).is_file()
    assert re.search(r"^USER 10001:10001$", dockerfile, re.MULTILINE)


def test_the_consumer_needs_only_the_protobuf_modules_that_are_copied(tmp_path: Path) -> None:
    """In a process of its own, whose TensorFlow is the copy."""
    copy = [sys.executable, "-m", "streaming.copy_protos", str(tmp_path)]
    subprocess.run(copy, check=True, capture_output=True, env=os.environ | {"PYTHONPATH": str(CHECKOUT)})
    copied = list(tmp_path.rglob("*.*"))
    assert all(path.name.endswith(("_pb2.py", "__init__.py")) for path in copied)
    assert sum(path.stat().st_size for path in tmp_path.rglob("*.py")) < 1_000_000
    program = """
import sys
import streaming.consumer, streaming.model_server.config_protos
assert sys.modules["tensorflow.core"].__path__[0].startswith(sys.argv[1])
import tensorflow
"""
    environment = os.environ | {"PYTHONPATH": f"{tmp_path}:{CHECKOUT}"}
    done = subprocess.run(
        [sys.executable, "-c", program, str(tmp_path)], capture_output=True, text=True, env=environment, check=False
    )
    last = done.stderr.splitlines()[-1]
    assert last == "ModuleNotFoundError: this installation has only the protobuf modules of TensorFlow"


def make_wheel(copy: Path) -> Path:
    """Builds the wheel of a copy of the checkout."""
    for room in ROOMS:
        shutil.copytree(CHECKOUT / room, copy / room, ignore=shutil.ignore_patterns("__pycache__"))
    for name in ("pyproject.toml", "README.md", "tidegauge.py"):
        shutil.copy(CHECKOUT / name, copy)
    build = [sys.executable, "-m", "pip", "wheel", "--no-deps", "--no-build-isolation", "--wheel-dir", "dist", "."]
    subprocess.run(build, cwd=copy, check=True, capture_output=True)
    [wheel] = (copy / "dist").glob("*.whl")
    return wheel


def test_the_wheel_is_whole(tmp_path: Path) -> None:
    """It holds all of our modules and the files that they read, and works away from the checkout."""
    wheel = make_wheel(tmp_path / "checkout")
    with zipfile.ZipFile(wheel) as archive:
        held = set(archive.namelist())
        archive.extractall(tmp_path / "installed")
    modules = {str(path.relative_to(CHECKOUT)) for room in ROOMS for path in (CHECKOUT / room).rglob("*.py")}
    assert modules <= held
    read = ["schemas/*.yaml", "schemas/avro/*.avsc", "models/*.jinja", "pipelines/kernels/*.json"]
    read += [
        "deploy/capacity/*.json",
        "deploy/specs/*.yaml",
        "deploy/data/*.gz",
        "deploy/local/*.properties",
        "deploy/local/*/*.toml",
    ]
    for pattern in read:
        files = {str(path.relative_to(CHECKOUT)) for path in CHECKOUT.glob(pattern)}
        assert files
        assert files <= held
    program = "from tidegauge import main; import sys, tidegauge; print(tidegauge.__file__); sys.exit(main(['schema']))"
    done = subprocess.run(
        [sys.executable, "-c", program],
        cwd=tmp_path,
        env=os.environ | {"PYTHONPATH": str(tmp_path / "installed")},
        capture_output=True,
        text=True,
        check=True,
    )
    assert done.stdout.startswith(str(tmp_path / "installed"))
