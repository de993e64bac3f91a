"""The report: what it shows, that it stands alone, and that texts of the data are nothing but text in it."""

from __future__ import annotations

import json
import re
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from models.evaluation import evaluate_forecasts, persistence_of
from models.report import write_report
from schemas.dataset import DatasetFolder
from schemas.spec import Spec
from tests.models.conftest import easy_series, easy_spec
from tests.models.datasets import lay_dataset

HOSTILE = "<script>alert('x')</script>"
MATHS = r"$\frac{1}{$ ../../etc/passwd"


class Page(HTMLParser):
    """The tags and the text of a page."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.text = ""
        self.parts: list[str] = []
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))

    def handle_data(self, data: str) -> None:
        self.text += data
        self.parts.append(data)


@pytest.fixture(scope="module")
def hostile(tmp_path_factory: pytest.TempPathFactory) -> tuple[Spec, DatasetFolder]:
    """Keys, a unit and a group's name that nobody should trust."""
    document = easy_spec().semantic_document()
    features = document["stream"]["features"]
    features[1]["unit"] = "<b>MW & $x$</b>"
    spec = easy_spec(
        stream={"features": features},
        uncertainty={"intervals": [0.8, 0.95]},
        evaluation={"slices": [{"by": "keys", "groups": {"<i>group</i>": [HOSTILE]}}, {"by": "day_of_week"}]},
    )
    series = easy_series(keys=(HOSTILE, MATHS))
    return spec, lay_dataset(tmp_path_factory.mktemp("hostile") / "dataset", spec, series)


@pytest.fixture(scope="module")
def report(hostile: tuple[Spec, DatasetFolder], tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Any]:
    spec, folder = hostile

    def forecast(batch: Any) -> Any:
        mean = persistence_of(spec, batch)
        return {"mean": mean, "quantiles": mean[..., None] + np.array([-3, -2, 2, 3], np.float32)}

    evaluation = evaluate_forecasts(spec, folder, "test", forecast, {"above": lambda b: persistence_of(spec, b) + 1})
    epochs = [{"epoch": number, "loss": 1 / number, "val_loss": 2 / number} for number in (1, 2, 3)]
    path = tmp_path_factory.mktemp("report") / "report.html"
    write_report(path, spec, evaluation, epochs=epochs)
    return path, evaluation.document


def test_texts_of_the_data_are_text(report: tuple[Path, Any]) -> None:
    text = report[0].read_text()
    page = Page(text)
    assert not {"script", "i"} & {tag for tag, _ in page.tags}
    assert HOSTILE in page.text
    assert MATHS in page.text
    assert "<b>MW & $x$</b>" in page.text
    assert "<i>group</i>" in page.text
    assert HOSTILE not in text
    for svg in re.findall(r"<svg.*?</svg>", text, flags=re.DOTALL):
        assert "alert" not in svg
        assert "passwd" not in svg
    assert [path.name for path in report[0].parent.iterdir()] == ["report.html"]


def test_the_page_stands_alone(report: tuple[Path, Any]) -> None:
    page = Page(report[0].read_text())
    assert not {"link", "img", "iframe", "object"} & {tag for tag, _ in page.tags}
    for tag, attributes in page.tags:
        for name, value in attributes.items():
            assert not name.startswith("on"), (tag, name)
            if name in ("src", "href", "xlink:href"):
                assert (value or "").startswith("#"), (tag, value)
    metas = [attributes for tag, attributes in page.tags if tag == "meta"]
    assert {"name": "viewport", "content": "width=device-width, initial-scale=1"} in metas
    assert any(meta.get("http-equiv") == "Content-Security-Policy" for meta in metas)
    assert "prefers-color-scheme: dark" in report[0].read_text()


def test_it_shows_what_was_measured(report: tuple[Path, Any]) -> None:
    path, document = report
    page = Page(path.read_text())
    load = document["targets"]["load"]
    for value in (load["mae"], load["rmse"], load["mase"], load["msis"]["0.95"]):
        assert f"{value:.4g}" in page.text
    for share in (load["coverage"]["0.8"], document["standardised"]["skill_above"]):
        assert f"{share:.1%}" in page.text
    # Learning curve, errors by step, skills, reliability, and six windows.
    assert sum(tag == "svg" for tag, _ in page.tags) == 10
    for heading in ("By keys", "By day of week", "By key", "Unusual observations"):
        assert heading in page.text
    assert "Sunday" in page.text
    assert f"{document['windows']:,}: all of the split, each once" in page.text
    assert json.dumps(document, allow_nan=False)


def test_a_model_without_intervals_and_a_key_without_cells(easy_dataset: DatasetFolder, tmp_path: Path) -> None:
    spec = easy_spec()
    evaluation = evaluate_forecasts(spec, easy_dataset, "test", lambda batch: {"mean": persistence_of(spec, batch)})
    empty = {"cells": 0} | dict.fromkeys(("mae", "mse", "rmse", "smape", "mase", "mae_persistence", "skill"))
    evaluation.document["targets"]["load"]["by_key"]["nobody"] = empty
    write_report(tmp_path / "report.html", spec, evaluation)
    page = Page((tmp_path / "report.html").read_text())
    assert sum(tag == "svg" for tag, _ in page.tags) == 8
    assert "nobody" in page.text
    assert "CRPS" not in page.text
