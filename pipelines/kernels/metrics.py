"""How good forecasts are: terms of single cells, their sums over batches, and the scores made of the sums.

A cell is one target at one step of one window's horizon. Terms are float64 arrays (window, horizon, target); only
observed cells count, each alike. `Sums` keeps sums by step of the horizon, by key and by slice, so that a split of any
length is scored in the memory of one batch and a row for each key.

The scores of forecasts, by name:

- `mae`, `mse`, `rmse`: of the errors, in the target's unit.
- `smape`: the M4 competition's sMAPE, the mean of 200 |y - f| / (|y| + |f|), in per cent; 0 where both are 0.
- `mase`: the mean of |y - f| / scale, where a key's scale is the MAE of the seasonal naive forecast in its train rows
  (Hyndman and Koehler 2006); cells of a key without a scale do not count.
- `quantile_loss`: by level t, the mean pinball loss max(t (y - q), (t - 1) (y - q)).
- `below`: by level, the share of cells at most the quantile: the level itself where a forecast is reliable.
- `crps`: the continuous ranked probability score, as the integral over levels of twice the pinball loss (Gneiting and
  Ranjan 2011), each level standing for those that are nearer to it than to another.
- `coverage`, `interval_width`: by central interval, the share of cells within it, and its mean width.
- `msis`: by central interval, M4's mean scaled interval score: width plus 2 / alpha of what lies outside, in `mase`'s
  scale (Gneiting and Raftery 2007).
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence

import numpy as np
from numpy.typing import NDArray

Float64 = NDArray[np.float64]
Int64 = NDArray[np.int64]
Bool = NDArray[np.bool_]
Scores = dict[str, float | int | dict[str, float | None] | None]

_LEVEL_DIGITS = 9


def symmetric_errors(actual: Float64, forecast: Float64) -> Float64:
    """M4's symmetric absolute percentage errors, 200 |y - f| / (|y| + |f|); 0 where both are 0."""
    size = np.abs(actual) + np.abs(forecast)
    return 200 * np.abs(actual - forecast) / np.where(size > 0, size, 1.0)


def seasonal_scale(step: Int64, value: Float64, season: int) -> float:
    """The mean absolute difference of values that are one season apart: what MASE and MSIS are measured in.

    Args:
      step: numbers of a series' observed steps, int64 (row,), ascending.
      value: float64 (row,).
      season: in steps.
    Returns:
      NaN where no two observed steps are a season apart.
    """
    before = np.searchsorted(step, step - season)
    paired = step[np.minimum(before, len(step) - 1)] == step - season if len(step) else np.zeros(0, bool)
    differences = np.abs(value[paired] - value[before[paired]])
    return float(differences.mean()) if len(differences) else float("nan")


def owa(smape: float, mase: float, smape_naive2: float, mase_naive2: float) -> float:
    """M4's overall weighted average: the mean of sMAPE and MASE, each relative to that of Naive2."""
    return (smape / smape_naive2 + mase / mase_naive2) / 2


def pinball(actual: Float64, quantiles: Float64, levels: Sequence[float]) -> Float64:
    """The quantile (pinball) loss of each level: float64 (..., level), for `actual` (...)."""
    above = actual[..., None] - quantiles
    level = np.asarray(levels)
    return np.maximum(level * above, (level - 1) * above)


def crps_weights(levels: Sequence[float]) -> Float64:
    """How much of the range of levels from 0 to 1 each level stands for: float64 (level,), adding up to 1."""
    level = np.asarray(levels, np.float64)
    bounds = np.concatenate(([0.0], (level[1:] + level[:-1]) / 2, [1.0]))
    return np.diff(bounds)


def central_intervals(levels: Sequence[float]) -> dict[float, tuple[int, int]]:
    """The central intervals that some levels hold: nominal coverage -> numbers of the lower and the upper level.

    Levels are ascending; t and 1 - t are the bounds of the interval of coverage 1 - 2 t. The narrowest comes first.
    """
    at = {round(level, _LEVEL_DIGITS): number for number, level in enumerate(levels)}
    pairs = {
        round(1 - 2 * level, _LEVEL_DIGITS): (number, at[round(1 - level, _LEVEL_DIGITS)])
        for level, number in at.items()
        if level < 0.5 and round(1 - level, _LEVEL_DIGITS) in at
    }
    return dict(sorted(pairs.items()))


def named_intervals(names: Sequence[str]) -> list[tuple[str, str, float]]:
    """The same of levels that go by names, as in predictions: the lower and the upper name, and the coverage."""
    ordered = sorted(names, key=float)
    intervals = central_intervals([float(name) for name in ordered])
    return [(ordered[low], ordered[high], coverage) for coverage, (low, high) in intervals.items()]


def interval_score(actual: Float64, lower: Float64, upper: Float64, coverage: float) -> Float64:
    """The interval score of a central interval: its width, and 2 / (1 - coverage) of how far it was missed by."""
    missed = np.maximum(lower - actual, 0) + np.maximum(actual - upper, 0)
    return upper - lower + 2 / (1 - coverage) * missed


def point_terms(
    actual: Float64, forecast: Float64, *, deviation: Float64, scale: Float64, suffix: str = ""
) -> dict[str, Float64]:
    """The terms of a point forecast.

    Args:
      actual: float64 (window, horizon, target).
      forecast: the same.
      deviation: what standardised errors are measured in, float64 (window, 1, target).
      scale: what `mase` is measured in, float64 (window, 1, target); NaN where there is none.
      suffix: of the terms' names, which tells several forecasts of the same cells apart.
    """
    error = np.abs(forecast - actual)
    standard = error / deviation
    return {
        f"absolute{suffix}": error,
        f"squared{suffix}": error**2,
        f"symmetric{suffix}": symmetric_errors(actual, forecast),
        f"scaled{suffix}": error / _divisor(scale),
        f"standard{suffix}": standard,
        f"standard_squared{suffix}": standard**2,
    }


def quantile_terms(
    actual: Float64, quantiles: Float64, levels: Sequence[float], *, scale: Float64
) -> dict[str, Float64]:
    """The terms of quantile forecasts float64 (window, horizon, target, level); the rest is as in `point_terms`."""
    loss = pinball(actual, quantiles, levels)
    terms = {}
    for number, level in enumerate(levels):
        terms[f"pinball {level:g}"] = loss[..., number]
        terms[f"below {level:g}"] = (actual <= quantiles[..., number]).astype(np.float64)
    for coverage, (low, high) in central_intervals(levels).items():
        lower, upper = quantiles[..., low], quantiles[..., high]
        terms[f"covered {coverage:g}"] = ((lower <= actual) & (actual <= upper)).astype(np.float64)
        terms[f"width {coverage:g}"] = upper - lower
        score = interval_score(actual, lower, upper, coverage)
        terms[f"interval {coverage:g}"] = score / _divisor(scale)
    return terms


def _divisor(scale: Float64) -> Float64:
    """Scales to divide by: what has no scale adds 0 to a sum."""
    return np.where(scale > 0, scale, np.inf)


class Sums:
    """Sums of terms over observed cells: of all, and by step of the horizon, by key and by slice.

    Each is a dict of float64 (target,) by the terms' names, with `cells`, and `scaled_cells` of those that have a
    scale.

    Args:
      horizon: steps.
      targets: how many.
      slices: the labels of each slice, by its name.
    """

    def __init__(self, horizon: int, targets: int, slices: Mapping[str, Sequence[str]] | None = None) -> None:
        self._horizon, self._targets = horizon, targets
        self._labels = {name: tuple(labels) for name, labels in (slices or {}).items()}
        self._by_step: dict[str, Float64] = {}  # term -> (horizon, target)
        self._by_label: dict[str, dict[str, Float64]] = {name: {} for name in self._labels}  # -> (label, target)
        self._keys: dict[str, int] = {}  # key -> its row
        self._by_key: dict[str, Float64] = {}  # term -> (row, target); there may be more rows than keys
        self._windows = np.zeros(0, np.int64)  # of each row

    def add(
        self,
        keys: Sequence[str],
        observed: Bool,
        terms: Mapping[str, Float64],
        scale: Float64,
        groups: Mapping[str, Int64] | None = None,
    ) -> None:
        """Takes a batch.

        Args:
          keys: of the windows.
          observed: bool (window, horizon, target).
          terms: float64 of the same shape by name; what they are where nothing was observed does not matter.
          scale: as in `point_terms`.
          groups: by the slice's name the number of each cell's label, int64 (window, horizon); -1 is in none.
        """
        rows = self._rows_of(keys)
        np.add.at(self._windows, rows, 1)
        counts = {
            "cells": observed.astype(np.float64),
            "scaled_cells": np.broadcast_to(scale > 0, observed.shape).astype(np.float64),
        }
        for name, term in (counts | dict(terms)).items():
            self._add_term(name, np.where(observed, term, 0.0), rows, groups or {})

    def total(self) -> dict[str, Float64]:
        """The sums of all cells."""
        return {name: sums.sum(axis=0) for name, sums in self._by_step.items()}

    def of_step(self, step: int) -> dict[str, Float64]:
        """The sums of one step of the horizon, counted from 0."""
        return {name: sums[step] for name, sums in self._by_step.items()}

    def of_key(self, key: str) -> dict[str, Float64]:
        """The sums of one key."""
        return {name: sums[self._keys[key]] for name, sums in self._by_key.items()}

    def of_label(self, name: str, label: str) -> dict[str, Float64]:
        """The sums of one label of a slice."""
        number = self._labels[name].index(label)
        return {term: sums[number] for term, sums in self._by_label[name].items()}

    @property
    def windows_by_key(self) -> dict[str, int]:
        """How many windows there were of each key, by key in order."""
        return {key: int(self._windows[self._keys[key]]) for key in sorted(self._keys)}

    @property
    def labels(self) -> dict[str, tuple[str, ...]]:
        """The labels of each slice."""
        return self._labels

    def _rows_of(self, keys: Sequence[str]) -> Int64:
        rows = np.fromiter((self._keys.setdefault(key, len(self._keys)) for key in keys), np.int64, len(keys))
        if len(self._keys) > len(self._windows):
            grown = max(2 * len(self._windows), len(self._keys))
            self._windows = np.pad(self._windows, (0, grown - len(self._windows)))
            self._by_key = {name: _grown(sums, grown) for name, sums in self._by_key.items()}
        return rows

    def _add_term(self, name: str, cells: Float64, rows: Int64, groups: Mapping[str, Int64]) -> None:
        by_step = self._by_step.setdefault(name, np.zeros((self._horizon, self._targets)))
        by_step += cells.sum(axis=0)
        by_key = self._by_key.setdefault(name, np.zeros((len(self._windows), self._targets)))
        np.add.at(by_key, rows, cells.sum(axis=1))
        for slice_name, labels in self._labels.items():
            by_label = self._by_label[slice_name].setdefault(name, np.zeros((len(labels), self._targets)))
            group = groups[slice_name].ravel()
            chosen = group >= 0
            for target in range(self._targets):
                by_label[:, target] += np.bincount(group[chosen], cells[..., target].ravel()[chosen], len(labels))


def _grown(sums: Float64, rows: int) -> Float64:
    return np.pad(sums, ((0, rows - len(sums)), (0, 0)))


def forecast_scores(sums: Mapping[str, float], levels: Sequence[float] = ()) -> Scores:
    """The scores of a forecast and its quantiles.

    Args:
      sums: by the terms' names.
      levels: of the quantiles.
    Returns:
      `cells`, and the scores of the table above; None where no cell says anything. Those of quantiles are there where
      there are levels.
    """
    cells, scaled = sums["cells"], sums["scaled_cells"]
    mse = ratio(sums["squared"], cells)
    scores: Scores = {
        "cells": int(cells),
        "mae": ratio(sums["absolute"], cells),
        "mse": mse,
        "rmse": None if mse is None else mse**0.5,
        "smape": ratio(sums["symmetric"], cells),
        "mase": ratio(sums["scaled"], scaled),
    }
    if levels:
        intervals = [f"{coverage:g}" for coverage in central_intervals(levels)]
        losses = np.array([sums[f"pinball {level:g}"] for level in levels])
        scores |= {
            "quantile_loss": {f"{level:g}": ratio(sums[f"pinball {level:g}"], cells) for level in levels},
            "below": {f"{level:g}": ratio(sums[f"below {level:g}"], cells) for level in levels},
            "crps": ratio(2 * float(crps_weights(levels) @ losses), cells),
            "coverage": {name: ratio(sums[f"covered {name}"], cells) for name in intervals},
            "interval_width": {name: ratio(sums[f"width {name}"], cells) for name in intervals},
            "msis": {name: ratio(sums[f"interval {name}"], scaled) for name in intervals},
        }
    return scores


def ratio(total: float, count: float) -> float | None:
    """The mean of `count` terms that add up to `total`; None where there are none."""
    return float(total / count) if count else None


def skill(error: float, yardstick_error: float) -> float | None:
    """1 for no error, 0 for the yardstick's, negative for more; None where the yardstick is without error."""
    return float(1 - error / yardstick_error) if yardstick_error else None


class Confusion:
    """Counts of actual and predicted classes, and the scores of classifications made of them.

    Args:
      classes: their names, in the order of their numbers.
    """

    def __init__(self, classes: Iterable[str]) -> None:
        self.classes = tuple(classes)
        self.matrix = np.zeros((len(self.classes), len(self.classes)), np.int64)
        """Counts (actual, predicted)."""

    def add(self, actual: Int64, predicted: Int64) -> None:
        """Takes the numbers of actual and predicted classes, int64 (case,) each."""
        size = len(self.classes)
        self.matrix += np.bincount(actual * size + predicted, minlength=size * size).reshape(size, size)

    def scores(self) -> dict[str, object]:
        """`cases`, `accuracy`, `macro_f1`, the counts as `confusion`, and `by_class`: precision, recall, F1, cases.

        `macro_f1` is the mean of F1 over the classes that came or were predicted. A score without a case is
        None.
        """
        right, actual, predicted = np.diag(self.matrix), self.matrix.sum(axis=1), self.matrix.sum(axis=0)
        by_class = {}
        for number, name in enumerate(self.classes):
            hits, came, said = int(right[number]), int(actual[number]), int(predicted[number])
            by_class[name] = {
                "cases": came,
                "precision": ratio(hits, said),
                "recall": ratio(hits, came),
                "f1": ratio(2 * hits, came + said),
            }
        known = [scores["f1"] for scores in by_class.values() if scores["f1"] is not None]
        return {
            "cases": int(actual.sum()),
            "accuracy": ratio(int(right.sum()), int(actual.sum())),
            "macro_f1": ratio(sum(known), len(known)),
            "confusion": self.matrix.tolist(),
            "by_class": by_class,
        }
