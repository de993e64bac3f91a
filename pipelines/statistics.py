"""Statistics of the train split's rows: each row once, observed values only, float64.

Moments of one key are computed in one go and merged in the order of the keys, so they have the same bits on every run.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence

import numpy as np

from pipelines.kernels.grid import Bool, Float32, Int64
from schemas.dataset import Moments, Statistics


def touched_rows(count: int, end: Int64, past: int, horizon: int) -> Bool:
    """bool (count,): which rows of a run the past or the horizon of a window covers."""
    change = np.zeros(count + 1, np.int64)
    np.add.at(change, end - past, 1)
    np.add.at(change, end + horizon, -1)
    touched: Bool = np.cumsum(change[:-1]) > 0
    return touched


def moments_by_feature(names: Sequence[str], rows: Sequence[tuple[Float32, Bool]]) -> dict[str, Moments]:
    """Moments of each feature that was observed.

    Args:
      names: the features.
      rows: values and mask, each (row, feature), of one stretch after the other.
    """
    found = {}
    for index, name in enumerate(names):
        columns = [values[observed[:, index], index] for values, observed in rows]
        if of_column := moments(np.concatenate(columns) if columns else np.empty(0, np.float32)):
            found[name] = of_column
    return found


def moments(values: Float32) -> Moments | None:
    """Moments of float32 (value,); None where there is no value."""
    if not len(values):
        return None
    column = values.astype(np.float64)
    mean = float(column.mean())
    column -= mean
    std = math.sqrt(float(np.square(column, out=column).mean()))
    return Moments(count=len(values), mean=mean, std=std, min=float(values.min()), max=float(values.max()))


def merge(left: Moments, right: Moments) -> Moments:
    """Moments of two samples together (Chan, Golub and LeVeque 1979)."""
    return left.merged(right)


def dataset_statistics(names: Iterable[str], keys: Mapping[str, dict[str, Moments]]) -> Statistics:
    """Statistics of all keys and of each, merged in the order of `keys`; features in the order of `names`."""
    features: dict[str, Moments] = {}
    for moments in keys.values():
        for name, of_key in moments.items():
            features[name] = merge(features[name], of_key) if name in features else of_key
    return Statistics(
        features={name: features[name] for name in names if name in features},
        keys={key: moments for key, moments in keys.items() if moments},
    )
