"""What the demos share: a folder, free ports, Kafka and the consumer as processes of their own."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path

from deploy.local.kafka import Ports
from deploy.local.ports import free_port
from deploy.local.stack import down, up
from deploy.local.state import claim, default_state_dir, is_claimed
from schemas.errors import BrokerError, InputError, LocalStackError
from schemas.settings_spec import Kafka

_DEPLOY = Path(__file__).parents[1] / "deploy"
WEATHER_SPEC = _DEPLOY / "specs" / "weather.yaml"
WEATHER_LOOP_SPEC = _DEPLOY / "specs" / "weather_loop.yaml"


def demo_inputs(spec_file: Path, inputs: Sequence[str]) -> Sequence[str]:
    """The files of a demo: those that were given, or the ones that are shipped for the spec.

    Raises:
      InputError: there are none.
    """
    shipped = _DEPLOY / "data" / f"{spec_file.stem}.csv.gz"
    if inputs:
        return inputs
    if spec_file.resolve().parent != WEATHER_SPEC.parent or not shipped.is_file():
        raise InputError(f"expected --input with the files of {spec_file}, which come with no data")
    return [str(shipped)]


@contextmanager
def demo_folder(output: Path) -> Iterator[dict[str, str]]:
    """A new folder in place of an earlier demo's, in which nothing runs any more at the end.

    Returns:
      The environment variables that put a spec's stream into it, on free ports.
    Raises:
      LocalStackError: the folder holds something else.
    """
    _clear(output)
    claim(output / "state")  # which says whose folder it is, whatever happens
    try:
        yield {
            "TIDEGAUGE_KAFKA__BOOTSTRAP_SERVERS": f"127.0.0.1:{free_port()}",
            "TIDEGAUGE_SERVING__ADDRESS": f"127.0.0.1:{free_port()}",
            "TIDEGAUGE_PATHS__MODELS": str(output / "models"),
            "TIDEGAUGE_PATHS__STATE": str(output / "state"),
        }
    finally:
        down(output / "state")


def start_kafka(kafka: Kafka, state_dir: Path, report: Callable[[str], None]) -> None:
    """Starts the broker that a spec names."""
    port = int(kafka.bootstrap_servers.rpartition(":")[2])
    # The jars are kept where `tidegauge up` keeps them, so that only the very first run fetches them.
    up(
        state_dir,
        ports=Ports(port, 0),
        jars_dir=default_state_dir() / "jars" / "kafka",
        report=report,
    )


def stream_to_end(spec_file: Path, environment: Mapping[str, str]) -> dict[str, int]:
    """Runs the consumer to the end of the topic, as the process of its own that it is in production."""
    command = [sys.executable, "-m", "tidegauge", "stream", "--spec", str(spec_file), "--from", "earliest"]
    done = subprocess.run(
        [*command, "--until-end", "--wait", "60", "--json"],
        env=os.environ | environment,
        capture_output=True,
        text=True,
        check=False,
    )
    if done.returncode:
        raise BrokerError(f"tidegauge stream ended with {done.returncode}: {done.stderr.strip()[-2_000:]}")
    counts: dict[str, int] = json.loads(done.stdout)
    return counts


def _clear(output: Path) -> None:
    if not output.exists():
        return
    if any(output.iterdir()) and not is_claimed(output / "state"):
        raise LocalStackError(f"{output}: expected a new folder or that of an earlier demo, got one with other files")
    down(output / "state")
    shutil.rmtree(output)


class Steps:
    """Says what is being done, and keeps how long it took."""

    def __init__(self, report: Callable[[str], None]) -> None:
        self._report = report
        self.seconds: dict[str, float] = {}

    @contextmanager
    def __call__(self, name: str) -> Iterator[None]:
        """A step, for as long as the context lasts."""
        self._report(f"── {name}")
        began = time.monotonic()
        yield
        self.seconds[name] = round(time.monotonic() - began, 1)
