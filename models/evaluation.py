"""How good forecasts are, beside yardsticks: overall, by step of the horizon, by key and by slice.

A yardstick is a forecast that takes no model: `skill_NAME` is 1 - MAE / MAE of the yardstick NAME, and plain `skill`
that against persistence. `pipelines.kernels.metrics` says what each score is.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from models.answers import answer_of
from models.objective import add_deviation
from models.reader import windows
from models.scales import seasonal_scales
from models.scaling import Constants
from models.slices import Slices
from models.yardsticks import persistence
from pipelines.kernels.anomaly import anomaly_score
from pipelines.kernels.metrics import (
    Sums,
    central_intervals,
    forecast_scores,
    owa,
    point_terms,
    quantile_terms,
    ratio,
    skill,
)
from pipelines.kernels.naive2 import naive2
from schemas.dataset import DatasetFolder
from schemas.errors import DatasetError, ModelError
from schemas.spec import Spec

Float32 = NDArray[np.float32]
Float64 = NDArray[np.float64]
Batch = Mapping[str, Any]
Yardstick = Callable[[Batch], Float32]
"""Forecasts a batch as the reader gives it, in numpy: float32 (window, horizon, target)."""
Forecast = Callable[[Batch], Mapping[str, NDArray[Any]]]
"""A model: its outputs `mean` and, where it has any, `quantiles`, by name."""

PERSISTENCE = "persistence"
ANOMALIES = 20
"""How many of a split's most unusual observations are kept."""
EXAMPLES = 6
"""How many of a split's windows are kept to be shown."""

_NAIVE2_SEASONS = 60
"""As much of a window's past is all that Naive2 looks at."""


@dataclass(frozen=True, slots=True)
class Example:
    """A window to be shown: what was seen, forecast and observed of each target, NaN where nothing was observed."""

    key: str
    origin_ms: int
    past: Float32
    """(past, target)."""
    actual: Float32
    """(horizon, target)."""
    mean: Float32
    quantiles: Float32 | None
    """(horizon, target, level)."""


@dataclass(frozen=True, slots=True)
class Evaluation:
    """A split's scores, as a JSON document, and windows of it to be shown."""

    document: dict[str, Any]
    examples: tuple[Example, ...]


class Errors:
    """What the forecasts of a split's windows were worth; `add` takes batches, `report` gives the scores.

    Args:
      spec: the model's.
      known_keys: those of the train split.
      scales: by key what MASE is measured in, float64 (target,); a key may have none.
    """

    def __init__(self, spec: Spec, known_keys: Iterable[str], scales: Mapping[str, Float64] | None = None) -> None:
        self._spec, self._known_keys, self._scales = spec, frozenset(known_keys), scales or {}
        self._slices = Slices(spec)
        self._sums = Sums(spec.window.horizon, len(spec.targets), self._slices.labels)
        self._yardsticks: tuple[str, ...] = ()
        self._levels: tuple[float, ...] = ()
        self._anomalies: list[dict[str, Any]] = []  # the most unusual first

    def add(self, batch: Batch, outputs: Mapping[str, NDArray[Any]], yardsticks: Mapping[str, Float32]) -> None:
        """Takes a batch.

        Args:
          batch: as the reader gives it, in numpy, with `target_deviation`.
          outputs: the model's: `mean`, and `quantiles` of the spec's levels where it has any.
          yardsticks: forecasts float32 (window, horizon, target) by name; the same names each time.
        Raises:
          ModelError: a forecast of an observed cell is no finite number.
        """
        observed = batch["target_observed"]
        actual = batch["target_values"].astype(np.float64)
        mean = outputs["mean"].astype(np.float64)
        keys = [key.decode() for key in batch["key"]]
        measures = {
            "deviation": batch["target_deviation"][:, None].astype(np.float64),
            "scale": self._scale_of(keys)[:, None],
        }
        _require_finite(mean, observed)
        terms = point_terms(actual, mean, **measures)
        self._yardsticks = tuple(yardsticks)
        for name, forecast in yardsticks.items():
            beside = point_terms(actual, forecast.astype(np.float64), **measures, suffix=f"_{name}")
            terms |= {term: beside[term] for term in (f"absolute_{name}", f"standard_{name}")}
        simple = point_terms(actual, self._naive2(batch), **measures, suffix="_naive2")
        terms |= {term: simple[term] for term in ("symmetric_naive2", "scaled_naive2")}
        if "quantiles" in outputs:
            quantiles, self._levels = outputs["quantiles"].astype(np.float64), self._spec.quantile_levels
            _require_finite(quantiles, observed)
            terms |= quantile_terms(actual, quantiles, self._levels, scale=measures["scale"])
            self._keep_anomalies(keys, batch["origin_ms"], np.where(observed, actual, np.nan), mean, quantiles)
        self._sums.add(keys, observed, terms, measures["scale"], self._slices.groups(batch))

    def report(self) -> dict[str, Any]:
        """The evaluation as a JSON document; errors of a target are in its unit, `standardised` ones in deviations.

        Where nothing was observed a number is null.
        """
        by_key = self._sums.windows_by_key
        total = self._sums.total()
        document: dict[str, Any] = {
            "windows": sum(by_key.values()),
            "windows_by_key": by_key,
            "windows_of_unknown_keys": sum(n for key, n in by_key.items() if key not in self._known_keys),
            "cells": int(total["cells"].sum()),
            "season": self._spec.season,
            "yardsticks": list(self._yardsticks),
            "standardised": self._standardised({name: float(sums.sum()) for name, sums in total.items()}),
            "targets": {
                feature.name: {"unit": feature.unit} | self._target(column)
                for column, feature in enumerate(self._spec.targets)
            },
        }
        if self._levels:
            document["levels"] = list(self._levels)
            document["anomalies"] = self._anomalies
        return document

    def _target(self, column: int) -> dict[str, Any]:
        def scores(sums: Mapping[str, Float64]) -> dict[str, Any]:
            return self._scores({name: float(values[column]) for name, values in sums.items()})

        total = {name: float(values[column]) for name, values in self._sums.total().items()}
        found: dict[str, Any] = self._scores(total) | self._beside_naive2(total)
        found["by_horizon"] = [scores(self._sums.of_step(step)) for step in range(self._spec.window.horizon)]
        found["by_key"] = {key: scores(self._sums.of_key(key)) for key in self._sums.windows_by_key}
        found["by_slice"] = {
            name: {label: scores(self._sums.of_label(name, label)) for label in labels}
            for name, labels in self._sums.labels.items()
        }
        return found

    def _scores(self, sums: Mapping[str, float]) -> dict[str, Any]:
        beside: dict[str, Any] = {}
        for name in self._yardsticks:
            beside[f"mae_{name}"] = ratio(sums[f"absolute_{name}"], sums["cells"])
            beside[skill_name(name)] = skill(sums["absolute"], sums[f"absolute_{name}"])
        return forecast_scores(sums, self._levels) | beside

    def _standardised(self, sums: Mapping[str, float]) -> dict[str, Any]:
        cells, mse = sums["cells"], ratio(sums["standard_squared"], sums["cells"])
        found = {"mae": ratio(sums["standard"], cells), "mse": mse, "rmse": None if mse is None else mse**0.5}
        for name in self._yardsticks:
            found[f"mae_{name}"] = ratio(sums[f"standard_{name}"], cells)
            found[skill_name(name)] = skill(sums["standard"], sums[f"standard_{name}"])
        return found

    @staticmethod
    def _beside_naive2(sums: Mapping[str, float]) -> dict[str, float | None]:
        """Scores of Naive2 on the windows' past, and M4's weighted average against it."""
        cells, scaled = sums["cells"], sums["scaled_cells"]
        smape, mase = ratio(sums["symmetric_naive2"], cells), ratio(sums["scaled_naive2"], scaled)
        average = None
        if smape and mase:
            average = owa(sums["symmetric"] / cells, sums["scaled"] / scaled, smape, mase)
        return {"smape_naive2": smape, "mase_naive2": mase, "owa": average}

    def _scale_of(self, keys: Sequence[str]) -> Float64:
        """The scales of some windows: float64 (window, target), NaN where there is none."""
        unknown = np.full(len(self._spec.targets), np.nan)
        return np.stack([self._scales.get(key, unknown) for key in keys])

    def _naive2(self, batch: Batch) -> Float64:
        season = self._spec.season
        values, observed = _target_past(self._spec, batch)
        recent = slice(-season * _NAIVE2_SEASONS, None)
        held = _held(values[:, recent], observed[:, recent])
        window, steps, target = held.shape
        series = np.moveaxis(held, 1, 2).reshape(-1, steps)
        forecast = naive2(series, self._spec.window.horizon, season)
        return np.moveaxis(forecast.reshape(window, target, -1), 1, 2)

    def _keep_anomalies(
        self, keys: Sequence[str], origin_ms: NDArray[np.int64], actual: Float64, centre: Float64, quantiles: Float64
    ) -> None:
        """Keeps the observations that lie farthest outside the widest interval of their newest forecast."""
        intervals = central_intervals(self._levels)
        if not intervals:
            return
        newest = np.s_[:, : self._spec.window.stride]  # later steps are forecast again
        coverage, (low, high) = list(intervals.items())[-1]
        actual, centre, lower, upper = (
            actual[newest],
            centre[newest],
            quantiles[newest][..., low],
            quantiles[newest][..., high],
        )
        score = anomaly_score(actual, centre, lower, upper)
        size = np.where(np.isfinite(score), np.abs(score), 0)
        for flat in np.argsort(size, axis=None)[-ANOMALIES:].tolist():
            place = window, step, target = np.unravel_index(flat, size.shape)
            if size[place] > 1:
                found = {
                    "key": keys[window],
                    "target": self._spec.targets[target].name,
                    "time_ms": int(origin_ms[window] + step * self._spec.grid.step),
                    "observed": float(actual[place]),
                    "forecast": float(centre[place]),
                    "coverage": coverage,
                    "lower": float(lower[place]),
                    "upper": float(upper[place]),
                    "score": float(score[place]),
                }
                self._anomalies.append(found)
        self._anomalies = sorted(self._anomalies, key=lambda found: -abs(found["score"]))[:ANOMALIES]


def evaluate_forecasts(
    spec: Spec, folder: DatasetFolder, split: str, forecast: Forecast, yardsticks: Mapping[str, Yardstick] | None = None
) -> Evaluation:
    """Compares forecasts of a split with what came: of every window, each once.

    Args:
      spec: the model's.
      folder: a dataset of its windows.
      split: of the dataset.
      forecast: the model.
      yardsticks: beside persistence.
    Returns:
      `Errors.report` with the split's name and the dataset's digest, and some windows.
    Raises:
      DatasetError: there is no such split, or its files hold other windows than its manifest says.
      ModelError: a forecast of an observed cell is no finite number.
    """
    count = folder.split(split).windows
    cut = windows(folder, split, batch_size=spec.training.batch_size)
    constants = Constants.of(spec, folder.statistics)
    errors = Errors(spec, constants.keys, seasonal_scales(folder, spec.season))
    shown = set(np.linspace(0, count - 1, EXAMPLES).round().astype(int).tolist())
    examples: list[Example] = []
    first = 0
    for batch in cut.map(add_deviation(spec, constants)).as_numpy_iterator():
        outputs = forecast(batch)
        beside = {PERSISTENCE: persistence_of(spec, batch)}
        beside |= {name: yardstick(batch) for name, yardstick in (yardsticks or {}).items()}
        errors.add(batch, outputs, beside)
        size = len(batch["key"])
        examples += [_example(spec, batch, outputs, row) for row in range(size) if first + row in shown]
        first += size
    document = {"split": split, "dataset": folder.digest} | errors.report()
    expected = {key: windows for key, windows in folder.split(split).windows_by_key.items() if windows}
    if document["windows_by_key"] != expected:
        raise DatasetError(
            f"{folder.path}: expected the {count} windows of the split '{split}' that the manifest says, got "
            f"{document['windows']}, or of other keys"
        )
    return Evaluation(document, tuple(examples))


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
    return evaluate_forecasts(spec, folder, split, answer_of(model)).document


def evaluate_persistence(spec: Spec, folder: DatasetFolder, split: str) -> dict[str, Any]:
    """Compares the yardstick itself with what came; like `evaluate_model`."""
    return evaluate_forecasts(spec, folder, split, lambda batch: {"mean": persistence_of(spec, batch)}).document


def skills_of(document: Mapping[str, Any]) -> dict[str, float | None]:
    """The skill over all targets against each yardstick, of an evaluation's document."""
    return {name: document["standardised"][skill_name(name)] for name in document["yardsticks"]}


def persistence_of(spec: Spec, batch: Batch) -> Float32:
    """The last observed value of each target, repeated: float32 (window, horizon, target)."""
    return persistence(*_target_past(spec, batch), spec.window.horizon)


def _target_past(spec: Spec, batch: Batch) -> tuple[Float32, NDArray[np.bool_]]:
    """Values and flags of the targets' past: (window, past, target)."""
    targets = [index for index, feature in enumerate(spec.stream.inputs) if feature.role == "target"]
    return batch["past_values"][..., targets], batch["past_observed"][..., targets]


def _held(values: Float32, observed: NDArray[np.bool_]) -> Float64:
    """Each observed value held until the next one, the first one back to the start: float64 (window, past, target)."""
    steps = np.arange(values.shape[1])[:, None]
    last = np.maximum.accumulate(np.where(observed, steps, -1), axis=1)
    first = observed.argmax(axis=1)[:, None]
    return np.take_along_axis(values, np.where(last >= 0, last, first), axis=1).astype(np.float64)


def _example(spec: Spec, batch: Batch, outputs: Mapping[str, NDArray[Any]], row: int) -> Example:
    values, observed = _target_past(spec, batch)
    return Example(
        key=batch["key"][row].decode(),
        origin_ms=int(batch["origin_ms"][row]),
        past=np.where(observed[row], values[row], np.float32(np.nan)),
        actual=np.where(batch["target_observed"][row], batch["target_values"][row], np.float32(np.nan)),
        mean=outputs["mean"][row],
        quantiles=outputs["quantiles"][row] if "quantiles" in outputs else None,
    )


def _require_finite(forecast: Float64, observed: NDArray[np.bool_]) -> None:
    finite = np.isfinite(forecast) if forecast.ndim == observed.ndim else np.isfinite(forecast).all(axis=-1)
    if wrong := int((observed & ~finite).sum()):
        raise ModelError(f"expected finite forecasts, got {wrong} of {int(observed.sum())} that are none")


def skill_name(yardstick: str) -> str:
    """The name of the score that compares a model with a yardstick."""
    return "skill" if yardstick == PERSISTENCE else f"skill_{yardstick}"
