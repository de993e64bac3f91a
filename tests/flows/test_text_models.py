"""From documents to classes by the verbs: train, push, serve, predict, score, replay and stream, with real parts."""

from __future__ import annotations

import io
import json
import time
import uuid
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest
import yaml

from flows.verify import read_predictions
from models.registry import push
from models.text.train import train_texts
from schemas.prediction import document_id
from schemas.text_spec import load_text_spec
from streaming.stream_topics import prepare_topics
from streaming.topics import TopicAdmin
from tests.conformance.server_process import ServerProcess
from tests.conftest import Kafka
from tests.e2e.conftest import LiveStream
from tests.e2e.test_asyncapi import complaints
from tests.models.text.conftest import lay_moods, moods, moods_spec
from tidegauge import main

pytestmark = pytest.mark.filterwarnings("ignore:__array__ implementation doesn't accept a copy keyword")


@pytest.fixture(scope="module")
def work(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A dataset, and a yardstick as version 1 of the model."""
    folder = tmp_path_factory.mktemp("moods")
    spec = moods_spec({"family": "bigrams", "penalties": [1.0]})
    dataset = lay_moods(folder, spec)
    train_texts(spec, data=dataset.path, output=folder / "run", quiet=True)
    push(folder / "run", to=folder / "models", name="moods")
    return folder


@pytest.fixture(scope="module")
def server(work: Path) -> Iterator[ServerProcess]:
    process = ServerProcess(work / "server", "--model_name=moods", f"--model_base_path={work / 'models' / 'moods'}")
    yield process
    assert process.stop() == 0


@pytest.fixture
def spec(work: Path, server: ServerProcess) -> str:
    document = moods_spec({"family": "bigrams", "penalties": [1.0]}).semantic_document()
    document["serving"] = {"address": server.target, "max_batch": 37}
    document["paths"] = {"models": str(work / "models")}
    (work / "spec.yaml").write_text(yaml.safe_dump(document))
    return str(work / "spec.yaml")


def ran(arguments: list[str], capsys: pytest.CaptureFixture[str]) -> Any:
    assert main([*arguments, "--json"]) == 0
    return json.loads(capsys.readouterr().out)


def test_predict_classifies_texts_of_the_command_line_and_of_stdin(
    spec: str, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    answer = ran(["predict", "--spec", spec, "--text", "the film was lovely", "--text", "not lovely"], capsys)
    assert (answer["model"], answer["version"]) == ("moods", 1)
    assert [found["label"] for found in answer["predictions"]] == ["good", "bad"]
    for found in answer["predictions"]:
        assert sum(found["scores"].values()) == pytest.approx(1, rel=1e-5)
        assert max(found["scores"], key=found["scores"].get) == found["label"]
    monkeypatch.setattr("sys.stdin", io.StringIO("dull\nnot dull\n"))
    assert main(["predict", "--spec", spec]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert [line.split()[0] for line in lines] == ["bad", "good", "model"]


def test_score_gives_every_document_a_class_with_a_server_and_without(
    spec: str, work: Path, server: ServerProcess, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    documents = [document if number % 2 else {"text": document["text"]} for number, document in enumerate(moods(60))]
    lines = [json.dumps(document) for document in documents]
    lines[7] = json.dumps({"no": "text"})
    (tmp_path / "in.jsonl").write_text("\n".join(lines))
    inputs = ["--input", str(tmp_path / "in.jsonl")]
    asked = {"server": ["--server", server.target], "model": ["--model", str(work / "models" / "moods")]}
    tables = {}
    for name, where in asked.items():
        summary = ran(["score", "--spec", spec, *inputs, *where, "--output", str(tmp_path / name)], capsys)
        assert summary["documents"] == {"rows": 60, "used": 59, "dead": 1, "dead_by_reason": {"missing": 1}}
        assert summary["predictions"] == 59
        assert (tmp_path / name / "_dead-letters" / "00000-in.jsonl.jsonl").is_file()
        [file] = summary["files"]
        tables[name] = pq.read_table(tmp_path / name / file["path"])
    table = tables["model"]
    assert table.drop_columns(["score", "scores"]).equals(tables["server"].drop_columns(["score", "scores"]))
    rows = table.to_pylist()
    assert len({row["id"] for row in rows}) == len(rows) == 59
    assert json.loads(table.schema.metadata[b"classes"]) == ["bad", "good"]
    used = [document for number, document in enumerate(documents) if number != 7]
    for number, (row, document) in enumerate(zip(rows, used, strict=True)):
        assert row["actual"] == document.get("mood")
        assert row["source"] == f"{tmp_path / 'in.jsonl'}:{number + 1 + (number >= 7)}"
        assert row["scores"][["bad", "good"].index(row["label"])] == row["score"] == max(row["scores"])
    told = [row for row in rows if row["actual"]]
    assert summary["accuracy"] == sum(row["actual"] == row["label"] for row in told) / len(told) > 0.9


def test_score_of_a_dataset_has_all_its_documents(
    spec: str, work: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    arguments = ["score", "--spec", spec, "--data", str(work / "dataset"), "--output", str(tmp_path / "out")]
    summary = ran([*arguments, "--model", str(work / "models" / "moods")], capsys)
    assert summary["predictions"] == 400 == sum(summary["by_label"].values())
    assert {file["split"] for file in summary["files"]} == {"train", "validation", "test"}
    assert main([*arguments, "--model", str(work / "models" / "moods")]) == 2
    assert "out" in capsys.readouterr().err


def test_what_is_for_series_or_cannot_be_is_one_line(
    spec: str, work: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["predict", "--spec", spec, "--text", "x", "--key", "k"]) == 2
    assert main(["stream", "--spec", spec, "--warm-from", str(work)]) == 2
    assert main(["replay", "--spec", spec, "--input", "x.csv", "--speed", "60x"]) == 2
    (tmp_path / "in.jsonl").write_text("{}\n")
    where = ["--input", str(tmp_path / "in.jsonl"), "--model", str(work / "models" / "moods")]
    assert main(["score", "--spec", spec, *where, "--output", str(tmp_path / "out")]) == 2
    assert "expected documents to classify, got none in 1 rows" in capsys.readouterr().err
    assert not (tmp_path / "out").exists()


def test_train_and_push_by_the_verbs(spec: str, work: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    run = str(tmp_path / "run")
    assert main(["train", "--spec", spec, "--data", str(work / "dataset"), "--output", run]) == 0
    shown = capsys.readouterr().out
    assert "test accuracy" in shown
    assert "beside it: the most frequent class" in shown
    outcome = json.loads((tmp_path / "run" / "run.json").read_text())["outcome"]
    assert outcome["epochs"] == 0
    assert outcome["accuracy"] == outcome["accuracy_bigrams"] > 0.9
    pushed = ran(["push", "--spec", spec, "--run", run, "--to", str(tmp_path / "models")], capsys)
    assert pushed == {"model": "moods", "version": 1, "path": str(tmp_path / "models" / "moods" / "1")}


def live(spec: str, kafka: Kafka, folder: Path, **settings: Any) -> LiveStream:
    """A stream of its own topics, served by the model of `spec`."""
    document = yaml.safe_load(Path(spec).read_text())
    name = f"moods-{uuid.uuid4().hex[:12]}"
    document["stream"]["name"] = name
    document["serving"] |= {"model": "moods", "max_batch": 7}
    document["kafka"] = {"bootstrap_servers": kafka.bootstrap, "input": {"name": f"{name}.events", "partitions": 3}}
    document["kafka"] |= settings
    spec_file = folder / f"{name}.yaml"
    spec_file.write_text(yaml.safe_dump(document))
    return LiveStream(load_text_spec(spec_file, {}), spec_file)


GARBAGE = [
    b"{",
    None,
    b"[]",
    b'{"id": 1}',
    b'{"text": 0.5}',
    b'{"text": ["x"]}',
    b'{"text": "x", "id": {}}',
    b"\xff\xfe",
]


def wait_for_more_than(predictions: int, stream: LiveStream) -> None:
    give_up = time.monotonic() + 60
    while len(stream.predictions()) <= predictions:
        assert time.monotonic() < give_up, stream.complaint(0)
        time.sleep(0.05)


def test_each_document_is_classified_exactly_once_whatever_happens_to_the_consumer(
    spec: str, kafka: Kafka, server: ServerProcess, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """kill -9 and garbage: the topic holds each document's class once, and it is that of batch scoring."""
    stream = live(spec, kafka, tmp_path, max_poll_records=20)
    events = stream.spec.topics.input.name
    documents = [document if number % 2 else {"text": document["text"]} for number, document in enumerate(moods(300))]
    inputs = ["--input", str(tmp_path / "in.jsonl")]
    (tmp_path / "in.jsonl").write_text("\n".join([*map(json.dumps, documents), "no document"]))
    sent = ran(["replay", "--spec", str(stream.spec_file), *inputs], capsys)
    assert (sent["sent"], sent["dead"]) == (300, 1)
    for number, rest in enumerate((GARBAGE[:4], GARBAGE[4:])):
        process = stream.start()
        wait_for_more_than(100 * number, stream)
        process.kill()
        process.wait()
        stream.send([(253_402_300_000_000, value) for value in rest], key=f"{number}".encode())
    counts = stream.run_to_end()
    assert counts["in"] == counts["used"] + counts["dead"]
    assert counts["used"] == counts["predictions"]
    assert stream.run_to_end()["in"] == 0

    found = {f"{message.topic}[{message.partition}]@{message.offset}": message for message in stream.read(events)}
    expected = {origin: m for origin, m in found.items() if m.value not in GARBAGE}
    messages = stream.predictions()
    assert sorted(message.document["origin"] for message in messages) == sorted(expected)
    assert len(expected) == len({message.headers["ce_id"] for message in messages}) == 300
    dead = stream.read(stream.spec.topics.dead_letters.name)
    assert sorted(str(m.value) for m in dead) == sorted(str(value) for value in [*GARBAGE, b"no document"])
    reasons = Counter(m.headers["tidegauge.error.reason"] for m in dead)
    assert reasons == {b"decode": 5, b"missing": 1, b"type": 3}

    where = ["--server", server.target, "--output", str(tmp_path / "scored")]
    [file] = ran(["score", "--spec", str(stream.spec_file), *inputs, *where], capsys)["files"]
    batch = pq.read_table(tmp_path / "scored" / file["path"]).to_pylist()
    of_text = {document["text"]: row for document, row in zip(documents, batch, strict=True)}
    for message in messages:
        prediction, event = message.document, expected[message.document["origin"]]
        row = of_text[event.document["text"]]
        assert prediction["label"] == row["label"] == max(prediction["scores"], key=prediction["scores"].get)
        assert list(prediction["scores"].values()) == pytest.approx(row["scores"], abs=1e-6)
        key = event.document.get("id")
        assert prediction["key"] == (None if key is None else str(key))
        assert (message.key, message.timestamp) == (event.key, event.timestamp)
        assert message.headers["ce_id"].decode() == document_id(
            stream.spec.stream.name, prediction["origin"], "moods", "champion"
        )
        assert not complaints("textPrediction", message.headers, prediction)


def test_at_least_once_avro_and_letters(
    spec: str, kafka: Kafka, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    stream = live(spec, kafka, tmp_path, delivery="at_least_once", value_format="avro")
    with TopicAdmin(kafka.bootstrap) as admin:
        prepare_topics(admin, stream.spec, oldest_ms=None, now_ms=0)
        assert admin.describe(stream.spec.topics.late.name) is None
    text = json.dumps({"text": "lovely", "id": "é"}).encode()
    stream.send([(5, value) for value in (text, b'{"text": 12}', b"{")], key=b"k")
    counts = stream.run_to_end()
    assert [counts[name] for name in ("in", "used", "dead", "predictions")] == [3, 2, 1, 2]
    good, digits = read_predictions(stream.spec, stream.spec.topics.predictions.name)
    assert (good["label"], good["key"], digits["key"]) == ("good", "é", None)
    messages = sorted(stream.predictions(), key=lambda message: message.headers["ce_subject"])
    assert [(message.key, message.timestamp) for message in messages] == [("é".encode(), 5), (b"k", 5)]
    for message, prediction in zip(messages, (good, digits), strict=True):
        assert not complaints("textPrediction", message.headers, prediction)
    listing = ran(["dead-letters", "--spec", str(stream.spec_file)], capsys)
    assert listing["reasons"] == {"decode": 1}
