"""Backtest: the spec's model, trained and measured again and again at rolling origins.

    files ─ingest, the splits of fold i─▶ dataset ─train─▶ run, evaluated on the fold's test split     for each fold

    OUTPUT/
      fold-00/dataset/       the fold's windows, in its own splits
      fold-00/run/           its training run, with evaluation.json and report.html
      fold-01/ ...
      backtest.json          `Backtest.document`; written last

A backtest that was stopped goes on in the same folder: folds that are complete are left as they are, and training is
resumed where it was.
"""

from __future__ import annotations

import json
import math
import statistics
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from schemas.dataset import DatasetFolder
from schemas.errors import DatasetError, SpecError
from schemas.spec import Spec, require_targets
from schemas.split_spec import DateSplit, RollingSplit
from schemas.units import ms_to_iso

BACKTEST_FILE = "backtest.json"


@dataclass(frozen=True, slots=True)
class Fold:
    """One fold: until when it was trained, its windows by split, and its scores by name (None where there is none)."""

    cutoff: str
    windows: dict[str, int]
    scores: dict[str, float | None]


@dataclass(frozen=True, slots=True)
class Backtest:
    """The folds, oldest first."""

    folds: tuple[Fold, ...]

    def summary(self) -> dict[str, dict[str, float | None]]:
        """Mean and standard deviation over the folds (of a sample; None of one fold), by score."""
        found: dict[str, dict[str, float | None]] = {}
        for name in self.folds[0].scores:
            values = [value for fold in self.folds if (value := fold.scores[name]) is not None]
            found[name] = {
                "mean": statistics.fmean(values) if values else None,
                "sd": statistics.stdev(values) if len(values) > 1 else None,
            }
        return found

    def document(self) -> dict[str, Any]:
        """The backtest for machines."""
        return {"folds": [asdict(fold) for fold in self.folds], "summary": self.summary()}

    def lines(self) -> list[str]:
        """The backtest as a table: a row for each fold, and one for all."""
        names = list(self.folds[0].scores)
        heads = ["trained until", *(f"{split} windows" for split in self.folds[0].windows), *names]
        rows = [
            [fold.cutoff, *map(str, fold.windows.values()), *(_text(fold.scores[name]) for name in names)]
            for fold in self.folds
        ]
        found = self.summary()
        spread = [
            _text(found[name]["mean"]) + ("" if found[name]["sd"] is None else f" ± {_text(found[name]['sd'])}")
            for name in names
        ]
        rows.append(["mean ± sd", *("" for _ in self.folds[0].windows), *spread])
        widths = [max(len(row[column]) for row in (heads, *rows)) for column in range(len(heads))]
        return [
            "  ".join(cell.rjust(width) for cell, width in zip(row, widths, strict=True)).rstrip()
            for row in (heads, *rows)
        ]


def backtest(
    spec: Spec,
    *,
    inputs: Sequence[str],
    output: Path,
    beam_args: Sequence[str] = (),
    report: Callable[[str], None] = lambda _: None,
    quiet: bool = False,
) -> Backtest:
    """Trains and measures the spec's model on every fold of its split.

    Args:
      spec: with a model, and a split by rolling origins.
      inputs: files, as `pipelines.ingest.ingest` takes them.
      output: a folder; what a stopped backtest left there is gone on with.
      beam_args: Beam's options for the ingests.
      report: is told, in words, which fold it is.
      quiet: training prints nothing.
    Raises:
      SpecError: the split is of another kind, or the stream has no target.
      DatasetError: a fold has no windows, or a dataset in the folder is another's.
      ModelError: as `models.train.train` raises it.
      InputError: as `pipelines.ingest.ingest` raises it.
    """
    from models import layout
    from models.train import train

    require_targets(spec, "backtest")
    if not isinstance(spec.split, RollingSplit):
        raise SpecError(
            "$.split: expected 'by: rolling' for a backtest, got " + (spec.split.by if spec.split else "none")
        )
    folds = []
    for number, split in enumerate(spec.split.folds):
        place = output / f"fold-{number:02d}"
        report(f"── fold {number + 1} of {spec.split.count}: trained until {ms_to_iso(split.train[1])}")
        of_fold = spec.model_copy(update={"split": split})
        dataset = _dataset(of_fold, inputs, place / "dataset", beam_args)
        run = place / "run"
        trained = train(of_fold, data=dataset.path, output=run, resume=True, quiet=quiet)
        evaluation = json.loads((run / layout.EVALUATION_FILE).read_bytes())
        if evaluation["windows"] != dataset.split("test").windows or evaluation["dataset"] != dataset.digest:
            raise DatasetError(f"{run}: expected the evaluation of all test windows of {dataset.path}, got another")
        folds.append(Fold(ms_to_iso(split.train[1]), trained.windows, _scores(evaluation)))
    found = Backtest(tuple(folds))
    (output / BACKTEST_FILE).write_text(json.dumps(found.document(), indent=2) + "\n", encoding="utf-8")
    return found


def _dataset(spec: Spec, inputs: Sequence[str], path: Path, beam_args: Sequence[str]) -> DatasetFolder:
    """The fold's dataset, which appears whole or not at all."""
    from pipelines.ingest import ingest

    if not path.is_dir():
        ingest(spec, inputs=inputs, output=str(path), beam_args=beam_args)
    folder = DatasetFolder(path)
    if not isinstance(spec.split, DateSplit) or folder.spec.split != spec.split:
        raise DatasetError(f"{path}: expected the splits of this fold, got others; give another --output")
    return folder


def _scores(evaluation: dict[str, Any]) -> dict[str, float | None]:
    """The scores of a fold: of all targets in standardised units, and of each target its MASE and coverage."""
    from models.evaluation import skills_of

    standard = evaluation["standardised"]
    scores = {"MAE": standard["mae"], "MSE": standard["mse"]}
    scores |= {f"skill: {name}": skill for name, skill in skills_of(evaluation).items()}
    for name, target in evaluation["targets"].items():
        scores[f"{name} MASE"] = target["mase"]
        scores |= {f"{name} in {float(k):.0%}": share for k, share in target.get("coverage", {}).items()}
    return scores


def _text(value: float | None) -> str:
    return "–" if value is None or math.isnan(value) else f"{value:.4g}"
