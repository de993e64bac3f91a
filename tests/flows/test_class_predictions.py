"""Windows with a label by the verbs: train, push, serve, predict, score, replay, stream and verify, with real parts."""

from __future__ import annotations

import json
import uuid
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
import pytest
import yaml

from flows.verify import read_predictions
from models.registry import push
from models.window_classes import train_classifier
from pipelines.ingest import ingest
from schemas.spec import load_spec
from tests.conformance.server_process import ServerProcess
from tests.conftest import Kafka
from tests.e2e.conftest import LiveStream
from tests.e2e.test_asyncapi import complaints
from tests.models.test_window_classes import PAST, case_spec, waves, write_cases
from tidegauge import main

pytestmark = pytest.mark.filterwarnings("ignore:__array__ implementation doesn't accept a copy keyword")
CLASSES = ["slow", "fast"]


@pytest.fixture(scope="module")
def work(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Events, and a model that was trained on them as version 1."""
    folder = tmp_path_factory.mktemp("cases")
    spec = case_spec(CLASSES, PAST, training={"epochs": 3, "batch_size": 16, "learning_rate": 0.01})
    ingest(spec, inputs=[write_cases(folder / "events.csv", waves(60))], output=str(folder / "dataset"))
    train_classifier(spec, data=folder / "dataset", output=folder / "run", quiet=True)
    push(folder / "run", to=folder / "models", name="cases")
    return folder


@pytest.fixture(scope="module")
def server(work: Path) -> Iterator[ServerProcess]:
    process = ServerProcess(work / "server", "--model_name=cases", f"--model_base_path={work / 'models' / 'cases'}")
    yield process
    assert process.stop() == 0


@pytest.fixture(params=["json", "avro"])
def stream(work: Path, server: ServerProcess, kafka: Kafka, tmp_path: Path, request: Any) -> LiveStream:
    document = case_spec(CLASSES, PAST, training={"epochs": 3, "batch_size": 16, "learning_rate": 0.01})
    name = f"cases-{uuid.uuid4().hex[:12]}"
    settings = document.semantic_document()
    settings["stream"] |= {"name": name}
    settings["serving"] = {"address": server.target, "model": "cases", "max_batch": 7}
    settings["kafka"] = {"bootstrap_servers": kafka.bootstrap, "value_format": request.param}
    settings["kafka"] |= {"input": {"name": f"{name}.events", "partitions": 2}}
    spec_file = tmp_path / f"{name}.yaml"
    spec_file.write_text(yaml.safe_dump(settings))
    return LiveStream(load_spec(spec_file, {}), spec_file)


def ran(arguments: list[str], capsys: pytest.CaptureFixture[str]) -> Any:
    assert main([*arguments, "--json"]) == 0
    return json.loads(capsys.readouterr().out)


def test_what_streams_is_what_batch_scoring_says(
    stream: LiveStream, work: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    spec, events = ["--spec", str(stream.spec_file)], ["--input", str(work / "events.csv")]
    ran(["replay", *spec, *events], capsys)
    counts = stream.run_to_end()
    assert counts["predictions"] == 60
    topic = stream.spec.topics.predictions.name
    live = {prediction["key"]: prediction for prediction in read_predictions(stream.spec, topic)}
    assert len(live) == 60

    model = str(work / "models" / "cases")
    scored = ran(["score", *spec, *events, "--model", model, "--output", str(tmp_path / "scored")], capsys)
    assert scored["predictions"] == 60
    table = pq.read_table([tmp_path / "scored" / file["path"] for file in scored["files"]])
    assert json.loads(table.schema.metadata[b"classes"]) == CLASSES
    identities = {message.headers["ce_id"].decode() for message in stream.predictions()}
    for row in table.to_pylist():
        found = live[row["key"]]
        assert row["id"] in identities
        assert (row["origin_ms"], row["window_digest"], row["label"]) == (
            found["origin_ms"],
            found["window_digest"],
            found["label"],
        )
        assert row["label"] == CLASSES[int(np.argmax(row["scores"]))]
        assert row["scores"] == pytest.approx([found["scores"][name] for name in CLASSES], abs=1e-6)
    for message in stream.predictions():
        document = live[(message.key or b"").decode()]
        assert not complaints("classPrediction", message.headers, document)
    told = {key: kind for key, kind, _ in waves(60)}
    assert np.mean([told[key] == found["label"] for key, found in live.items()]) > 0.7

    assert main(["verify", *spec, "--predictions", topic, "--data", str(work / "dataset")]) == 0
    assert "60 windows, 60 equal" in capsys.readouterr().out
    answer = ran(["predict", *spec, *events, "--key", "case7"], capsys)
    assert {name: answer[name] for name in ("origin_ms", "label")} == {
        name: live["case7"][name] for name in ("origin_ms", "label")
    }
    assert main(["predict", *spec, *events, "--key", "case7"]) == 0
    head, first, _ = capsys.readouterr().out.splitlines()
    assert head.startswith(f"case7: {answer['label']} at ")
    assert first == f"{answer['label']:<4}  {answer['scores'][answer['label']]:.4f}"
