"""What the page shows of the records that come."""

from __future__ import annotations

import time
from typing import Any

import numpy as np
import orjson
import pytest

from schemas.class_prediction import ClassPrediction, ClassPredictionWriter
from schemas.prediction import ModelVersion
from schemas.spec import Spec
from schemas.trigger import Trigger
from streaming.dashboard.board import Board
from streaming.dashboard.classes import BIN, BINS
from streaming.dashboard.endpoints import Scrape
from streaming.dashboard.reader import TopicState
from streaming.dashboard.vitals import Look
from tests.specs import tiny_spec
from tests.streaming.dashboard.records import accuracy, event, prediction, scored
from tests.streaming.test_partition import Log
from tests.streaming.test_texts import text_spec

NOW_MS = 100_000


@pytest.fixture
def spec() -> Spec:
    return tiny_spec()  # steps of 10 ms, a horizon of 2, both scored


def shown(board: Board, **which: Any) -> Any:
    """The state as a browser gets it."""
    return orjson.loads(orjson.dumps(board.document(**which), option=orjson.OPT_SERIALIZE_NUMPY))


def test_a_series_beside_its_forecasts(spec: Spec) -> None:
    board, topics = Board(spec), spec.topics
    loads = [1.0, 2.0, None, 4.0, 5.0]
    board.take(topics.input.name, 0, [event(n, "a", 10 * n, load) for n, load in enumerate(loads)], NOW_MS)
    made = [prediction(spec, n, "a", 10 * n, [10 + n, 20 + n], version=1 + (n > 2)) for n in range(1, 5)]
    made.append(prediction(spec, 5, "a", 40, [0, 0], role="shadow"))
    board.take(topics.predictions.name, 0, made, NOW_MS)
    state = shown(board, lead=2)
    series = state["series"]
    # Step 4 is still open; in step 2 nothing was observed, and what fills it is no actual value.
    assert series["actual"] == {"time_ms": [0, 10, 20, 30], "value": [1.0, 2.0, None, 4.0]}
    # Of lead 2 the forecast of the second step: an origin's first step starts at the origin.
    assert series["forecast"]["time_ms"] == [20, 30, 40, 50]
    assert series["forecast"]["mean"] == [21.0, 22.0, 23.0, 24.0]
    assert series["forecast"]["lower"] == [19.0, 20.0, 21.0, 22.0]
    assert series["forecast"]["upper"] == [23.0, 24.0, 25.0, 26.0]
    assert series["swaps"] == [{"time_ms": 30, "version": 2, "before": 1}]
    assert (series["mae"], series["compared"]) == (18.0, 1)  # 22 at step 3, where 4 came
    newest = series["newest"]
    assert (newest["origin_ms"], newest["version"], newest["role"]) == (40, 2, "champion")
    assert newest["time_ms"] == [40, 50]
    assert newest["mean"] == [14.0, 24.0]
    assert newest["bands"] == [
        {"coverage": 0.9, "lower": [12.0, 22.0], "upper": [16.0, 26.0]},
        {"coverage": 0.5, "lower": [13.0, 23.0], "upper": [15.0, 25.0]},
    ]
    assert shown(board)["series"]["forecast"]["time_ms"] == [10, 20, 30, 40]
    versions = {(one["version"], one["role"]): one for one in state["versions"]}
    assert {place: one["predictions"] for place, one in versions.items()} == {
        (1, "champion"): 2,
        (2, "champion"): 2,
        (1, "shadow"): 1,
    }
    assert (versions[2, "champion"]["first_ms"], versions[2, "champion"]["last_ms"]) == (30, 40)


def test_only_so_many_keys_and_steps_are_kept(spec: Spec) -> None:
    board = Board(spec, keys=3, points=4)
    names = [f"k{number}" for number in range(9)]
    for offset in range(40):
        for key in names:
            board.take(spec.topics.input.name, 0, [event(offset, key, 10 * offset, 1.0)], NOW_MS)
            board.take(spec.topics.predictions.name, 0, [prediction(spec, offset, key, 10 * offset, [1, 1])], NOW_MS)
    state = shown(board)
    assert (state["keys"], state["more_keys"]) == (["k0", "k1", "k2"], True)
    assert state["series"]["actual"]["time_ms"] == [350, 360, 370, 380]
    assert shown(board, key="k8")["shown"]["key"] == "k8"  # from now on, in the place of one nobody looked at
    board.take(spec.topics.predictions.name, 0, [prediction(spec, 41, "k8", 410, [7, 8])], NOW_MS)
    state = shown(board, key="k8")
    assert state["keys"] == ["k1", "k2", "k8"]
    assert state["series"]["newest"]["mean"] == [7.0, 8.0]
    for number in range(20):
        shown(board, key=f"wanted {number}")
    assert len(shown(board)["keys"]) == 3
    assert shown(board, key="x" * 1_000)["shown"]["key"] != "x" * 1_000


def test_errors_by_version_step_and_time(spec: Spec) -> None:
    board = Board(spec)
    day = 24 * 10  # a block of time: 24 steps of 10 ms
    records = [scored(spec, 0, [1, -2]), scored(spec, day, [3, np.nan]), scored(spec, day + 10, [0.5, 0.5], version=2)]
    records.append(scored(spec, day + 10, [4, 4], role="shadow"))
    logs = [accuracy(spec, offset, record) for offset, record in enumerate(records)]
    board.take(spec.topics.accuracy.name, 0, [*logs, Log(9, b"{}")], NOW_MS)
    state = shown(board)
    first, shadow, second = state["scores"]["groups"]
    assert (first["version"], first["role"], shadow["role"], second["version"]) == (1, "champion", "shadow", 2)
    assert [step["mae"] for step in first["by_step"]] == [2.0, 2.0]
    assert first["mae"] == 2.0
    assert first["skill"] == 0.0
    assert first["coverage"] == pytest.approx(2 / 3)
    assert first["over_time"] == {"time_ms": [0, day], "mae": [1.5, 3.0], "mae_persistence": [2.0, 2.0]}
    assert second["skill"] == 0.75
    assert state["scores"]["coverage"] == 0.9
    assert state["foreign"] == {"accuracy": 1}


def test_what_is_late_dead_or_of_another_spec(spec: Spec) -> None:
    board, topics = Board(spec), spec.topics
    other = tiny_spec(window={"past": 4})
    unusable = [Log(1, b"\xff"), Log(2, None), Log(3, b'{"model": {"window_fingerprint": 1}}'), Log(4, b"[]")]
    board.take(topics.predictions.name, 0, [prediction(other, 0, "a", 10, [1, 2]), *unusable], NOW_MS)
    whole = orjson.loads(prediction(spec, 5, "a", 10, [1, 2]).value or b"")
    targets = whole["targets"][0]
    for changed in ({"targets": [{"name": "load"}]}, {"key": 7}, {"targets": [targets | {"mean": [1]}]}):
        board.take(topics.predictions.name, 0, [Log(5, orjson.dumps(whole | changed))], NOW_MS)
    told = orjson.loads(accuracy(spec, 0, scored(spec, 0, [1, 2])).value or b"")
    told["targets"][0]["actual"] = [1]
    board.take(topics.accuracy.name, 0, [Log(0, orjson.dumps(told))], NOW_MS)
    board.take(topics.late.name, 0, [event(n, "a", n, 1.0) for n in range(3)], NOW_MS)
    headers = [(f"tidegauge.error.{name}", text) for name, text in (("reason", b"type"), ("detail", b"<b>x</b>"))]
    receipt = [("tidegauge.letter", b"0@1")]
    board.take(topics.dead_letters.name, 1, [Log(7, b"x", 5, headers=headers), Log(8, None, headers=receipt)], NOW_MS)
    trigger = Trigger("tiny", "input_drift", 40, "load: far", "jensen_shannon", 0.7, 0.5, 1, "load")
    board.take(topics.triggers.name, 0, [Log(0, trigger.record()), Log(1, b"{}")], NOW_MS)
    state = shown(board)
    assert state["foreign"] == {"predictions": 8, "triggers": 1}
    assert state["scores"]["groups"] == []
    letters = state["letters"]
    assert (letters["late"], letters["dead"], letters["reasons"]) == (3, 1, {"type": 1})
    assert letters["newest"] == [{"letter": "1@7", "time_ms": 5, "reason": "type", "detail": "<b>x</b>", "source": ""}]
    assert state["drift"]["triggers"] == [{"time_ms": 40, "kind": "input_drift", "reason": "load: far"}]


def test_texts_their_classes_and_the_words() -> None:
    spec = text_spec()
    board = Board(spec)
    said = [Log(n, orjson.dumps({"said": f"<i>{n}</i>" + "." * 500, "who": "me"})) for n in range(3)]
    board.take(spec.topics.input.name, 2, said, NOW_MS)
    made = []
    for number in range((BINS + 3) * BIN):
        long = number % 5 == 0
        scores = {"long": 0.75 if long else 0.25, "short": 0.25 if long else 0.75}
        label = max(scores, key=scores.__getitem__)
        document = {"key": "me", "origin": f"small.events[2]@{number}", "time_ms": 7, "label": label, "scores": scores}
        model = {"name": "small", "version": 4, "window_fingerprint": spec.window_fingerprint}
        made.append(Log(number, orjson.dumps(document | {"model": model, "role": "champion", "latency_ms": None}), 7))
    board.take(spec.topics.predictions.name, 2, made[:3], NOW_MS)
    classes = shown(board)["classes"]
    assert [one["label"] for one in classes["newest"]] == ["short", "short", "long"]
    assert classes["newest"][0]["text"] == "<i>2</i>" + "." * 192
    assert classes["upto"] == [3]
    board.take(spec.topics.predictions.name, 2, made[3:], NOW_MS)
    classes = shown(board)["classes"]
    assert [one["label"] for one in classes["labels"]] == ["short", "long"]
    assert classes["labels"][1]["shares"] == [0.2] * BINS
    assert classes["confidence"] == [0.75] * BINS
    assert classes["upto"][-1] == len(made)


def test_classes_of_windows() -> None:
    features = [
        {"name": "load", "role": "past"},
        {"name": "kind", "role": "label", "type": "category", "categories": ["a", "b"]},
    ]
    spec = tiny_spec(stream={"features": features})
    board, topics, writer = Board(spec), spec.topics, ClassPredictionWriter(spec)
    made = ClassPrediction(
        key="pump",
        origin_ms=40,
        observed_fraction=1.0,
        window_digest="00",
        model=ModelVersion("tiny", 2, spec.window_fingerprint),
        label="b",
        classes=("a", "b"),
        scores=np.array([0.25, 0.75], np.float32),
    )
    assert topics.accuracy.name not in board.topics
    board.take(topics.input.name, 0, [event(0, "pump", 0, 1.0)], NOW_MS)
    board.take(topics.predictions.name, 0, [Log(0, writer.value(made), 40, b"pump", writer.headers(made))], NOW_MS)
    state = shown(board, key="pump")
    assert state["stream"]["kind"] == "classes"
    assert "series" not in state
    [newest] = state["classes"]["newest"]
    assert (newest["key"], newest["origin_ms"], newest["label"], newest["confidence"]) == ("pump", 40, "b", 0.75)


def look(time_s: float, events: int, predictions: int | None, lag: int | None = 0) -> Look:
    return Look(time_s, int(1_000 * time_s), events, predictions, lag)


def test_the_first_word_is_of_what_matters_most(spec: Spec) -> None:
    board, read = Board(spec), TopicState()
    read.behind = 0
    topics = {spec.topics.predictions.name: read}
    assert shown(board)["status"] == {"level": "bad", "sentence": "The broker does not answer: connecting"}
    board.look(look(1, 100, 10), topics)
    assert shown(board)["status"]["sentence"] == "No predictions yet"
    board.take(spec.topics.predictions.name, 0, [prediction(spec, 0, "a", 10, [1, 2])], time.time_ns() // 1_000_000)
    assert shown(board)["status"]["level"] == "good"
    board.look(look(3, 500, 30, lag=20_000), topics)
    state = shown(board)
    assert state["status"] == {"level": "warn", "sentence": "Predictions are 20,000 events behind"}
    vitals = state["vitals"]
    assert (vitals["events_per_s"], vitals["predictions_per_s"], vitals["latency_ms"]) == (200.0, 10.0, 4.0)
    drift = {"measure": "jensen_shannon", "feature": "load"}
    told = {"tidegauge_drift": [(drift, 0.7)], "tidegauge_drift_threshold": [(drift, 0.5)]}
    board.scraped([Scrape("http://a/metrics", "accuracy", samples=told)])
    board.look(look(5, 500, None), topics)
    state = shown(board)
    assert state["status"] == {"level": "warn", "sentence": "Drift: load"}
    assert state["drift"]["measures"] == [drift | {"value": 0.7, "threshold": 0.5}]
    assert state["history"]["predictions_per_s"] == [None, 10.0, None]
    board.scraped([Scrape("http://a/metrics", "consumer", unready="restoring")])
    assert shown(board)["status"] == {"level": "bad", "sentence": "The consumer is not ready: restoring"}
    board.away("nobody there")
    assert shown(board)["status"]["sentence"] == "The broker does not answer: nobody there"
