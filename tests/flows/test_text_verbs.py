"""The verbs with a spec of texts."""

from __future__ import annotations

import gzip
import json
import time
from pathlib import Path

import pytest

from pipelines.text_ingest import ingest_texts
from schemas.errors import SpecError
from schemas.spec import load_spec
from schemas.text_dataset import TextDatasetFolder
from schemas.text_spec import load_text_spec, parse_text_spec
from tidegauge import main

DATA = Path(__file__).parents[3] / "shared" / "data"
SPECS = Path(__file__).parents[2] / "deploy" / "specs"

SPEC = """
stream: {name: small, text: said, label: mood}
text: {vocabulary: {min_count: 1}, length: 4}
"""


@pytest.fixture
def spec(tmp_path: Path) -> str:
    (tmp_path / "spec.yaml").write_text(SPEC)
    (tmp_path / "in.csv").write_text("mood,said\ngood,Oui oui!\nbad,non non non non non\n,x\n")
    return str(tmp_path / "spec.yaml")


def test_ingest_inspect_and_verify(spec: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    output = str(tmp_path / "dataset")
    assert main(["ingest", "--spec", spec, "--input", str(tmp_path / "in.csv"), "--output", output, "--json"]) == 0
    manifest = json.loads(capsys.readouterr().out)
    assert manifest["layout"] == "text"
    assert manifest["documents"] == {"rows": 3, "used": 2, "dead": 1, "dead_by_reason": {"missing": 1}}
    assert main(["inspect", output]) == 0
    shown = capsys.readouterr().out
    assert "rows 3 = used 2 + dead 1" in shown
    assert "classes: bad 1 (50.0%), good 1 (50.0%)" in shown
    assert "tokens: mean 3.5, min 3, median 3, p90 4, p99 4, max 4; 1 documents cut" in shown
    assert main(["verify", "--spec", spec, "--input", str(tmp_path / "in.csv")]) == 0
    assert capsys.readouterr().out == "2 documents: the ids are equal\n"


def test_what_is_for_series_is_refused(spec: str, tmp_path: Path) -> None:
    arguments = ["--spec", spec, "--input", str(tmp_path / "in.csv")]
    assert main(["ingest", *arguments, "--output", str(tmp_path / "out"), "--all-origins"]) == 2
    assert main(["verify", *arguments, "--predictions", "topic"]) == 2
    with pytest.raises(SpecError, match="expected a spec of series, got one of texts"):
        load_spec(spec)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ({"unit": "byte", "vocabulary": {"size": 5}}, "bytes have no vocabulary"),
        ({"unit": "character", "rows": {"by": "sentences"}}, "use chunks"),
        ({"unit": "wrod"}, r"\$\.text\.unit"),
        ({"lenght": 3}, "did you mean 'length'"),
    ],
)
def test_mistakes_in_the_section_are_named(text: dict[str, object], message: str) -> None:
    with pytest.raises(SpecError, match=message):
        parse_text_spec({"stream": {"name": "small", "text": "said", "label": "mood"}, "text": text})


def test_the_fingerprint_of_ids_is_that_of_the_text_section_alone() -> None:
    stream = {"name": "small", "text": "said", "label": "mood"}
    spec = parse_text_spec({"stream": stream, "text": {}})
    assert spec.window_fingerprint == "d3f65143ab764f1c9334800f80c920c2"
    same = parse_text_spec({"stream": stream | {"text": "heard"}, "text": {"unit": "word"}, "dataset": {"shards": 3}})
    assert same.window_fingerprint == spec.window_fingerprint == parse_text_spec(spec.semantic_document()).fingerprint
    other = parse_text_spec({"stream": stream, "text": {"length": 5}})
    assert other.window_fingerprint != spec.window_fingerprint


def test_the_schema_of_a_spec_of_texts_is_printed(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["schema", "--text"]) == 0
    assert {"stream", "text", "split"} <= json.loads(capsys.readouterr().out)["properties"].keys()


@pytest.mark.slow
@pytest.mark.skipif(not DATA.is_dir(), reason="needs the shared data folder")
def test_news_and_whole_novels(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    spec = str(SPECS / "ag_news.yaml")
    assert main(["verify", "--spec", spec, "--input", str(DATA / "ag_news" / "test.csv")]) == 0
    assert capsys.readouterr().out == "7600 documents: the ids are equal\n"
    novels = tmp_path / "novels.jsonl"
    with novels.open("w") as file:
        for path in sorted((DATA / "novels").glob("*.txt.gz")):
            text = gzip.decompress(path.read_bytes()).decode(errors="replace")
            file.write(json.dumps({"text": text, "author": path.name.split("_")[0]}) + "\n")
    (tmp_path / "novels.yaml").write_text(
        "stream: {name: novels, text: text, label: author}\ntext: {length: 100000, rows: {by: sentences, length: 64}}\n"
    )
    began = time.monotonic()
    ingest_texts(load_text_spec(tmp_path / "novels.yaml"), inputs=[str(novels)], output=str(tmp_path / "dataset"))
    assert time.monotonic() - began < 60
    [split] = TextDatasetFolder(tmp_path / "dataset").manifest.splits.values()
    assert split.lengths is not None
    assert split.lengths.max > 50_000
    assert main(["verify", "--spec", str(tmp_path / "novels.yaml"), "--input", str(novels)]) == 0
