"""Several trained models as one, whose forecast is the weighted mean of theirs; quantiles are averaged by level.

The ensemble is built anew of the members' parts, as any model is (`models.forecaster`), so that all that takes a
run takes it: evaluation, calibration, export, push. Its weights are equal, or the ones that would have forecast the
validation split best: not negative, together 1, of least squared error in standardised units (stacking, Breiman 1996).
"""

from __future__ import annotations

import json
import os
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from models import layout, stored
from models.descent import Descent
from models.forecaster import build_forecaster, member_name, of_members
from models.forms import input_forms
from models.objective import add_deviation
from models.reader import windows
from models.run import finish
from models.run_folder import open_run
from models.scaling import Constants
from models.stored import Stored
from models.train import ForecastTask, RunSummary
from schemas.dataset import DatasetFolder
from schemas.documents import parse_as
from schemas.errors import ModelError
from schemas.model_spec import EnsembleModel
from schemas.spec import Spec, require_targets

Float64 = NDArray[np.float64]


def ensemble(
    runs: Sequence[str | os.PathLike[str]],
    *,
    data: str | os.PathLike[str],
    output: str | os.PathLike[str],
    weights: Literal["mean", "validation"] = "mean",
) -> RunSummary:
    """Makes one model of trained ones, and a run of it: evaluated, exported, ready for `push`.

    Args:
      runs: two or more folders of complete runs, of any families, all trained on the dataset.
      data: that dataset.
      output: the new run's folder; it must not exist, or be empty.
      weights: all the same, or fitted on the validation split.
    Raises:
      ModelError: a run is not complete, or of another dataset or other quantiles; the folder is taken.
      DatasetError: the dataset is damaged, or a split of it is empty.
    """
    started = time.perf_counter()
    if len(runs) < 2:
        raise ModelError(f"expected two runs or more to make an ensemble of, got {len(runs)}")
    members = [stored.load(run) for run in runs]
    require_targets(members[0].spec, "make an ensemble")
    folder = ForecastTask(members[0].spec, data).folder
    for run, member in zip(runs, members, strict=True):
        _require_kin(Path(run), member, members[0], folder)
    shares = np.full(len(members), 1 / len(members))
    if weights == "validation":
        shares = stacking_weights(_products_of_errors(members, folder))
    spec = _spec([member.spec for member in members], shares)
    task = ForecastTask(spec, data)
    record = task.record | {
        "members": [
            {"run": str(run), "family": member.spec.semantic_document()["model"]["family"], "weight": float(share)}
            | {"training": member.spec.semantic_document().get("training", {})}
            for run, member, share in zip(runs, members, shares, strict=True)
        ],
    }
    target = Path(output)
    begun = open_run(target, record, resume=False)
    state = of_members([member.state for member in members])
    model = build_forecaster(spec, folder.statistics, state=state)
    for number, member in enumerate(members):
        model.get_layer(member_name(number)).set_weights(member.model.get_weights())
    stored.save(target, folder.statistics, model, state)
    return finish(task, target, begun, Descent([], 0), started=started)


def stacking_weights(products: Float64) -> Float64:
    """The weights of members, not negative and together 1, of the least mean squared error.

    Args:
      products: float64 (member, member), the mean products of the members' errors.
    Returns:
      float64 (member,).
    """
    # Projected gradient: the problem is convex, and as small as the members are few.
    weights = np.full(len(products), 1 / len(products))
    step = 1 / max(float(np.linalg.norm(products, 2)), np.finfo(np.float64).tiny)
    for _ in range(10_000):
        moved = _onto_simplex(weights - step * products @ weights)
        if np.abs(moved - weights).max() < 1e-12:
            break
        weights = moved
    return weights


def _onto_simplex(point: Float64) -> Float64:
    """The nearest point that is not negative and sums to 1 (Duchi et al. 2008)."""
    falling = np.sort(point)[::-1]
    excess = (np.cumsum(falling) - 1) / np.arange(1, len(point) + 1)
    threshold = excess[np.flatnonzero(falling > excess)[-1]]
    nearest: Float64 = np.maximum(point - threshold, 0)
    return nearest


def _products_of_errors(members: Sequence[Stored], folder: DatasetFolder) -> Float64:
    """The mean products of the members' errors on the validation split, in standardised units."""
    spec = members[0].spec
    names = [list(input_forms(member.spec)) for member in members]
    total, cells = np.zeros((len(members), len(members))), 0
    batches = windows(folder, "validation", batch_size=spec.training.batch_size)
    standard = add_deviation(spec, Constants.of(spec, folder.statistics))
    for batch in batches.map(standard).as_numpy_iterator():
        means = [
            member.model.predict_on_batch({name: batch[name] for name in own})["mean"]
            for member, own in zip(members, names, strict=True)
        ]
        errors = (np.stack(means) - batch["target_values"]) / batch["target_deviation"][:, None]
        seen = errors[:, batch["target_observed"]].astype(np.float64)
        total += seen @ seen.T
        cells += seen.shape[1]
    return total / max(cells, 1)


def _spec(members: Sequence[Spec], shares: Float64) -> Spec:
    """The ensemble's spec: the first one's, with the members as its model."""
    sections = [member.semantic_document()["model"] for member in members]
    scalings = {member.model.scaling for member in members if member.model is not None}
    # The scaling says which inputs there are, and in what errors are measured; each member has its own.
    scaling = "per_key" if "per_key" in scalings else scalings.pop() if len(scalings) == 1 else "shared"
    weights = [float(share) for share in shares]
    model = {"family": "ensemble", "members": sections, "weights": weights, "scaling": scaling}
    if "quantiles" in sections[0]:
        model["quantiles"] = sections[0]["quantiles"]
    return members[0].model_copy(update={"model": parse_as(EnsembleModel, model, where="ensemble")})


def _require_kin(run: Path, member: Stored, first: Stored, folder: DatasetFolder) -> None:
    record: dict[str, Any] = json.loads((run / layout.RUN_FILE).read_bytes())
    if member.spec.window_fingerprint != first.spec.window_fingerprint:
        raise ModelError(f"{run}: expected a run of the same windows as the others, got one of others")
    if record["lineage"]["dataset_manifest_sha256"] != folder.digest:
        raise ModelError(f"{run}: expected a run that was trained on {folder.path}, got one of another dataset")
    if member.spec.quantile_levels != first.spec.quantile_levels:
        raise ModelError(
            f"{run}: expected the quantiles {list(first.spec.quantile_levels)} of the first run, "
            f"got {list(member.spec.quantile_levels)}"
        )
    if isinstance(member.spec.model, EnsembleModel):
        raise ModelError(f"{run}: expected a run of a single model, got an ensemble; take its members instead")
