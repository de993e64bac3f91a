"""README's commands, as they stand there, pasted one after the other: on one airport, with a short training."""

from __future__ import annotations

import gzip
import json
import os
import re
import shlex
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from deploy.local.ports import free_port
from deploy.local.stack import down

REPOSITORY = Path(__file__).parents[2]
README = (REPOSITORY / "README.md").read_text()
WEATHER = "deploy/data/weather.csv.gz"

pytestmark = pytest.mark.slow


def block(language: str) -> str:
    """The first block of code in a language."""
    found = re.search(rf"```{language}\n(.*?)```", README, re.DOTALL)
    assert found is not None
    return found[1]


class Folder:
    """A working directory in which README's commands are run, on free ports."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.broker, self.server = free_port(), free_port()

    def run(self, command: list[str]) -> str:
        done = subprocess.run(command, cwd=self.path, env=self.environment, capture_output=True, text=True, check=False)
        assert done.returncode == 0, f"{shlex.join(command)}\n{done.stdout[-1_000:]}{done.stderr[-2_000:]}"
        return done.stdout

    def tidegauge(self, *arguments: str) -> str:
        return self.run([sys.executable, "-m", "tidegauge", *arguments])

    @property
    def environment(self) -> dict[str, str]:
        ours = {"PYTHONPATH": str(REPOSITORY), "TF_CPP_MIN_LOG_LEVEL": "3"}
        ours["TIDEGAUGE_KAFKA__BOOTSTRAP_SERVERS"] = f"127.0.0.1:{self.broker}"
        ours["TIDEGAUGE_SERVING__ADDRESS"] = f"127.0.0.1:{self.server}"
        return {name: value for name, value in os.environ.items() if name != "TIDEGAUGE_HOME"} | ours


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory, jars_dir: Path) -> Iterator[Folder]:
    folder = Folder(tmp_path_factory.mktemp("readme"))
    (folder.path / "deploy/data").mkdir(parents=True)
    with gzip.open(REPOSITORY / WEATHER, "rt") as file, gzip.open(folder.path / WEATHER, "wt") as some:
        some.writelines(line for number, line in enumerate(file) if number == 0 or "EWR" in line)
    (folder.path / ".tidegauge/jars").mkdir(parents=True)
    (folder.path / ".tidegauge/jars/kafka").symlink_to(jars_dir)  # fetched once for all tests
    (folder.path / "weather.yaml").write_text(block("yaml") + "training: {epochs: 1}\n")
    yield folder
    down(folder.path / ".tidegauge")


def test_from_files_to_live_predictions(folder: Folder) -> None:
    commands = [shlex.split(line, comments=True) for line in block("sh").splitlines() if line]
    added = {"up": ["--port", str(folder.broker)], "stream": ["--until-end", "--json"]}
    told = {}
    for name, verb, *arguments in commands:
        assert name == "tidegauge"
        if verb != "down":  # the rest of the page asks the model
            told[verb] = folder.tidegauge(verb, *arguments, *added.get(verb, []))
    assert list(told) == ["ingest", "train", "push", "up", "replay", "stream"]
    counts = json.loads(told["stream"])
    assert counts["in"] == counts["used"] > 8_000
    assert counts["predictions"] > 8_000

    with gzip.open(folder.path / WEATHER, "rt") as file:
        header, *rows = file
    (folder.path / "recent.csv").write_text("".join([header, *rows[-300:]]))
    [predict] = re.findall(r"`tidegauge (predict [^`]*)`", README)[:1]
    assert "24 steps of 1h" in folder.tidegauge(*shlex.split(predict))

    request = block("python").replace("127.0.0.1:8500", f"127.0.0.1:{folder.server}")
    forecast = folder.run([sys.executable, "-c", request])
    assert len(forecast.strip("[] \n").split()) == 24

    reader = ["deploy/examples/read_predictions.py", f"127.0.0.1:{folder.broker}", "nyc-weather.predictions"]
    printed = folder.run([sys.executable, str(REPOSITORY / reader[0]), *reader[1:], "--until-end"])
    assert len(printed.splitlines()) == counts["predictions"]
    assert "stopped: model-server, kafka" in folder.tidegauge("down")
