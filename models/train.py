"""Trains the spec's model to forecast: what differs from other runs, and what comes of it."""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from typing import Any, Unpack

from models import layout, objective, stored
from models.answers import answer_of
from models.calibration import calibrate, calibrated, needs_calibration
from models.descent import Objective, Remarks
from models.evaluation import evaluate_forecasts, evaluate_model, evaluate_persistence, skills_of
from models.export import export
from models.exported import write_evaluation
from models.families import FAMILIES
from models.families.family import FittedFamily
from models.forms import model_section
from models.run import RunOptions, Weights, carry_out
from models.scaling import Constants
from models.task import Course
from models.window_task import WindowTask
from models.yardsticks import yardsticks
from pipelines.kernels.metrics import skill
from schemas.errors import ModelError
from schemas.spec import Spec, require_targets
from schemas.split_spec import SPLITS


@dataclass(frozen=True, slots=True)
class RunSummary:
    """What came of a training run.

    `mae` and `mae_persistence` are on the test split, by target, in its unit (None where nothing was observed); `skill`
    is 1 - MAE / MAE of persistence over all targets in standardised units (None where persistence is without error);
    `skills` are those against every yardstick. `windows` counts each split's. A family that is fitted without descent
    has no epochs.
    """

    run: str
    family: str
    windows: dict[str, int]
    epochs: int
    best_epoch: int
    seconds: float
    mae: dict[str, float | None]
    mae_persistence: dict[str, float | None]
    skill: float | None
    skills: dict[str, float | None]

    def lines(self) -> list[str]:
        """The summary in words."""
        how = f"{self.epochs} epochs, the best was {self.best_epoch}" if self.epochs else "fitted"
        errors = [
            f"test MAE of {target}: {mae:.4g} (persistence {self.mae_persistence[target]:.4g})"
            for target, mae in self.mae.items()
            if mae is not None
        ]
        skills = [f"{value:+.1%} against {name}" for name, value in self.skills.items() if value is not None]
        return [
            f"{self.family}: {how}, in {self.seconds:.0f} s",
            *errors,
            f"skill: {', '.join(skills)}",
            f"run: {self.run} ({layout.REPORT_FILE})",
        ]


def train(
    spec: Spec,
    *,
    data: str | os.PathLike[str],
    output: str | os.PathLike[str],
    warm_from: str | os.PathLike[str] | None = None,
    **options: Unpack[RunOptions],
) -> RunSummary:
    """Trains a model to forecast.

    On a CPU the same spec and dataset give the same model, however often the run was stopped and resumed.

    Args:
      spec: with a model.
      data: a dataset of the spec's windows and splits.
      output: the run's folder.
      warm_from: the folder of an earlier run, with whose weights training begins. The normalisation is the new
        dataset's.
      options: see `models.run.carry_out`, which may raise too.
    Raises:
      SpecError: the stream has no target (`models.window_classes` trains on labels).
      ModelError: the spec has no model, or options that no forecast has; the run of `warm_from` is of another model.
      DatasetError: the dataset is not the spec's, is damaged, or a split of it is empty.
    """
    start = None if warm_from is None else partial(weights_to_start_from, spec, warm_from)
    return carry_out(lambda: ForecastTask(spec, data), output, start=start, **options)


def weights_to_start_from(spec: Spec, run: str | os.PathLike[str]) -> Weights:
    """The weights of an earlier run, to train a spec's model on from.

    Raises:
      ModelError: there is no such run, its model is another one, or one that is not trained by descent.
    """
    family = model_section(spec).family
    if isinstance(FAMILIES.get(family), FittedFamily):
        raise ModelError(f"$.model.family: '{family}' is fitted in one go, and starts from no weights")
    kept = stored.load(run)
    if (kept.spec.model, kept.spec.window_fingerprint) != (spec.model, spec.window_fingerprint):
        raise ModelError(f"{run}: expected a run of this spec's model and windows to start from, got another")
    weights: Weights = kept.model.get_weights()
    return weights


class ForecastTask(WindowTask[RunSummary]):
    """A forecast of windows' targets; arguments and errors are those of `train`."""

    summary = RunSummary
    scores = ("mae", "mse")

    def __init__(self, spec: Spec, data: str | os.PathLike[str]) -> None:
        require_targets(spec, "forecast")
        if spec.training.class_weights is not None:
            raise ModelError("$.training.class_weights: expected none for a forecast, which has no classes")
        super().__init__(spec, data)

    def objective(self) -> Objective:
        """Errors in standardised units."""
        return objective.objective(self.spec)

    def supervise(self) -> Callable[[dict[str, Any]], tuple[Any, Any, Any]]:
        """From a batch of the reader to inputs, labels and weights."""
        add_deviation = objective.add_deviation(self.spec, Constants.of(self.spec, self.folder.statistics))
        split = objective.supervise(self.spec)
        return lambda batch: split(add_deviation(batch))

    def remarks(self) -> Remarks:
        """The skill against persistence."""
        beside = evaluate_persistence(self.spec, self.folder, "validation")["standardised"]["mae_persistence"]
        return lambda numbers: {"val_skill": skill(numbers["val_mae"], beside)}

    def validate(self, run: Path) -> dict[str, float]:
        """The errors on the validation split, in standardised units."""
        found = evaluate_model(self.spec, self.folder, "validation", stored.load(run).model)["standardised"]
        return {name: float(found[name]) for name in self.scores}

    def complete(self, run: Path, lineage: Mapping[str, Any]) -> dict[str, Any]:
        """Calibrates, evaluates and exports the model that is kept."""
        spec, folder = self.spec, self.folder
        kept = stored.load(run)
        model, calibration = kept.model, None
        if needs_calibration(spec):
            calibration = calibrate(spec, folder.statistics, folder, model)
            model = calibrated(spec, folder.statistics, model, calibration)
        evaluation = evaluate_forecasts(spec, folder, "test", answer_of(model), yardsticks(spec, folder))
        metrics = evaluation.document
        if "fit" in lineage:
            metrics["fitted"] = lineage["fit"]["summary"]
        write_evaluation(run, spec, evaluation, run)
        export(
            spec,
            folder.statistics,
            kept.model.get_weights(),
            to=run / layout.EXPORT_FOLDER,
            state=kept.state,
            lineage={**lineage, "metrics": metrics},
            calibration=calibration,
        )
        return metrics

    def summarise(self, course: Course, metrics: Mapping[str, Any]) -> RunSummary:
        """The errors on the test split, and the skill."""
        return RunSummary(
            **asdict(course),
            windows={name: self.cases(name) for name in SPLITS},
            mae={name: scores["mae"] for name, scores in metrics["targets"].items()},
            mae_persistence={name: scores["mae_persistence"] for name, scores in metrics["targets"].items()},
            skill=metrics["standardised"]["skill"],
            skills=skills_of(metrics),
        )
