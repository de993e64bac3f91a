"""Whose mean and deviation normalise a value: the train split's, the key's own in it, or the window's own.

Each scaling is a part of the model's graph, so that a served model takes and gives original units. Constants come from
the dataset's statistics: observed values of the train split, each row once.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import keras
import numpy as np
import tensorflow as tf
from keras import ops
from numpy.typing import NDArray

from schemas.dataset import Moments, Statistics
from schemas.spec import Spec

Float32 = NDArray[np.float32]

_RESOLUTION = float(np.finfo(np.float32).eps)
_LEAST_WINDOW_DEVIATION = 1e-2
"""Of the least that any key has in the train split: a window that hardly moves is not blown up to the size of one that
does, and keys of very different size are told apart from such."""


@dataclass(frozen=True, slots=True)
class Constants:
    """Means and deviations of the features that events carry, float32 (key + 1, carried feature).

    Row i is that of `keys[i]`; the last row is shared by all keys, and stands in for a key, or a key's feature, of
    which the train split has no observed value. A deviation is never 0.
    """

    keys: tuple[str, ...]
    mean: Float32
    deviation: Float32

    @classmethod
    def of(cls, spec: Spec, statistics: Statistics) -> Constants:
        """The constants of a dataset, features in the order of the spec."""
        names = [feature.name for feature in spec.stream.inputs if feature.calendar is None]
        shared = statistics.features
        rows = [shared | statistics.keys[key] for key in sorted(statistics.keys)] + [shared]
        pairs = np.array([[_mean_and_deviation(row.get(name)) for name in names] for row in rows], np.float32)
        return cls(tuple(sorted(statistics.keys)), pairs[..., 0], pairs[..., 1])


def _mean_and_deviation(moments: Moments | None) -> tuple[float, float]:
    if moments is None:
        return 0.0, 1.0
    # A spread that float32 cannot tell from none, given the mean, is rounding.
    return moments.mean, moments.std if moments.std > _RESOLUTION * abs(moments.mean) else 1.0


class KeyRows(keras.layers.Layer):  # type: ignore[misc]
    """Looks up each key's row of the constants: string (batch,) -> int64 (batch,); an unknown key has the last row."""

    def __init__(self, constants: Constants) -> None:
        super().__init__()
        rows = tf.lookup.KeyValueTensorInitializer(
            tf.constant(constants.keys, tf.string, shape=(len(constants.keys),)),
            tf.range(len(constants.keys), dtype=tf.int64),
        )
        self.table = tf.lookup.StaticHashTable(rows, default_value=len(constants.keys))

    def call(self, key: Any) -> Any:
        """Rows of the constants: int64 (batch,)."""
        return self.table.lookup(key)


@dataclass(frozen=True, slots=True)
class Cells:
    """What a scaling may look at, of a batch of windows.

    `values` float32 (batch, past, carried feature), finite; `observed` float32, the same shape, 1 where observed, else
    0; `key` string (batch,), None where the model has no such input.
    """

    values: Any
    observed: Any
    key: Any | None


def shared(constants: Constants, cells: Cells) -> tuple[Any, Any]:
    """The train split's mean and deviation, for every window: float32 (batch, carried feature) each."""
    like = ops.zeros_like(cells.values[:, 0])
    return like + constants.mean[-1], like + constants.deviation[-1]


def per_key(constants: Constants, cells: Cells) -> tuple[Any, Any]:
    """The key's own mean and deviation in the train split; the shared ones for an unknown key."""
    row = KeyRows(constants)(cells.key)
    return ops.take(constants.mean, row, axis=0), ops.take(constants.deviation, row, axis=0)


def window(constants: Constants, cells: Cells) -> tuple[Any, Any]:
    """Mean and deviation of the window's own observed cells; the shared ones for a feature without any."""
    # In standardised units, so that squares of values far from zero lose no digits.
    standard = (cells.values - constants.mean[-1]) / constants.deviation[-1]
    count = ops.sum(cells.observed, axis=1)
    some = ops.maximum(count, 1.0)
    mean = ops.sum(standard * cells.observed, axis=1) / some
    variance = ops.sum(ops.square(standard - mean[:, None]) * cells.observed, axis=1) / some
    least = _LEAST_WINDOW_DEVIATION * constants.deviation.min(axis=0) / constants.deviation[-1]
    deviation = ops.where(count > 0, ops.maximum(ops.sqrt(variance), least), 1.0)
    return mean * constants.deviation[-1] + constants.mean[-1], deviation * constants.deviation[-1]


SCALINGS: dict[str, Callable[[Constants, Cells], tuple[Any, Any]]] = {
    "shared": shared,
    "per_key": per_key,
    "window": window,
}
"""By their names in a spec. Each gives mean and deviation, float32 (batch, carried feature)."""
