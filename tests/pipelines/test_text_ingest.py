"""Ingest of texts: datasets against a plain Python reading of the same files, dead letters, and the same bytes."""

from __future__ import annotations

import csv
import gzip
import io
import json
import random
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from tensorflow.core.example.example_pb2 import Example

from pipelines.kernels.text import Encoder, Tokeniser, choose_vocabulary
from pipelines.splits import split_of_key
from pipelines.text_ingest import ingest_texts
from schemas.errors import DatasetError, InputError
from schemas.split_spec import SPLITS, FieldSplit
from schemas.text_dataset import TextDatasetFolder
from schemas.text_spec import FIRST_ID, TextSpec, parse_text_spec
from tests.pipelines.records import read_frames

SENTENCE = "Le café est ouvert the tea is cold der Tee ist kalt. Warum? Très bien! 日本 über naïve e\u0301té"
SPLIT = {"by": "keys", "validation": 0.2, "test": 0.2}


def spec_of(**sections: Any) -> TextSpec:
    document: dict[str, Any] = {
        "stream": {"name": "talk", "text": "said", "label": "mood"},
        "text": {"vocabulary": {"size": 12, "min_count": 3}, "length": 9, "rows": {"by": "sentences", "length": 4}},
        "split": SPLIT,
        "dataset": {"shards": 2},
    }
    for name, section in sections.items():
        document[name] = document.get(name, {}) | section if isinstance(section, dict) else section
    return parse_text_spec({name: section for name, section in document.items() if section is not None})


def corpus(count: int = 400) -> list[tuple[str, str]]:
    rng = random.Random(0)
    return [
        (
            " ".join(rng.choices(SENTENCE.split(), k=rng.randint(0, 14))) + ("\n" * (rng.random() < 0.1)),
            rng.choice(["ok", "sad", "é"]),
        )
        for _ in range(count)
    ]


@pytest.fixture(scope="module")
def inputs(tmp_path_factory: pytest.TempPathFactory) -> list[str]:
    """The corpus as a CSV file, and as gzipped JSON lines."""
    folder = tmp_path_factory.mktemp("texts")
    documents = corpus()
    table = io.StringIO()
    writer = csv.writer(table, lineterminator="\n")
    writer.writerows(
        [("mood", "id", "said"), *((mood, number, said) for number, (said, mood) in enumerate(documents[:250]))]
    )
    (folder / "a.csv").write_text(table.getvalue())
    lines = [
        json.dumps({"said": said, "mood": mood, "id": number}) for number, (said, mood) in enumerate(documents[250:])
    ]
    (folder / "b.jsonl.gz").write_bytes(gzip.compress("\n".join(lines).encode()))
    return [str(folder / "a.csv"), str(folder / "b.jsonl.gz")]


def contents(folder: Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def read_documents(folder: TextDatasetFolder, split: str) -> list[dict[str, Any]]:
    found = []
    for path in folder.shard_paths(split):
        for frame in read_frames(path):
            feature = Example.FromString(frame).features.feature
            found.append(
                {
                    name: (list(value.int64_list.value) or list(value.bytes_list.value))[0]
                    for name, value in feature.items()
                }
            )
    return found


@pytest.mark.parametrize(
    "changed", [{}, {"split": None}, {"text": {"unit": "character"}, "rows": None}, {"text": {"unit": "byte"}}]
)
def test_a_dataset_holds_the_documents_of_a_plain_reading(
    changed: dict[str, Any], inputs: list[str], tmp_path: Path
) -> None:
    unit = changed.get("text", {}).get("unit", "word")
    if unit != "word":
        options = {"unit": unit, "length": 9} | ({"vocabulary": {"size": 12}} if unit == "character" else {})
        spec = spec_of(text=None)
        spec = parse_text_spec(spec.semantic_document() | {"text": options, "dataset": {"shards": 2}})
    else:
        spec = spec_of(**changed)
    manifest = ingest_texts(spec, inputs=inputs, output=str(tmp_path / "dataset"))
    folder = TextDatasetFolder(tmp_path / "dataset")

    def split_of(text: str) -> str:
        return "all" if spec.split is None else split_of_key(spec.split, text)

    documents = corpus()
    tokeniser, counts = Tokeniser(spec.text), Counter[str]()
    if unit != "byte":
        for text, _ in documents:
            if split_of(text) in ("all", "train"):
                counts.update(tokeniser.tokens(text))
    vocabulary = choose_vocabulary(counts, spec.text.vocabulary)
    assert folder.vocabulary == vocabulary
    assert manifest.classes == ("ok", "sad", "é")
    encoder = Encoder(spec.text, vocabulary)
    for split in ("all",) if spec.split is None else SPLITS:
        expected = [(text, mood) for text, mood in documents if split_of(text) == split]
        found = read_documents(folder, split)
        assert sorted(row["text"].decode() for row in found) == sorted(text for text, _ in expected)
        assert Counter(manifest.classes[row["label"]] for row in found) == manifest.splits[split].documents_by_class
        lengths = []
        for row in found:
            encoded = encoder.encode(row["text"].decode())
            np.testing.assert_array_equal(np.frombuffer(row["ids"], "<i4"), encoded.ids)
            np.testing.assert_array_equal(np.frombuffer(row["row_lengths"], "<i4"), encoded.row_lengths)
            lengths.append(len(encoded.ids))
        summary = manifest.splits[split]
        assert summary.tokens == sum(lengths)
        assert summary.lengths is not None
        assert (summary.lengths.min, summary.lengths.max) == (min(lengths), max(lengths))
        assert summary.lengths.median == sorted(lengths)[(len(lengths) + 1) // 2 - 1]
        ids = np.concatenate([np.frombuffer(row["ids"], "<i4") for row in found])
        assert summary.unknown == (ids < FIRST_ID).sum()
        assert summary.cut == sum(encoder.encode(row["text"].decode()).cut > 0 for row in found)


def test_every_file_has_the_same_bytes_on_every_run(inputs: list[str], tmp_path: Path) -> None:
    ingest_texts(spec_of(), inputs=inputs, output=str(tmp_path / "one"))
    workers = ["--direct_num_workers=2", "--direct_running_mode=multi_threading"]
    ingest_texts(spec_of(), inputs=inputs, output=str(tmp_path / "two"), beam_args=workers)
    assert contents(tmp_path / "one") == contents(tmp_path / "two")


def test_documents_of_one_key_and_equal_texts_are_in_one_split(inputs: list[str], tmp_path: Path) -> None:
    twice = [*inputs, inputs[0].replace("a.csv", "again.csv")]
    Path(twice[-1]).write_bytes(Path(inputs[0]).read_bytes())
    ingest_texts(spec_of(), inputs=twice, output=str(tmp_path / "dataset"))
    folder = TextDatasetFolder(tmp_path / "dataset")
    texts = [{row["text"] for row in read_documents(folder, split)} for split in SPLITS]
    assert all(texts)
    assert not texts[0] & texts[1]
    assert not texts[0] & texts[2]
    by_id = spec_of(stream={"key": "id"}, split={"by": "keys", "validation": ["7"], "test": ["8", "9"]})
    manifest = ingest_texts(by_id, inputs=inputs, output=str(tmp_path / "by-id"))
    assert [manifest.splits[split].documents for split in SPLITS] == [400 - 6, 2, 4]


def test_bad_rows_are_dead_letters(inputs: list[str], tmp_path: Path) -> None:
    bad = tmp_path / "bad.jsonl"
    bad.write_bytes(
        b'{"said": "x"}\n\n[1]\n{"said": 1.5, "mood": "ok"}\n{"said": "\xff"}\n{"said": "fine", "mood": 3}\n'
    )
    manifest = ingest_texts(spec_of(), inputs=[*inputs, str(bad)], output=str(tmp_path / "dataset"))
    counts = manifest.documents
    assert (counts.rows, counts.used, counts.dead) == (405, 401, 4)
    assert counts.dead_by_reason == {"decode": 2, "missing": 1, "type": 1}
    [path] = (tmp_path / "dataset" / "dead-letters").iterdir()
    lines = [json.loads(line) for line in path.read_text().splitlines()]
    assert [line["source"] for line in lines] == [f"{bad}:{number}" for number in (1, 3, 4, 5)]


def test_columns_name_the_fields_of_files_without_a_header(tmp_path: Path) -> None:
    (tmp_path / "plain.csv").write_text('3,"Oil, again"\n1,"Gold"\n1,"Gold",x\n')
    spec = spec_of(stream={"columns": ["mood", "said"]}, split=None)
    manifest = ingest_texts(spec, inputs=[str(tmp_path / "plain.csv")], output=str(tmp_path / "dataset"))
    assert (manifest.documents.used, manifest.documents.dead, manifest.classes) == (2, 1, ("1", "3"))


def test_a_field_names_the_split_and_a_share_of_train_validates(tmp_path: Path) -> None:
    rows = [f"{number % 2},text {number},{'test' if number % 5 == 0 else 'train'}" for number in range(200)]
    (tmp_path / "in.csv").write_text("\n".join(["mood,said,part", *rows, "1,x,dev"]) + "\n")

    def splits(folder: str, validation: float | None = None) -> dict[str, set[bytes]]:
        rule = FieldSplit(by="field", field="part", validation=validation)
        spec = spec_of().model_copy(update={"split": rule})
        manifest = ingest_texts(spec, inputs=[str(tmp_path / "in.csv")], output=str(tmp_path / folder))
        assert manifest.documents.dead_by_reason == {"split": 1}
        found = TextDatasetFolder(tmp_path / folder)
        return {name: {document["text"] for document in read_documents(found, name)} for name in manifest.splits}

    given = splits("given")
    assert {name: len(texts) for name, texts in given.items()} == {"train": 160, "validation": 0, "test": 40}
    drawn = splits("drawn", validation=0.2)
    assert drawn["test"] == given["test"] == {f"text {number}".encode() for number in range(0, 200, 5)}
    assert drawn["train"] | drawn["validation"] == given["train"]
    assert 15 < len(drawn["validation"]) < 50


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("mood,heard\nok,x\n", r"expected a CSV header with the columns \['said'\] once"),
        ("", "got an empty file"),
        ("mood,said\n", "expected documents to train on"),
    ],
)
def test_input_that_cannot_be_used_is_a_clear_error_and_leaves_nothing(
    content: str, message: str, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "in.csv").write_text(content)
    with pytest.raises(InputError, match=message):
        ingest_texts(spec_of(), inputs=[str(tmp_path / "in.csv")], output=str(tmp_path / "dataset"))
    assert [path.name for path in tmp_path.iterdir()] == ["in.csv"]
    assert "Traceback" not in capfd.readouterr().err


def test_a_damaged_dataset_is_refused(inputs: list[str], tmp_path: Path) -> None:
    ingest_texts(spec_of(), inputs=inputs, output=str(tmp_path / "dataset"))
    vocabulary = tmp_path / "dataset" / "vocabulary.json"
    vocabulary.write_text(vocabulary.read_text().replace("tea", "the"))
    with pytest.raises(DatasetError, match="is not the one that the dataset was made with"):
        TextDatasetFolder(tmp_path / "dataset")
