"""An easy stream of texts, and a dataset of it."""

from __future__ import annotations

import json
import random
from pathlib import Path
from typing import Any

import pytest

from pipelines.text_ingest import ingest_texts
from schemas.text_dataset import TextDatasetFolder
from schemas.text_spec import TextSpec, parse_text_spec

GOOD, BAD, OTHER = (
    ("fine", "LOVELY", "été"),
    ("awful", "dull", "poor"),
    ["the", "film", "of", "people", "and", "places", "we", "saw"],
)


def moods_spec(model: dict[str, Any] | None = None, **sections: Any) -> TextSpec:
    """Sentences whose mood a word tells, unless `not` is before it; keyword arguments extend the sections."""
    document: dict[str, Any] = {
        "stream": {"name": "moods", "text": "text", "label": "mood", "key": "id"},
        "text": {"length": 30, "vocabulary": {"min_count": 1}},
        "split": {"by": "keys", "validation": 0.2, "test": 0.2},
        "model": model or {"family": "cnn", "embedding": 8, "filters": 4, "bigrams": {}},
        "training": {"epochs": 2, "batch_size": 64, "learning_rate": 0.01},
    }
    for name, section in sections.items():
        document[name] = document.get(name, {}) | section
    return parse_text_spec(document)


def moods(count: int = 400) -> list[dict[str, Any]]:
    """Documents of that stream; a third are negated."""
    drawn = random.Random(0)
    found = []
    for number in range(count):
        good, negated = drawn.random() < 0.6, drawn.random() < 0.3
        words = drawn.choices(OTHER, k=drawn.randrange(1, 9))
        place = drawn.randrange(len(words))
        words[place:place] = (["not"] if negated else []) + [drawn.choice(GOOD if good != negated else BAD)]
        mood = "good" if good else "bad"
        found.append({"id": number, "text": " ".join(words) + "! " + drawn.choice(OTHER) + ".", "mood": mood})
    return found


def lay_moods(folder: Path, spec: TextSpec) -> TextDatasetFolder:
    """Ingests them."""
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "in.jsonl").write_text("".join(json.dumps(document) + "\n" for document in moods()), encoding="utf-8")
    ingest_texts(spec, inputs=[str(folder / "in.jsonl")], output=str(folder / "dataset"))
    return TextDatasetFolder(folder / "dataset")


@pytest.fixture(scope="session")
def moods_dataset(tmp_path_factory: pytest.TempPathFactory) -> TextDatasetFolder:
    return lay_moods(tmp_path_factory.mktemp("moods"), moods_spec())
