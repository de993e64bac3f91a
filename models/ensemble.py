"""Several trained models as one, whose forecast is the weighted mean of theirs; quantiles are averaged by level.

Of classifiers, of windows or texts, it is the mean of the classes' shares. The ensemble is built anew of the members'
parts, as any model is, so that all that takes a run takes it: evaluation, calibration, export, push. Its weights are
equal, or those that would have done best on the validation split: of forecasts by the squared error in standardised
units, of classes by the cross-entropy (`models.stacking`).
"""

from __future__ import annotations

import json
import os
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Literal

import numpy as np

from models import layout, stored
from models.answers import answer_of
from models.descent import Descent
from models.forecaster import build_forecaster, of_members
from models.members import Float64, Members
from models.mixture import member_name
from models.objective import add_deviation
from models.reader import windows
from models.run import finish
from models.run_folder import open_run
from models.scaling import Constants
from models.stacking import mixture_weights, stacking_weights
from models.tasks import open_task
from models.text.ensemble import TextMembers
from models.text.train import TextRunSummary
from models.train import RunSummary
from models.window_classes import ClassRunSummary, likelihoods
from schemas.dataset import DatasetFolder
from schemas.documents import parse_as
from schemas.errors import ModelError
from schemas.model_spec import EnsembleModel
from schemas.spec import Spec


def ensemble(
    runs: Sequence[str | os.PathLike[str]],
    *,
    data: str | os.PathLike[str],
    output: str | os.PathLike[str],
    weights: Literal["mean", "validation"] = "mean",
) -> RunSummary | ClassRunSummary | TextRunSummary:
    """Makes one model of trained ones, and a run of it: evaluated, exported, ready for `push`.

    Args:
      runs: two or more folders of complete runs, of any families, all trained on the dataset.
      data: that dataset.
      output: the new run's folder; it must not exist, or be empty.
      weights: all the same, or fitted on the validation split.
    Returns:
      The summary that training one of them gives.
    Raises:
      ModelError: a run is not complete, or does not go with the others; the folder is taken.
      DatasetError: the dataset is damaged, or a split of it is empty.
    """
    started = time.perf_counter()
    if len(runs) < 2:
        raise ModelError(f"expected two runs or more to make an ensemble of, got {len(runs)}")
    paths = [Path(run) for run in runs]
    members: Members[Any, Any] = TextMembers(paths) if _is_of_texts(paths[0]) else WindowMembers(paths)
    folder = open_task(members.specs[0], data).folder
    members.require_kin(folder)
    shares = members.fitted_weights(folder) if weights == "validation" else np.full(len(runs), 1 / len(runs))
    spec = members.spec_of(shares)
    task = open_task(spec, data)
    record = task.record | {
        "members": [
            {"run": str(run), "family": one.model.family, "weight": float(share)}
            | {"training": one.semantic_document().get("training", {})}
            for run, one, share in zip(runs, members.specs, shares, strict=True)
        ],
    }
    target = Path(output)
    begun = open_run(target, record, resume=False)
    members.keep(target, spec, folder)
    summary: RunSummary | ClassRunSummary | TextRunSummary = finish(
        task, target, begun, Descent([], 0), started=started
    )
    return summary


def _is_of_texts(run: Path) -> bool:
    try:
        return "text" in json.loads((run / layout.RUN_FILE).read_bytes())["spec"]
    except (OSError, ValueError, KeyError, TypeError) as exc:
        raise ModelError(f"{run}: expected the folder of a complete run, with its model: {exc}") from exc


class WindowMembers(Members[Spec, DatasetFolder]):
    """Runs of windows, for forecasts or for classes."""

    def __init__(self, runs: Sequence[Path]) -> None:
        self.runs, self._stored = runs, [stored.load(run) for run in runs]
        self.specs = [one.spec for one in self._stored]

    def _unlike_the_first(self, number: int) -> str | None:
        expected, got = self.specs[0].quantile_levels, self.specs[number].quantile_levels
        return None if expected == got else f"expected the quantiles {list(expected)} of the first run, got {list(got)}"

    def fitted_weights(self, folder: DatasetFolder) -> Float64:
        """By the squared error, or of classes by the cross-entropy."""
        if self.specs[0].classes:
            return mixture_weights(np.stack([likelihoods(folder, "validation", one.model) for one in self._stored]))
        return stacking_weights(self._products_of_errors(folder))

    def _products_of_errors(self, folder: DatasetFolder) -> Float64:
        """The mean products of the members' errors on the validation split, in standardised units."""
        spec, count = self.specs[0], len(self.specs)
        answers = [answer_of(one.model) for one in self._stored]
        total, cells = np.zeros((count, count)), 0
        batches = windows(folder, "validation", batch_size=spec.training.batch_size)
        standard = add_deviation(spec, Constants.of(spec, folder.statistics))
        for batch in batches.map(standard).as_numpy_iterator():
            means = [answer(batch)["mean"] for answer in answers]
            errors = (np.stack(means) - batch["target_values"]) / batch["target_deviation"][:, None]
            seen = errors[:, batch["target_observed"]].astype(np.float64)
            total += seen @ seen.T
            cells += seen.shape[1]
        return total / max(cells, 1)

    def spec_of(self, weights: Float64) -> Spec:
        """The first one's, with the members as its model."""
        scalings = {spec.model.scaling for spec in self.specs if spec.model is not None}
        # The scaling says which inputs there are, and in what errors are measured; each member has its own.
        scaling = "per_key" if "per_key" in scalings else scalings.pop() if len(scalings) == 1 else "shared"
        sections = self.sections()
        model = {"family": "ensemble", "members": sections, "weights": weights.tolist(), "scaling": scaling}
        if "quantiles" in sections[0]:
            model["quantiles"] = sections[0]["quantiles"]
        return self.specs[0].model_copy(update={"model": parse_as(EnsembleModel, model, where="ensemble")})

    def keep(self, run: Path, spec: Spec, folder: DatasetFolder) -> None:
        """With the members' weights and states."""
        state = of_members([one.state for one in self._stored])
        model = build_forecaster(spec, folder.statistics, state=state)
        for number, one in enumerate(self._stored):
            model.get_layer(member_name(number)).set_weights(one.model.get_weights())
        stored.save(run, folder.statistics, model, state)
