"""What a model must beat."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

from models.answers import answer_of
from models.families import linear, seasonal
from models.fitting import State
from models.forecaster import build_forecaster
from schemas.dataset import DatasetFolder
from schemas.model_spec import LinearModel, SeasonalModel
from schemas.spec import Spec
from schemas.training_spec import Training

Float32 = NDArray[np.float32]

_PRODUCTS = 5e10
"""About so many products the linear yardstick's equations may take: seconds, however large the dataset."""
_MOST_INPUTS = 2048
"""Of its map: solving it is seconds too."""
_PASSES = 1
"""A yardstick may be a little off where much is missing."""

Forecast = Callable[[Mapping[str, Any]], Float32]
"""From a batch as the reader gives it, in numpy, to float32 (window, horizon, target)."""


def yardsticks(spec: Spec, folder: DatasetFolder) -> dict[str, Forecast]:
    """What forecasts of the spec's windows are compared with beside persistence, fitted to a dataset's train split.

    Args:
      spec: of the windows. Where it has a model, that one's scaling is the linear yardstick's too.
      folder: a dataset of its windows, with train and validation splits.
    Returns:
      `seasonal`, of the season `Spec.season`, where there is one that the past is long enough for; and `linear`, which
      looks back as far as can be fitted in seconds.
    """
    found = {}
    if 1 < spec.season <= spec.window.past:
        season = _with(spec, SeasonalModel(family="seasonal", season=spec.season))
        found["seasonal"] = _forecast(season, folder, seasonal.fit(season, folder).state)
    scaling = "shared" if spec.model is None else spec.model.scaling
    options = LinearModel(family="linear", scaling=scaling, look_back=(_look_back(spec, folder),))
    yardstick = _with(spec, options)
    return found | {"linear": _forecast(yardstick, folder, linear.fit(yardstick, folder, passes=_PASSES).state)}


def _look_back(spec: Spec, folder: DatasetFolder) -> int:
    rows = max(1, folder.split("train").windows) * len(spec.targets)
    inputs = min(_MOST_INPUTS, int(math.sqrt(_PRODUCTS / rows)))
    beside = sum(feature.role in ("past", "future") and feature.calendar is None for feature in spec.stream.inputs)
    return min(spec.window.past, max(inputs // (1 + beside), spec.season))


def _with(spec: Spec, options: SeasonalModel | LinearModel) -> Spec:
    return spec.model_copy(update={"model": options, "training": Training(batch_size=512)})


def _forecast(yardstick: Spec, folder: DatasetFolder, state: State) -> Forecast:
    answer = answer_of(build_forecaster(yardstick, folder.statistics, state=state))
    return lambda batch: answer(batch)["mean"]


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
