"""Verify for texts finds equality on odd texts, and finds a difference where there is one."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from flows.verify_text import verify_text_dataset, verify_texts
from pipelines.text_ingest import ingest_texts
from schemas.text_dataset import TextDatasetFolder
from schemas.text_spec import TextSpec, parse_text_spec

TEXTS = [
    "Naïve café! 日本。",
    "E\u0301t\u00e9\u0301 \u1112\u1161\u11ab",
    "",
    "a\u200db\u0323\u0307",
    "x " * 300,
    "İ ẞ Σ",
] * 20


def spec_of(text: dict[str, Any]) -> TextSpec:
    return parse_text_spec({"stream": {"name": "odd", "text": "text", "label": "label"}, "text": text})


@pytest.fixture
def file(tmp_path: Path) -> str:
    path = tmp_path / "odd.jsonl"
    path.write_text("\n".join(json.dumps({"text": text, "label": "a"}) for text in TEXTS))
    return str(path)


@pytest.mark.parametrize(
    "text",
    [
        {"length": 100, "rows": {"by": "sentences", "length": 8}},
        {"unit": "byte", "rows": {"by": "chunks", "length": 16}},
        {"unit": "character", "lower": False},
    ],
    ids=str,
)
def test_ingest_and_graph_have_the_same_ids(text: dict[str, Any], file: str) -> None:
    parity = verify_texts(spec_of(text), [file])
    assert parity.holds, parity.lines()
    assert parity.documents == len(TEXTS)


def test_another_tokeniser_is_found(file: str, tmp_path: Path) -> None:
    ingest_texts(spec_of({}), inputs=[file], output=str(tmp_path / "dataset"))
    folder = TextDatasetFolder(tmp_path / "dataset")
    folder.spec = spec_of({"lower": False})
    parity = verify_text_dataset(folder)
    assert not parity.holds
    assert parity.different == 60
    assert parity.first_difference is not None
