"""How good forecasts are, beside persistence: overall, for each key and for each step of the horizon."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

from models.forecaster import input_forms
from models.objective import add_deviation
from models.reader import windows
from models.scaling import Constants
from models.yardsticks import persistence, skill
from schemas.dataset import DatasetFolder
from schemas.spec import Spec

Float32 = NDArray[np.float32]
Float64 = NDArray[np.float64]

_SUMS = ("cells", "absolute", "squared", "persistence", "standard", "standard_persistence")


class Errors:
    """Sums of errors over observed cells, by key, step of the horizon and target.

    `known_keys` are those of the train split.
    """

    def __init__(self, spec: Spec, known_keys: Iterable[str]) -> None:
        self._spec, self._known_keys = spec, frozenset(known_keys)
        self._by_key: dict[str, Float64] = {}  # key -> (sum, horizon, target)
        self._windows: dict[str, int] = {}

    def add(self, batch: Mapping[str, Any], mean: Float32) -> None:
        """Takes a batch as the reader gives it, in numpy, with `target_deviation`, and its forecasts."""
        observed = batch["target_observed"]
        yardstick = _persistence(self._spec, batch)
        actual = batch["target_values"].astype(np.float64)
        error, missed = np.abs(mean - actual), np.abs(yardstick - actual)
        deviation = batch["target_deviation"][:, None].astype(np.float64)
        terms = (np.ones_like(error), error, error**2, missed, error / deviation, missed / deviation)
        sums = np.where(observed, np.stack(terms), 0)  # (sum, window, horizon, target)
        keys, owner = np.unique(batch["key"], return_inverse=True)
        for index, raw in enumerate(keys):
            key, mine = raw.decode(), owner == index
            self._by_key[key] = self._by_key.get(key, 0) + sums[:, mine].sum(axis=1)
            self._windows[key] = self._windows.get(key, 0) + int(mine.sum())

    def report(self) -> dict[str, Any]:
        """The evaluation as a JSON document; errors of a target are in its unit, `standardised` ones in deviations.

        Where nothing was observed a number is null.
        """
        total = sum(self._by_key.values(), np.zeros((len(_SUMS), self._spec.window.horizon, len(self._spec.targets))))
        every = dict(zip(_SUMS, total.sum(axis=(1, 2)), strict=True))
        targets = {
            feature.name: {"unit": feature.unit}
            | _scores(total[:, :, column].sum(axis=1))
            | {"by_horizon": [_scores(total[:, step, column]) for step in range(self._spec.window.horizon)]}
            | {"by_key": {key: _scores(sums[:, :, column].sum(axis=1)) for key, sums in sorted(self._by_key.items())}}
            for column, feature in enumerate(self._spec.targets)
        }
        standard = {
            "mae": _ratio(every["standard"], every["cells"]),
            "mae_persistence": _ratio(every["standard_persistence"], every["cells"]),
            "skill": skill(every["standard"], every["standard_persistence"]),
        }
        windows = {
            "windows": sum(self._windows.values()),
            "windows_by_key": dict(sorted(self._windows.items())),
            "windows_of_unknown_keys": sum(n for key, n in self._windows.items() if key not in self._known_keys),
        }
        return windows | {"cells": int(every["cells"]), "standardised": standard, "targets": targets}


def evaluate_model(spec: Spec, folder: DatasetFolder, split: str, model: Any) -> dict[str, Any]:
    """Compares a model's forecasts of a split with what came.

    Args:
      spec: the model's.
      folder: a dataset of its windows.
      split: of the dataset.
      model: as `models.forecaster.build_forecaster` builds it.
    Returns:
      `Errors.report`.
    """
    names = list(input_forms(spec))

    def forecast(batch: Mapping[str, Any]) -> Float32:
        mean: Float32 = model.predict_on_batch({name: batch[name] for name in names})["mean"]
        return mean

    return _evaluate(spec, folder, split, forecast)


def evaluate_persistence(spec: Spec, folder: DatasetFolder, split: str) -> dict[str, Any]:
    """Compares the yardstick itself with what came; like `evaluate_model`."""
    return _evaluate(spec, folder, split, lambda batch: _persistence(spec, batch))


def _evaluate(
    spec: Spec, folder: DatasetFolder, split: str, forecast: Callable[[Mapping[str, Any]], Float32]
) -> dict[str, Any]:
    cut = windows(folder, split, batch_size=spec.training.batch_size)
    constants = Constants.of(spec, folder.statistics)
    errors = Errors(spec, constants.keys)
    for batch in cut.map(add_deviation(spec, constants)).as_numpy_iterator():
        errors.add(batch, forecast(batch))
    return errors.report()


def _persistence(spec: Spec, batch: Mapping[str, Any]) -> Float32:
    targets = [index for index, feature in enumerate(spec.stream.features) if feature.role == "target"]
    return persistence(batch["past_values"][..., targets], batch["past_observed"][..., targets], spec.window.horizon)


def _scores(sums: Float64) -> dict[str, Any]:
    cells, absolute, squared, missed = (float(value) for value in sums[:4])
    return {
        "cells": int(cells),
        "mae": _ratio(absolute, cells),
        "mse": _ratio(squared, cells),
        "mae_persistence": _ratio(missed, cells),
        "skill": skill(absolute, missed),
    }


def _ratio(total: float, cells: float) -> float | None:
    return float(total / cells) if cells else None
