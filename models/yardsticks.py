"""What a model must beat."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from models.families import FAMILIES
from models.families.family import FittedFamily
from models.fitting import State, read_state, write_state
from models.forecaster import build_forecaster
from models.forms import input_forms
from schemas.dataset import DatasetFolder
from schemas.model_spec import ForecastModel, LinearModel, SeasonalModel
from schemas.spec import Spec
from schemas.training_spec import Training

Float32 = NDArray[np.float32]

_LINEAR_INPUTS = 2048
"""Of the linear yardstick's map, at most: so many that its equations take a second or so."""


def yardsticks(
    spec: Spec, folder: DatasetFolder, *, keep: Path | None = None
) -> dict[str, Callable[[Mapping[str, Any]], Float32]]:
    """What forecasts of the spec's windows are compared with beside persistence, fitted to a dataset's train split.

    Args:
      spec: of the windows. Where it has a model, that one's scaling is the yardsticks' too.
      folder: a dataset of its windows, with train and validation splits.
      keep: a file (.npz) for the linear map, which is taken from it where it is there already.
    Returns:
      By name, functions from a batch as the reader gives it, in numpy, to float32 (window, horizon, target):
      `seasonal`, of the season `Spec.season`, where there is one that the past is long enough for, and `linear`.
    """
    scaling = "shared" if spec.model is None else spec.model.scaling
    found: dict[str, Callable[[Mapping[str, Any]], Float32]] = {}
    if 1 < spec.season <= spec.window.past:
        found["seasonal"] = _forecast(spec, folder, SeasonalModel(family="seasonal", season=spec.season))
    carried = sum(feature.role in ("past", "future") and feature.calendar is None for feature in spec.stream.features)
    look_back = min(spec.window.past, max(1, _LINEAR_INPUTS // (1 + carried)))
    linear = LinearModel(family="linear", scaling=scaling, look_back=(look_back,))
    found["linear"] = _forecast(spec, folder, linear, keep=keep)
    return found


def _forecast(
    spec: Spec, folder: DatasetFolder, options: ForecastModel, *, keep: Path | None = None
) -> Callable[[Mapping[str, Any]], Float32]:
    yardstick = spec.model_copy(update={"model": options, "training": Training(batch_size=512)})
    state = _state(yardstick, folder, keep)
    model, names = build_forecaster(yardstick, folder.statistics, state=state), list(input_forms(yardstick))

    def forecast(batch: Mapping[str, Any]) -> Float32:
        mean: Float32 = model.predict_on_batch({name: batch[name] for name in names})["mean"]
        return mean

    return forecast


def _state(spec: Spec, folder: DatasetFolder, keep: Path | None) -> State:
    if keep is not None and keep.exists():
        return read_state(keep)
    family = FAMILIES[spec.model.family] if spec.model is not None else None
    if not isinstance(family, FittedFamily):
        raise TypeError(f"expected a spec of a yardstick, got {spec.model}")
    state = family.fit(spec, folder).state
    if keep is not None:
        write_state(keep, state)
    return state


def persistence(past_values: Float32, past_observed: NDArray[np.bool_], horizon: int) -> Float32:
    """The last observed value of each column, repeated.

    Args:
      past_values: float32 (window, past, column).
      past_observed: bool, the same shape; filled cells do not count.
      horizon: steps to forecast.
    Returns:
      float32 (window, horizon, column), NaN where a column has no observed cell.
    """
    steps = past_values.shape[1]
    last = steps - 1 - past_observed[:, ::-1].argmax(axis=1)
    value = np.take_along_axis(past_values, last[:, None], axis=1)
    value = np.where(past_observed.any(axis=1, keepdims=True), value, np.float32(np.nan))
    return np.repeat(value, horizon, axis=1)


def skill(error: float, yardstick_error: float) -> float | None:
    """1 for no error, 0 for the yardstick's, negative for more; None where the yardstick is without error."""
    return float(1 - error / yardstick_error) if yardstick_error else None
