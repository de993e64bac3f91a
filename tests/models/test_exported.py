"""Evaluating an exported model: the same as its run's own evaluation, and what is refused."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from models import layout
from models.exported import evaluate_exported
from schemas.errors import DatasetError, ModelError
from tests.models.conftest import Trained, easy_series, easy_spec
from tests.models.datasets import lay_dataset
from tidegauge import main


def assert_close(got: Any, expected: Any) -> None:
    if isinstance(expected, dict):
        assert got.keys() == expected.keys()
        for name in expected:
            assert_close(got[name], expected[name])
    elif isinstance(expected, list):
        for one, other in zip(got, expected, strict=True):
            assert_close(one, other)
    else:
        assert got == (pytest.approx(expected, rel=1e-4, abs=1e-4) if isinstance(expected, float) else expected)


def test_an_exported_model_is_as_good_as_its_run_says(
    trained: Trained, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    model, data = str(trained.run / layout.EXPORT_FOLDER), str(trained.dataset.path)
    assert main(["evaluate", model, "--data", data, "--output", str(tmp_path / "out"), "--json"]) == 0
    told = json.loads(capsys.readouterr().out)
    written = json.loads((tmp_path / "out" / layout.EVALUATION_FILE).read_text())
    assert_close(told, written)
    assert_close(written, json.loads((trained.run / layout.EVALUATION_FILE).read_text()))
    assert (tmp_path / "out" / layout.REPORT_FILE).read_text().startswith("<!doctype html>")
    assert (trained.run / layout.REPORT_FILE).is_file()


def test_another_split_of_a_run(trained: Trained, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    data = str(trained.dataset.path)
    assert main(["evaluate", str(trained.run), "--data", data, "--split", "validation", "--output", str(tmp_path)]) == 0
    first, second, last = capsys.readouterr().out.splitlines()
    assert first.startswith(f"validation: {trained.dataset.split('validation').windows} windows, ")
    assert second.startswith("  load (MW): MAE ")
    assert last == f"report: {tmp_path / 'report.html'}"
    assert "<h2>Training</h2>" in (tmp_path / "report.html").read_text()


def test_what_is_refused(trained: Trained, tmp_path: Path) -> None:
    export, data = trained.run / layout.EXPORT_FOLDER, trained.dataset.path
    with pytest.raises(ModelError, match=r"expected --output for a model that is not in its run's folder"):
        evaluate_exported(export, data)
    with pytest.raises(ModelError, match=r"expected the folder of a run or of an exported model"):
        evaluate_exported(tmp_path, data, output=tmp_path / "out")
    with pytest.raises(DatasetError, match=r"expected a split of .*, got 'future'"):
        evaluate_exported(trained.run, data, split="future", output=tmp_path / "out")
    other = lay_dataset(tmp_path / "other", easy_spec(window={"past": 25}), easy_series())
    with pytest.raises(DatasetError, match=r"expected windows"):
        evaluate_exported(trained.run, other.path, output=tmp_path / "out")
    (tmp_path / "file").touch()
    with pytest.raises(ModelError, match=r"expected a folder for the evaluation"):
        evaluate_exported(trained.run, data, output=tmp_path / "file" / "out")
