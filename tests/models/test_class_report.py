"""The report of a classifier: what it shows, and that names of classes are nothing but text in it."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

from models import layout
from models.class_report import CONFUSED_CLASSES, write_class_evaluation
from models.classes import Classified
from tests.models.test_report import HOSTILE, Page
from tests.models.test_window_classes import PAST, case_spec


def page(folder: Path, classes: list[str], actual: list[int], said: list[int]) -> Page:
    found = Classified(classes, {classes[0]: 9})
    found.add(np.array(actual), np.eye(len(classes), dtype=np.float32)[said])
    document = {"split": "test", "dataset": "d" * 64, "windows": len(actual), **found.report()}
    (folder / layout.METRICS_FILE).write_text(json.dumps({"epoch": 1, "loss": 0.5, "val_loss": 0.6}) + "\n")
    write_class_evaluation(folder, case_spec(["slow", "fast"], PAST), document, folder, "windows")
    assert json.loads((folder / layout.EVALUATION_FILE).read_text()) == document
    return Page((folder / layout.REPORT_FILE).read_text())


def test_scores_mistakes_and_confusion_are_shown(tmp_path: Path) -> None:
    found = page(tmp_path, ["slow", HOSTILE], actual=[0, 0, 0, 1, 1], said=[0, 1, 1, 1, 0])
    assert {tag for tag, _ in found.tags}.isdisjoint({"script", "img", "link"})
    assert [tag for tag, _ in found.tags].count("svg") == 1
    text = " ".join(part for part in found.parts if part.strip())
    assert "5 windows of 2 classes." in text
    assert "accuracy 40.00%" in text
    # Two of the three slow ones were said to be the other class, and one the other way round.
    assert f"is said times of the class slow {HOSTILE} 2 66.7% {HOSTILE} slow 1 50.0%" in text
    assert f"is / said slow {HOSTILE} slow 1 2 {HOSTILE} 1 1" in text
    assert "accuracy of always 'slow' 60.00%" in text


@pytest.mark.parametrize("count", [CONFUSED_CLASSES, CONFUSED_CLASSES + 1])
def test_the_confusion_of_many_classes_is_left_to_the_file(count: int, tmp_path: Path) -> None:
    found = page(tmp_path, [f"class {number}" for number in range(count)], actual=[0], said=[0])
    assert ("is / said" in found.text) == (count <= CONFUSED_CLASSES)
    assert "Mistakes" not in found.text
