"""Losses and metrics: errors in standardised units, of observed cells only.

Forecasts are in original units. So that several targets, and keys of different size, count alike, a label carries the
deviation that its error is measured in. Which cells were observed travels as the sample weight.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import tensorflow as tf
from keras import ops

from models.descent import Cost, Objective
from models.forms import input_forms
from models.scaling import Constants, KeyRows
from schemas.spec import Spec

LOSSES: dict[str, Callable[[Any], Any]] = {
    "mse": ops.square,
    "mae": ops.abs,
    "huber": lambda error: ops.where(ops.abs(error) <= 1, 0.5 * ops.square(error), ops.abs(error) - 0.5),
}
"""What an error, in standardised units, costs."""


def add_deviation(spec: Spec, constants: Constants) -> Callable[[dict[str, Any]], dict[str, Any]]:
    """Gives batches the deviation that each target's errors are measured in.

    That is the key's own in the train split where the model scales by key or by window, and the shared one where one
    scale fits all keys.

    Returns:
      A function for `tf.data.Dataset.map` that adds `target_deviation`, float32 (batch, target).
    """
    roles = [feature.role for feature in spec.stream.inputs if feature.calendar is None]
    table = constants.deviation[:, [column for column, role in enumerate(roles) if role == "target"]]
    rows = KeyRows(constants)
    by_key = spec.model is not None and spec.model.scaling != "shared"

    def add(batch: dict[str, Any]) -> dict[str, Any]:
        row = rows(batch["key"]) if by_key else tf.fill(tf.shape(batch["key"]), len(table) - 1)
        return batch | {"target_deviation": tf.gather(table, row)}

    return add


def supervise(spec: Spec) -> Callable[[dict[str, Any]], tuple[Any, Any, Any]]:
    """Turns batches with `target_deviation` into inputs, labels and weights, as `models.descent.Feed` takes them.

    Returns:
      A function for `tf.data.Dataset.map`. Labels are float32 (batch, horizon, target, 2): value and deviation; weights
      are float32 (batch, horizon, target), 1 where observed.
    """
    names = list(input_forms(spec))

    def split(batch: dict[str, Any]) -> tuple[Any, Any, Any]:
        observed = batch["target_observed"]
        value = tf.where(observed, batch["target_values"], 0.0)  # a masked cell is NaN, and NaN times 0 is NaN
        deviation = tf.broadcast_to(batch["target_deviation"][:, None], tf.shape(value))
        inputs = {name: batch[name] for name in names}
        return inputs, tf.stack((value, deviation), axis=-1), tf.cast(observed, tf.float32)

    return split


def standardised_error(labels: Any, mean: Any) -> Any:
    """How far forecasts lie above labels, in deviations: (batch, horizon, target)."""
    return (mean - labels[..., 0]) / labels[..., 1]


def quantile_loss(labels: Any, quantiles: Any, levels: Sequence[float]) -> Any:
    """The pinball loss of each cell, the mean over the levels (Koenker & Bassett, 1978): (batch, horizon, target).

    A forecast of level q costs q for each deviation that it lies below the value, and 1 - q for each above.
    """
    above = standardised_error(labels[..., None, :], quantiles)
    level = np.array(levels, np.float32)
    return ops.mean(ops.maximum((1 - level) * above, -level * above), axis=-1)


def objective(spec: Spec) -> Objective:
    """What training makes small, and beside it the mean absolute error.

    That is the spec's cost of the errors, or where the model has quantiles their loss.
    """

    def cost_of(name: str) -> Cost:
        return lambda labels, outputs: LOSSES[name](standardised_error(labels, outputs["mean"]))

    def pinball(labels: Any, outputs: Any) -> Any:
        return quantile_loss(labels, outputs["quantiles"], levels)

    levels = () if spec.model is None else spec.model.quantiles
    return Objective(pinball if levels else cost_of(spec.training.loss), {"mae": cost_of("mae")})
