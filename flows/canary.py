"""The canary: a model on a real model server of its own, before any client can see it.

It must load and warm up, say which windows it was made for, answer windows that were evaluated with finite numbers
equal to the evaluated model's, and be quick enough. What fails here would have failed in production.
"""

from __future__ import annotations

import math
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from deploy.local.ports import LOOPBACK, free_port
from schemas.dataset import DatasetFolder
from schemas.errors import ServingError, ServingUnavailable
from schemas.retrain_spec import Canary
from schemas.settings_spec import Serving
from schemas.spec import Spec
from streaming.serving_client import ServingClient

_TOLERANCE = 1e-3
"""Of a target's deviation: so far a server's numbers may be from those of training's graph, whose operations a server
orders otherwise."""
_QUANTILE = 0.95
_STOP_S = 10.0
_TOGETHER = """exec 3<&0; "$@" & server=$!; (cat <&3 >/dev/null; kill $server 2>/dev/null) & wait $server"""
"""Runs a command until it ends or standard input does: that ends with the process that holds its other side."""


class CanaryFailed(ServingError):
    """The model does not do on a server what it did in its evaluation."""


@dataclass(frozen=True, slots=True)
class CanaryReport:
    """How the model did: seconds until it answered, and how long each request took, in milliseconds."""

    load_s: float
    latencies_ms: tuple[float, ...]
    p95_ms: float


def try_out(spec: Spec, export: Path, run: Path, data: Path, place: Path, settings: Canary) -> CanaryReport:
    """Serves an exported model and asks it for windows of the test split.

    Args:
      spec: the model's.
      export: the SavedModel's folder.
      run: the training run's folder, whose model was evaluated.
      data: the dataset that it was evaluated on.
      place: a folder for the server, which goes at the end.
      settings: what it must do.
    Raises:
      CanaryFailed: it does not; the message says what was expected and what came.
    """
    from models import stored
    from models.answers import answer_of

    windows = _windows(DatasetFolder(data), settings.requests)
    kept = stored.load(run)
    expected = answer_of(kept.model)(windows)["mean"]
    moments = kept.statistics.features
    deviation = np.array([moments[target.name].std if target.name in moments else 0.0 for target in spec.targets])
    with serving(spec, export, place, settings) as (client, load_s):
        latencies = []
        for row in range(len(expected)):
            inputs = {name: windows[name][row : row + 1] for name in kept.model.input}
            try:
                answer = client.ask(inputs)()
            except ServingError as exc:
                raise CanaryFailed(f"expected an answer, got: {exc}") from exc
            latencies.append(answer.latency_ms)
            for name, output in answer.outputs.items():
                if output.dtype.kind == "f" and not np.isfinite(output).all():
                    raise CanaryFailed(f"expected finite numbers, got {int((~np.isfinite(output)).sum())} of '{name}'")
            distance = np.abs(answer.outputs["mean"][0] - expected[row]).max(axis=0)
            if (distance > _TOLERANCE * np.maximum(deviation, np.finfo(np.float32).tiny)).any():
                raise CanaryFailed(
                    f"expected the forecasts that were evaluated, got others, by up to {float(distance.max()):.4g}"
                )
    p95 = sorted(latencies)[max(math.ceil(_QUANTILE * len(latencies)) - 1, 0)]
    if p95 > settings.latency:
        raise CanaryFailed(
            f"expected {_QUANTILE:.0%} of the answers within {settings.latency} ms ($.retrain.canary.latency), "
            f"got {p95:.0f} ms"
        )
    return CanaryReport(load_s, tuple(round(latency, 3) for latency in latencies), round(p95, 3))


@contextmanager
def serving(spec: Spec, export: Path, place: Path, settings: Canary) -> Iterator[tuple[ServingClient, float]]:
    """A model server on a free port with one model, and how many seconds it took until it answered.

    It ends with the block, or with this process, however that ends.

    Args:
      spec: the model's.
      export: the SavedModel's folder.
      place: a folder of its own, which goes at the end.
      settings: within what it must have loaded the model.
    Raises:
      CanaryFailed: it does not start, or does not load the model in time.
    """
    shutil.rmtree(place, ignore_errors=True)  # of an attempt that was killed
    base, log = place / "models" / spec.model_name, place / "server.log"
    base.mkdir(parents=True)
    shutil.copytree(export, base / "1")
    port = free_port()
    command = [sys.executable, "-m", "streaming.model_server.main", f"--port={port}"]
    command += [f"--model_name={spec.model_name}", f"--model_base_path={base.absolute()}"]
    own = Serving(address=f"{LOOPBACK}:{port}", model=spec.model_name)
    began = time.monotonic()
    with log.open("wb") as output:
        process = subprocess.Popen(
            ["/bin/sh", "-c", _TOGETHER, "canary", *command],
            stdin=subprocess.PIPE,
            stdout=output,
            stderr=subprocess.STDOUT,
            start_new_session=True,
        )
    try:
        with ServingClient(spec.model_copy(update={"serving": own})) as client:
            _wait(client, process, log, settings.load / 1_000)
            yield client, round(time.monotonic() - began, 3)
    finally:
        assert process.stdin is not None
        process.stdin.close()
        try:
            process.wait(_STOP_S)
        except subprocess.TimeoutExpired:
            os.killpg(process.pid, signal.SIGKILL)
            process.wait()
        shutil.rmtree(place, ignore_errors=True)


def _wait(client: ServingClient, process: subprocess.Popen[bytes], log: Path, budget_s: float) -> None:
    until = time.monotonic() + budget_s
    while True:
        try:
            client.probe()
        except ServingUnavailable as exc:
            if process.poll() is not None:
                last = log.read_text(errors="replace").strip().splitlines()[-1:]
                raise CanaryFailed(f"expected a model server, got its end: {' '.join(last)}") from exc
            if time.monotonic() > until:
                raise CanaryFailed(
                    f"expected the model to be loaded within {budget_s:g} s ($.retrain.canary.load): {exc}"
                ) from exc
        except ServingError as exc:
            raise CanaryFailed(f"expected a model of the spec's windows: {exc}") from exc
        else:
            return
        time.sleep(0.1)


def _windows(folder: DatasetFolder, count: int) -> dict[str, NDArray[Any]]:
    """So many windows of the test split, spread evenly over it: the reader's tensors by name."""
    from models.reader import windows

    total = folder.split("test").windows
    chosen = np.unique(np.linspace(0, total - 1, min(count, total)).round().astype(np.int64))
    parts: list[dict[str, NDArray[Any]]] = []
    first = 0
    for batch in windows(folder, "test", batch_size=1024).as_numpy_iterator():
        size = len(batch["key"])
        rows = chosen[(chosen >= first) & (chosen < first + size)] - first
        parts.append({name: value[rows] for name, value in batch.items()})
        first += size
    return {name: np.concatenate([part[name] for part in parts]) for name in parts[0]}
