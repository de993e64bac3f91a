"""Long windows, predicted from kept summaries by a real model: the same as the whole windows give, whatever happens."""

from __future__ import annotations

import shutil
import subprocess
import sys
import time
from collections import Counter, defaultdict
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml

from deploy.local.ports import free_port
from deploy.local.stack import down
from deploy.local.state import claim
from flows.local_stack import start_model_server
from pipelines.kernels.grid import Events
from pipelines.kernels.windowing import Windowing, Windows
from schemas.spec import Spec
from streaming.consumer import StreamConsumer
from streaming.model_client import Arrays, Waiting
from streaming.predictor import Predictor
from streaming.serving_client import ServingClient
from tests.e2e.conftest import LiveStream
from tests.e2e.test_stream import START_MS, payload, send

PAST, KEYS = 40, "xyz"
MODEL = {
    "family": "hierarchical",
    "cacheable": True,
    "units": 8,
    "heads": 2,
    "patch": 2,
    "chunk": 3,
    "recent": 5,
    "quantiles": [0.1, 0.5, 0.9],
}


@pytest.fixture
def long_windows(live_with: Callable[..., LiveStream], tmp_path: Path) -> Iterator[tuple[LiveStream, Path]]:
    """A stream with a served, untrained model of long windows; and a second version that is not served yet."""
    live = live_with(
        window={"past": PAST, "horizon": 2, "min_observed": 2},
        model=MODEL,
        serving={"address": f"127.0.0.1:{free_port()}", "model": "long", "max_batch": 16},
        paths={"models": str(tmp_path / "models")},
        kafka={"max_poll_records": 200},
    )
    document = yaml.safe_load(live.spec_file.read_text())
    for folder in ("second", "models"):
        document["paths"]["models"] = str(tmp_path / folder)
        live.spec_file.write_text(yaml.safe_dump(document))
        command = [sys.executable, "-m", "tests.benchmarks.untrained_model", str(live.spec_file)]
        subprocess.run(command, check=True, capture_output=True)
    state = claim(tmp_path / "state")
    start_model_server(live.spec, state)
    yield live, tmp_path / "second" / "long" / "1"
    down(state)


def steps(first: int, count: int) -> list[tuple[str, int, bytes]]:
    """An event of most keys in each step; key z falls silent for longer than its window, and starts anew."""
    rng = np.random.default_rng(first)
    times = ((key, START_MS + 10 * step) for step in range(first, first + count) for key in KEYS)
    return [
        (key, time_ms, payload(key, time_ms, round(rng.normal(10, 3), 3)))
        for key, time_ms in times
        if rng.random() < 0.95 and not (key == "z" and 60 <= (time_ms - START_MS) // 10 < 130)
    ]


def run(spec: Spec) -> dict[str, int]:
    return StreamConsumer(spec, start="earliest", until_end=True, wait_s=60).run().document()


def windows_of(live: LiveStream) -> list[tuple[str, Windows]]:
    """What stands in the input topic, as windows."""
    windowing, by_key = Windowing(live.spec), defaultdict[str, list[Any]](list)
    for message in live.read(live.spec.topics.input.name):
        by_key[message.document["key"]].append(message)
    found = []
    for key, messages in by_key.items():
        values = np.array([[m.document["load"], m.document["heat"]] for m in messages], np.float64)
        events = Events(np.array([m.timestamp for m in messages]), np.array([m.offset for m in messages]), values)
        _, runs, _ = windowing.push(windowing.empty(), events)
        found += [(key, run) for run in runs if len(run)]
    return found


class Whole:
    """Asks for whole windows."""

    def __init__(self, client: ServingClient) -> None:
        self.model, self._client = client.model, client

    def ask(self, inputs: Arrays) -> Waiting:
        return self._client.ask(inputs)


def assert_as_by_whole_windows(live: LiveStream, since: set[tuple[str, int]]) -> set[tuple[str, int]]:
    """The predictions but for those of `since` are what the version says that is served; gives the places of all."""
    found = {(m.document["key"], m.document["origin_ms"]): m.document for m in live.predictions()}
    with ServingClient(live.spec) as client:
        client.wait_until_available(10)
        whole = Predictor(live.spec, Windowing(live.spec), Whole(client)).predict(windows_of(live))
    assert {(prediction.key, prediction.origin_ms) for prediction in whole} == set(found)
    for prediction in whole:
        place = prediction.key, prediction.origin_ms
        if place not in since:
            document = found[place]
            [target] = document["targets"]
            assert document["model"]["version"] == prediction.model.version
            assert document["window_digest"] == prediction.window_digest
            np.testing.assert_allclose(target["mean"], prediction.mean[:, 0], rtol=1e-5)
            np.testing.assert_allclose(list(target["quantiles"].values()), prediction.quantiles[:, 0].T, rtol=1e-5)
    return set(found)


@pytest.mark.slow
def test_predictions_are_those_of_the_whole_windows(
    long_windows: tuple[LiveStream, Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Through two restarts, a silence and another version; and few chunks are encoded more than once."""
    live, second = long_windows
    asked: Counter[str] = Counter()
    ask_signature = ServingClient.ask_signature

    def counting(client: ServingClient, signature: str, inputs: Arrays) -> Waiting:
        asked[signature] += len(next(iter(inputs.values())))
        return ask_signature(client, signature, inputs)

    seen: set[tuple[str, int]] = set()
    for first, count in ((0, 100), (100, 50), (150, 60)):
        if first == 150:
            serve_as_second(live.spec, second)
        send(live, steps(first, count))
        asked.clear()
        with monkeypatch.context() as patch:
            patch.setattr(ServingClient, "ask_signature", counting)
            predicted = run(live.spec)["predictions"]
        assert asked["predict_from_summaries"] == predicted > 60
        assert not asked[""]  # no whole windows
        assert asked["encode_chunk"] < 3 * predicted  # each of the whole ones would have been seven or eight
        seen = assert_as_by_whole_windows(live, seen)


def serve_as_second(spec: Spec, version: Path) -> None:
    """Publishes a version beside the first one, and waits until it answers."""
    unfinished = Path(spec.paths.models, "long", "unfinished")
    shutil.copytree(version, unfinished)
    unfinished.rename(unfinished.with_name("2"))
    with ServingClient(spec) as client:
        until = time.monotonic() + 60
        while client.probe() != 2:
            assert time.monotonic() < until
            time.sleep(0.1)
