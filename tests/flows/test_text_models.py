"""From documents to classes by the verbs: train, push, serve, predict and score, with the real model server."""

from __future__ import annotations

import io
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest
import yaml

from models.registry import push
from models.text.train import train_texts
from tests.conformance.server_process import ServerProcess
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
    assert main(["stream", "--spec", spec]) == 2
    assert "expected a spec of series, got one of texts" in capsys.readouterr().err
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
