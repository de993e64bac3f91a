"""The tuner: what it tries, that nothing is trained twice, and that the best spec comes out."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import yaml

from models import layout, tuning
from models.tuning import Search, tune
from schemas.dataset import DatasetFolder
from schemas.errors import Interrupted, ModelError, SpecError
from schemas.search_space import Range, SearchSpace
from schemas.spec import load_spec
from tests.models.conftest import easy_spec

DOCUMENT: dict[str, Any] = easy_spec(
    model={"family": "mlp", "units": 8, "layers": 1}, training={"windows_per_epoch": 192}
).semantic_document()
# A rate at which nothing is learnt, a good one, and one that diverges.
SPACE = SearchSpace({"training.learning_rate": (1e-9, 0.01, 1e30), "model.dropout": (0.0,)})


def test_halving_goes_on_after_a_stop_and_trains_nothing_twice(
    easy_dataset: DatasetFolder, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    search = Search(trials=3, method="halving", seed=2)
    arguments: dict[str, Any] = {"data": easy_dataset.path, "output": tmp_path / "search"}
    fits: list[tuple[str, int | None]] = []
    fit = tuning.fit

    def counted(task: Any, run: Path, console: Any, **options: Any) -> Any:
        if len(fits) == 2:
            fits.append(("stopped", None))
            raise Interrupted("stopped")
        fits.append((run.parent.name, options["stop_after"]))
        return fit(task, run, console, **options)

    monkeypatch.setattr(tuning, "fit", counted)
    with pytest.raises(Interrupted):
        tune(DOCUMENT, SPACE, search, **arguments)
    with pytest.raises(ModelError, match="expected a new or empty folder"):
        tune(DOCUMENT, SPACE, search, **arguments)
    with pytest.raises(ModelError, match="got one with another search"):
        tune(DOCUMENT, SPACE, search.model_copy(update={"metric": "mse"}), **arguments, resume=True)
    told: list[str] = []
    tuned = tune(DOCUMENT, SPACE, search, **arguments, resume=True, report=told.append)

    best = tuned.trials[0]
    assert best.values == {"training.learning_rate": 0.01, "model.dropout": 0.0}
    assert fits == [("001", 1), ("002", 1), ("stopped", None), ("003", 1), (f"{best.number:03}", None)]
    assert [len(trial.scores) for trial in tuned.trials] == [2, 1, 0]
    assert best.scores[1] < best.scores[0]
    [failed] = [trial for trial in tuned.trials if trial.failed]
    assert "expected a finite" in str(failed.failed)
    assert failed is tuned.trials[-1]
    assert len(told) == 4

    # The best one's run is as `train` would leave it: the first epoch is the first round's.
    run = tmp_path / "search" / "trials" / f"{best.number:03}" / "run"
    epochs = [json.loads(line) for line in (run / layout.METRICS_FILE).read_text().splitlines()]
    assert [epoch["epoch"] for epoch in epochs] == [1, 2, 3]
    assert load_spec(tuned.best).training.learning_rate == 0.01
    assert yaml.safe_load(Path(tuned.best).read_text())["window"] == DOCUMENT["window"]
    assert json.loads((tmp_path / "search" / "trials.json").read_text())["trials"][0]["values"] == best.values
    lines = tuning.table(tuned)
    assert lines[0].split() == ["trial", "mae", "rounds", "seconds", "training.learning_rate", "model.dropout"]
    assert lines[-1].split()[1] == "failed"


def test_rounds() -> None:
    training = easy_spec(training={"epochs": 30, "windows_per_epoch": 1000}).training

    def rounds(**options: Any) -> list[tuple[int, int | None]]:
        return tuning._rounds(training, 2000, Search(**options))

    assert rounds(trials=7) == [(7, None)]
    assert rounds(trials=20, method="halving") == [(20, 3), (7, 10), (3, None)]
    assert rounds(trials=20, method="halving", grows="windows") == [(20, 111), (7, 333), (3, None)]
    assert rounds(trials=2, method="halving") == [(2, None)]


def test_candidates_differ_and_are_right() -> None:
    space = SearchSpace({"training.optimizer": ("adam", "sgd"), "training.momentum": (0.0, 0.9)})
    found = [values for values, _ in tuning._candidates(DOCUMENT, space, Search(trials=20))]
    assert sorted(tuple(values.values()) for values in found) == [("adam", 0.0), ("sgd", 0.0), ("sgd", 0.9)]
    ranges = SearchSpace({"training.learning_rate": Range(low=1e-4, high=1e-2, log=True)})
    twice = [[values for values, _ in tuning._candidates(DOCUMENT, ranges, Search(trials=5))] for _ in range(2)]
    assert twice[0] == twice[1]
    with pytest.raises(SpecError, match=r"expected candidates that are right.*\$.model.unit: unknown field"):
        list(tuning._candidates(DOCUMENT, SearchSpace({"model.unit": (1, 2)}), Search()))
