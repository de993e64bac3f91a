"""Conformal calibration: intervals that hold on the validation split what they say.

A model's quantiles, or its forecast where the spec asks for intervals around one, are moved by offsets that were found
on the validation split, one for each step of the horizon, target and level. With the bounds q_low and q_high of a
central interval of coverage 1 - a, an observation y has the score max(q_low - y, y - q_high) / spread, which says how
far outside it lies, and is negative inside. The offset is the ceil((n + 1) (1 - a))-th smallest of the n scores. That
is conformalised quantile regression (Romano, Patterson and Candès 2019); of a forecast without quantiles, which is
both bounds then, it is split-conformal prediction (Papadopoulos et al. 2002). The spread is the deviation that the
model's scaling gives the target, of the window or the key, so that one offset fits series of all sizes.

Coverage is then guaranteed on average for windows that are exchangeable with those of validation. Windows of a later
time are not quite, so the evaluation on the test split says what became of it. With fewer cells than a coverage takes
(19 for 95 %) the offset is the largest score.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import keras
import numpy as np
from keras import ops
from numpy.typing import NDArray

from models.answers import answer_of
from models.reader import windows
from models.scaling import SCALINGS, Cells, Constants
from pipelines.kernels.metrics import central_intervals
from schemas.dataset import DatasetFolder, Statistics
from schemas.errors import ModelError
from schemas.spec import Spec

Float32 = NDArray[np.float32]

SPLIT = "validation"


@dataclass(frozen=True, slots=True)
class Calibration:
    """Offsets of quantiles, in spreads: float32 (horizon, target, level)."""

    levels: tuple[float, ...]
    offsets: Float32


def needs_calibration(spec: Spec) -> bool:
    """Whether the spec's model has intervals that are found, or corrected, on the validation split."""
    return bool(spec.uncertainty.intervals) or (spec.uncertainty.calibrate and bool(spec.quantile_levels))


def calibrate(spec: Spec, statistics: Statistics, folder: DatasetFolder, model: Any) -> Calibration:
    """Finds the offsets of a model on the validation split.

    Args:
      spec: the model's; `needs_calibration` holds.
      statistics: of the dataset that the model was trained on.
      folder: a dataset of its windows.
      model: from a dict of `input_forms` to `mean` and, where its family has any, `quantiles`; not yet calibrated.
    """
    levels = spec.quantile_levels
    bounds = answer_of(keras.Model(model.input, _bounds(spec, statistics, model)))
    actual, quantiles, spread = [], [], []
    for batch in windows(folder, SPLIT, batch_size=spec.training.batch_size).as_numpy_iterator():
        found = bounds(batch)
        quantiles.append(found["quantiles"])
        spread.append(found["spread"])
        actual.append(np.where(batch["target_observed"], batch["target_values"], np.float32(np.nan)))
    return Calibration(
        levels, conformal_offsets(np.concatenate(actual), np.concatenate(quantiles), np.concatenate(spread), levels)
    )


def conformal_offsets(actual: Float32, quantiles: Float32, spread: Float32, levels: Sequence[float]) -> Float32:
    """The offsets that make central intervals cover what they say.

    A level whose mirror level is missing keeps its quantile: its offset is 0.

    Args:
      actual: float32 (window, horizon, target), NaN where nothing was observed.
      quantiles: float32 (window, horizon, target, level).
      spread: float32 (window, target).
      levels: rising.
    Returns:
      float32 (horizon, target, level).
    """
    offsets = np.zeros(quantiles.shape[1:], np.float32)
    for coverage, (low, high) in central_intervals(levels).items():
        outside = np.maximum(quantiles[..., low] - actual, actual - quantiles[..., high]) / spread[:, None]
        ordered = np.sort(outside, axis=0)  # NaN at the end
        count = np.isfinite(actual).sum(axis=0)
        rank = np.minimum(np.ceil((count + 1) * coverage - 1e-9).astype(np.int64), count)
        chosen = np.take_along_axis(ordered, np.maximum(rank - 1, 0)[None], axis=0)[0]
        offset = np.where(count > 0, chosen, 0)
        offsets[..., low], offsets[..., high] = -offset, offset
    return offsets


def calibrated(spec: Spec, statistics: Statistics, model: Any, calibration: Calibration) -> Any:
    """A model with calibrated quantiles.

    Args:
      spec: the model's.
      statistics: of the dataset that it was trained on.
      model: as in `calibrate`.
      calibration: its offsets.
    Returns:
      A `keras.Model` from the same inputs to `mean`, as it was, and to rising `quantiles`, float32 (batch, horizon,
      target, level). It shares the model's weights and has no others.
    """
    found = _bounds(spec, statistics, model)
    moved = found["quantiles"] + found["spread"][:, None, :, None] * calibration.offsets
    columns = [moved[..., number] for number in range(len(calibration.levels))]
    # Where the offsets have made quantiles cross, the outer one gives way: no interval gets narrower.
    middle = min(range(len(columns)), key=lambda number: abs(calibration.levels[number] - 0.5))
    for number in range(middle - 1, -1, -1):
        columns[number] = ops.minimum(columns[number], columns[number + 1])
    for number in range(middle + 1, len(columns)):
        columns[number] = ops.maximum(columns[number], columns[number - 1])
    quantiles = keras.layers.Identity(name="calibrated_quantiles")(ops.stack(columns, axis=-1))
    return keras.Model(model.input, {"mean": found["mean"], "quantiles": quantiles}, name=model.name)


def _bounds(spec: Spec, statistics: Statistics, model: Any) -> dict[str, Any]:
    """Symbolic tensors of a model's graph: `mean`, `quantiles` before calibration, and `spread` (batch, target)."""
    mean = model.output["mean"]
    quantiles = model.output.get("quantiles")
    if quantiles is None:
        quantiles = ops.repeat(mean[..., None], len(spec.quantile_levels), axis=-1)
    return {"mean": mean, "quantiles": quantiles, "spread": _spread(spec, statistics, model.input)}


def _spread(spec: Spec, statistics: Statistics, inputs: Mapping[str, Any]) -> Any:
    """The deviation that the model's scaling gives each target: (batch, target)."""
    if spec.model is None:
        raise ModelError("$.model: expected a model to calibrate, got none")
    carried = [index for index, feature in enumerate(spec.stream.inputs) if feature.calendar is None]
    targets = [place for place, index in enumerate(carried) if spec.stream.inputs[index].role == "target"]
    values = ops.take(inputs["past_values"], np.array(carried), axis=-1)
    seen = ops.take(inputs["past_observed"], np.array(carried), axis=-1)
    present = ops.isfinite(values)
    cells = Cells(
        ops.where(present, values, 0.0), ops.cast(ops.logical_and(present, seen), "float32"), inputs.get("key")
    )
    _, deviation = SCALINGS[spec.model.scaling](Constants.of(spec, statistics), cells)
    return ops.take(deviation, np.array(targets), axis=-1)
