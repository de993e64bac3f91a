"""Live accuracy on real parts: what is read from the accuracy topic, whatever happens to the process."""

from __future__ import annotations

import json
import math
import random
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections import Counter, defaultdict
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from models.evaluation import Batch, evaluate_forecasts
from pipelines.ingest import ingest
from pipelines.kernels.live_accuracy import AccuracySums
from pipelines.kernels.sketch import Sketch
from pipelines.profiles import counts_of
from pipelines.statistics import moments
from schemas.accuracy import ScoredPrediction, read_accuracy
from schemas.dataset import EXPORTED_STATISTICS_FILE, DatasetFolder, Statistics
from streaming.accuracy.scorer import OUTCOMES
from tests.e2e.conftest import LiveStream, Models
from tests.e2e.test_asyncapi import complaints
from tests.e2e.test_stream import START_MS, history, payload, send
from tests.oracle import Oracle, OracleEvent

Place = tuple[str, int, str]


def command(live: LiveStream, *arguments: str) -> list[str]:
    verb = ["accuracy", "--spec", str(live.spec_file), "--from", "earliest"]
    return [sys.executable, "-m", "tidegauge", *verb, *arguments]


def score(live: LiveStream, *arguments: str) -> dict[str, Any]:
    done = subprocess.run(
        command(live, "--until-end", "--json", *arguments), capture_output=True, text=True, timeout=90
    )
    assert done.returncode == 0, done.stderr
    found: dict[str, Any] = json.loads(done.stdout)
    return found


def records(live: LiveStream) -> list[ScoredPrediction]:
    return [read_accuracy(message.value or b"") for message in live.read(live.spec.topics.accuracy.name)]


def expected(live: LiveStream) -> dict[Place, tuple[float | None, ...]]:
    """The naive join of both topics: the actual values of each prediction that is to be scored."""
    spec, step_ms = live.spec, live.spec.grid.step
    by_partition = defaultdict(list)
    for message in live.read(spec.topics.input.name):
        by_partition[message.partition].append(message)
    lives = []
    for messages in by_partition.values():
        events = []
        for message in messages:
            document = message.document
            if document["time"] > time.time_ns() // 10**6:
                continue
            values = tuple(np.nan if document[name] is None else document[name] for name in ("load", "heat"))
            events.append(OracleEvent(document["key"], document["time"], message.offset, values))
        lives += Oracle(spec).run(events).lives
    found: dict[Place, tuple[float | None, ...]] = {}
    for message in live.predictions():
        document = message.document
        key, origin, role = document["key"], document["origin_ms"] // step_ms, document["role"]
        for closed in [closed for name, closed in lives if name == key and origin - 1 in closed]:
            if origin + spec.scored_steps[-1] - 1 in closed and role != "provisional":
                actual = tuple(closed[origin + step - 1][0] for step in spec.scored_steps)
                if any(value is not None for value in actual):
                    found.setdefault((key, document["origin_ms"], role), actual)
    return found


def assert_scored_once(live: LiveStream) -> None:
    scored = records(live)
    wanted = expected(live)
    assert len(wanted) > 50
    assert Counter((one.key, one.origin_ms, one.role) for one in scored) == Counter(wanted.keys())
    for one in scored:
        actual = tuple(None if math.isnan(value) else value for value in one.actual[:, 0].tolist())
        assert actual == wanted[one.key, one.origin_ms, one.role]


def test_each_prediction_is_scored_once(live: LiveStream) -> None:
    """Late, duplicate and missing actual values; records as described; the same figures from records as at the end."""
    events, ahead_ms = history(41, 600, "xyz"), time.time_ns() // 10**6 + 3_600_000
    send(live, events[:300])
    live.send([(START_MS, payload("x", ahead_ms, 99.0))], key=b"x")  # which the wall clock refuses
    send(live, events[300:])
    live.run_to_end()
    assert live.read(live.spec.topics.dead_letters.name)
    summary = score(live)
    assert_scored_once(live)
    assert (
        summary["predictions"]
        == len(live.predictions())
        == sum(summary[name] for name in OUTCOMES) + summary["pending"]
    )
    assert min(summary["scored"], summary["unobserved"] + summary["incomplete"] + summary["pending"]) > 0
    sums = AccuracySums()
    sums.add(records(live))
    [again], [model] = sums.document(), summary["models"]
    assert again["records"] == model["records"] == summary["scored"]
    ours, told = again["targets"]["load"], model["targets"]["load"]
    assert (ours["cells"], ours["mae"]) == (told["cells"], pytest.approx(told["mae"]))
    assert ours["by_key"].keys() == told["by_key"].keys() == set("xyz")
    for message in live.read(live.spec.topics.accuracy.name):
        assert not complaints("scoredPrediction", message.headers, message.document)
        assert message.timestamp == message.document["origin_ms"]
        [target] = message.document["targets"]
        assert target["persistence"] == target["forecast"]  # of a model that repeats the last value
    assert score(live)["scored"] == 0
    assert_scored_once(live)


def test_it_equals_the_batch_evaluation(live_with: Callable[..., LiveStream], tmp_path: Path) -> None:
    """MAE, MSE and skill of the same predictions by `models.evaluation`, over all, by step and by key."""
    day = ["2023-11-14", "2023-11-15"]
    split = {
        "by": "dates",
        "train": day,
        "validation": ["2023-11-16", "2023-11-17"],
        "test": ["2023-11-17", "2023-11-18"],
    }
    live = live_with(split=split)
    send(live, history(45, 500, "xyz"))
    live.run_to_end()
    [model] = score(live)["models"]
    folder = tmp_path / "dataset"
    ingest(live.spec, inputs=[f"kafka:{live.spec.topics.input.name}"], output=str(folder))
    predictions = {(m.document["key"], m.document["origin_ms"]): m.document for m in live.predictions()}

    def forecast(batch: Batch) -> dict[str, np.ndarray[Any, Any]]:
        places = zip(batch["key"], batch["origin_ms"], strict=True)
        found = [predictions[key.decode(), int(origin_ms)]["targets"][0]["mean"] for key, origin_ms in places]
        return {"mean": np.array(found, np.float32)[..., None]}

    batch = evaluate_forecasts(live.spec, DatasetFolder(folder), "train", forecast).document["targets"]["load"]
    told = model["targets"]["load"]

    def check(ours: dict[str, Any], theirs: dict[str, Any]) -> None:
        assert ours["cells"] == theirs["cells"] > 0
        for name in ("mae", "mse", "mae_persistence", "skill"):
            assert ours[name] == pytest.approx(theirs[name], rel=1e-6, abs=1e-6)

    check(told, batch)
    for number, step in enumerate(live.spec.scored_steps):
        check(told["by_step"][str(step)], batch["by_horizon"][number])
    for key in "xyz":
        check(told["by_key"][key], batch["by_key"][key])


@pytest.mark.slow
def test_drift_is_told_once_and_not_without_a_change(live_with: Callable[..., LiveStream], models: Models) -> None:
    """Values and errors that change; the same triggers where the process is killed in between."""
    drift = {"block": 20, "input": {"blocks": 4, "least": 60}}
    sections: dict[str, Any] = {"paths": {"models": str(models.folder.parent)}, "accuracy": {"drift": drift}}
    usual, changed = np.random.default_rng(0).normal(10, 1, 400), np.random.default_rng(1).normal(30, 5, 400)
    statistics = Statistics(
        features={"load": moments(usual.astype(np.float32))},
        keys={},
        sketches={"load": counts_of(Sketch.of(usual.astype(np.float32)))},
    )
    path = models.folder / "1" / EXPORTED_STATISTICS_FILE
    path.parent.mkdir(exist_ok=True)
    path.write_text(statistics.model_dump_json())
    events = [
        ("x", START_MS + 10 * number, payload("x", START_MS + 10 * number, round(float(load), 3)))
        for number, load in enumerate([*usual, *changed])
    ]

    def triggers(live: LiveStream) -> list[dict[str, Any]]:
        records = live.read(live.spec.topics.triggers.name)
        assert all(not complaints("trigger", record.headers, record.document) for record in records)
        return [record.document | {"stream": ""} for record in records]

    live, disturbed = live_with(**sections), live_with(**sections, kafka={"max_poll_records": 50})
    send(live, events[:400])
    live.run_to_end()
    assert score(live)["triggers"] == 0
    send(live, events[400:])
    live.run_to_end()
    score(live)
    found = triggers(live)
    assert Counter((one["kind"], one["feature"]) for one in found) == {
        ("input_drift", "load"): 1,
        ("error_drift", None): 1,
    }
    assert all(one["model_version"] == 1 and "version 1" in one["reason"] for one in found)
    assert all(START_MS + 4_000 < one["time_ms"] < START_MS + 6_000 for one in found)

    send(disturbed, events)
    disturbed.run_to_end()
    for seconds in (2.2, 3.0):
        scorer = subprocess.Popen(command(disturbed), stderr=subprocess.DEVNULL)
        time.sleep(seconds)
        scorer.kill()
        scorer.wait()
    score(disturbed)
    assert triggers(disturbed) == found


def test_killed_at_random_moments(live_with: Callable[..., LiveStream]) -> None:
    """kill -9 of the scorer, again and again, while events flow in and are predicted."""
    live = live_with(kafka={"max_poll_records": 20})
    rng, events = random.Random(7), history(42, 1_000, "vwxyz")
    live.start()
    for part in range(4):
        send(live, events[part * 250 : (part + 1) * 250])
        scorer = subprocess.Popen(command(live), stderr=subprocess.DEVNULL)
        time.sleep(rng.uniform(2.0, 3.5))
        scorer.kill()
        scorer.wait()
    live.end()
    live.run_to_end()
    score(live)
    assert_scored_once(live)


@pytest.mark.slow
def test_reissued_predictions_count_once(live: LiveStream) -> None:
    """A group that starts again predicts all again: what was said first is what is scored."""
    send(live, history(43, 300, "xy"))
    live.run_to_end()
    assert score(live)["repeated"] == 0
    once = len(live.predictions())
    document = live.spec.model_dump(mode="json", exclude_defaults=True)
    document["kafka"]["group"] = f"{live.spec.stream.name}-again"
    other = LiveStream(live.spec, live.spec_file.with_suffix(".again.yaml"))
    other.spec_file.write_text(json.dumps(document))
    other.run_to_end()
    assert len(live.predictions()) == 2 * once
    assert score(live)["scored"] == 0
    assert_scored_once(live)
    assert score(other)["repeated"] == once  # of another group, which writes to the same topic
    times = Counter((one.key, one.origin_ms) for one in records(live))
    assert set(times.values()) == {2}


def test_metrics_and_readiness(live: LiveStream) -> None:
    """Waits for the live path, says so, and tells the running figures."""
    scorer = subprocess.Popen(
        command(live, "--json", "--metrics-port", "0"), stderr=subprocess.PIPE, stdout=subprocess.DEVNULL, text=True
    )
    live.processes.append(scorer)
    assert scorer.stderr is not None
    with scorer.stderr:
        port = next(line.split()[-1] for line in scorer.stderr if line.startswith("metrics on port"))

    def ask(path: str) -> tuple[int, str]:
        try:
            with urllib.request.urlopen(f"http://127.0.0.1:{port}{path}", timeout=5) as answer:
                return answer.status, answer.read().decode()
        except urllib.error.HTTPError as exc:
            return exc.code, exc.read().decode()

    def wait_for(path: str, wanted: Callable[[int, str], bool]) -> None:
        until = time.monotonic() + 40
        while not wanted(*ask(path)):
            assert time.monotonic() < until, ask(path)
            time.sleep(0.2)

    wait_for("/readyz", lambda code, text: code == 503 and "has not predicted anything yet" in text)
    send(live, history(44, 200, "x"))
    live.run_to_end()
    wait_for("/readyz", lambda code, _: code == 200)
    wait_for("/metrics", lambda _, text: 'tidegauge_accuracy_mae{role="champion",step="all",target="load"' in text)
    assert ask("/healthz")[0] == 200
