"""A backtest: its folds and their windows, its table, and going on after a stop."""

from __future__ import annotations

import json
import statistics
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from flows import backtest as flow
from flows.backtest import backtest
from schemas.dataset import DatasetFolder
from schemas.errors import DatasetError, SpecError
from schemas.spec import Spec, parse_spec
from schemas.split_spec import RollingSplit
from tests.models.conftest import HOUR_MS, KERAS_ON_NUMPY_2, easy_spec

FOLDS = 2

pytestmark = pytest.mark.filterwarnings(KERAS_ON_NUMPY_2)


@pytest.fixture(scope="module")
def events(tmp_path_factory: pytest.TempPathFactory) -> str:
    path = tmp_path_factory.mktemp("events") / "events.csv"
    rng = np.random.default_rng(0)
    lines = ["site,time,wind,load"]
    for hour in range(24 * 24):
        load = 100 + 20 * np.sin(2 * np.pi * hour / 24) + rng.normal()
        lines.append(f"north,{hour * HOUR_MS},{rng.normal(5, 2):.3f},{load:.3f}")
    path.write_text("\n".join(lines) + "\n")
    return str(path)


@pytest.fixture(scope="module")
def spec() -> Spec:
    document = easy_spec(uncertainty={"intervals": [0.8]}).semantic_document()
    split = {"by": "rolling", "start": "1970-01-01", "first": "1970-01-12", "every": "2d", "count": FOLDS}
    model = {"family": "persistence"}  # the quickest to fit
    return parse_spec(document | {"model": model, "split": split | {"validation": "2d", "test": "3d"}})


@pytest.mark.slow
def test_a_backtest_stopped_after_a_fold_goes_on(
    spec: Spec, events: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    output = tmp_path / "backtest"
    ingest = flow._dataset
    done: list[Path] = []

    def counted(of_fold: Spec, inputs: Any, path: Path, beam_args: Any) -> DatasetFolder:
        if len(done) == 1 and not (output / "stopped").exists():
            (output / "stopped").touch()
            raise KeyboardInterrupt
        done.append(path)
        return ingest(of_fold, inputs, path, beam_args)

    monkeypatch.setattr(flow, "_dataset", counted)
    with pytest.raises(KeyboardInterrupt):
        backtest(spec, inputs=[events], output=output, quiet=True)
    assert not (output / flow.BACKTEST_FILE).exists()
    first = (output / "fold-00" / "run" / "run.json").stat().st_mtime_ns

    found = backtest(spec, inputs=[events], output=output, quiet=True)
    assert (output / "fold-00" / "run" / "run.json").stat().st_mtime_ns == first
    assert [fold.cutoff for fold in found.folds] == [f"1970-01-{day}T00:00:00Z" for day in (12, 14)]
    for number, fold in enumerate(found.folds):
        manifest = DatasetFolder(output / f"fold-{number:02d}" / "dataset").manifest
        assert fold.windows == {name: split.windows for name, split in manifest.splits.items()}
        # Hours of the split, less what a horizon of 6 reaches beyond; the first window needs an observed hour.
        assert fold.windows == {"train": 24 * (11 + 2 * number) - 6, "validation": 48 - 5, "test": 72 - 5}
        evaluation = json.loads((output / f"fold-{number:02d}" / "run" / "evaluation.json").read_text())
        assert evaluation["windows"] == 72 - 5
        assert fold.scores["MAE"] == evaluation["standardised"]["mae"]
        assert fold.scores["skill: persistence"] == evaluation["standardised"]["skill"]
        assert fold.scores["load in 80%"] == evaluation["targets"]["load"]["coverage"]["0.8"]

    mae = [fold.scores["MAE"] for fold in found.folds]
    assert found.summary()["MAE"] == {
        "mean": pytest.approx(statistics.fmean(mae)),
        "sd": pytest.approx(float(np.std(mae, ddof=1))),
    }
    assert json.loads((output / flow.BACKTEST_FILE).read_text()) == found.document()
    lines = found.lines()
    assert len(lines) == FOLDS + 2
    assert lines[1].startswith("1970-01-12T00:00:00Z")
    assert "±" in lines[-1]

    assert isinstance(spec.split, RollingSplit)
    other = spec.model_copy(update={"split": spec.split.model_copy(update={"test": 4 * 24 * HOUR_MS})})
    with pytest.raises(DatasetError, match=r"expected the splits of this fold"):
        backtest(other, inputs=[events], output=output, quiet=True)


def test_a_split_of_another_kind_is_refused(tmp_path: Path) -> None:
    with pytest.raises(SpecError, match=r"\$.split: expected 'by: rolling' for a backtest, got dates"):
        backtest(easy_spec(), inputs=["nothing.csv"], output=tmp_path)
