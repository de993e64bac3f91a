"""What all forecasting families share: inputs and outputs in original units, with scaling and masks inside the model.

A family sees normalised channels and predicts how far each target moves away from its last observed value. So a family
that has learnt nothing repeats the last value, and every family starts from that yardstick.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import keras
import numpy as np
from keras import ops

from models.families import FAMILIES
from models.scaling import SCALINGS, Cells, Constants
from models.window import EncodedWindow
from schemas.dataset import Statistics
from schemas.errors import ModelError
from schemas.model_spec import LstmModel
from schemas.spec import Spec
from schemas.stream_spec import Feature


@dataclass(frozen=True, slots=True)
class TensorForm:
    """Shape (without the batch) and dtype of a model's input."""

    shape: tuple[int, ...]
    dtype: str


def input_forms(spec: Spec) -> dict[str, TensorForm]:
    """The inputs of the spec's model, by name.

    Raises:
      ModelError: the spec has no model.
    """
    options = _model(spec)
    past = (spec.window.past, len(spec.stream.features))
    forms = {"past_values": TensorForm(past, "float32"), "past_observed": TensorForm(past, "bool")}
    if known := sum(feature.role == "future" for feature in spec.stream.features):
        forms["future_values"] = TensorForm((spec.window.horizon, known), "float32")
    if constant := sum(feature.role == "static" for feature in spec.stream.features):
        forms["static_values"] = TensorForm((constant,), "float32")
    if options.scaling == "per_key":
        forms["key"] = TensorForm((), "string")
    return forms


def build_forecaster(spec: Spec, statistics: Statistics, *, portable: bool = False) -> Any:
    """The spec's model, not yet trained.

    Args:
      spec: with a model.
      statistics: of the dataset that it is trained on.
      portable: only operations that every device has; the weights are the same either way.
    Returns:
      A `keras.Model` from a dict of `input_forms` to a dict of outputs: `mean` float32 (batch, horizon, target). All in
      original units; a cell of `past_values` that is not finite is missing, whatever `past_observed` says.
    Raises:
      ModelError: the spec has no model.
    """
    forms, options = input_forms(spec), _model(spec)
    inputs = {name: keras.Input(form.shape, dtype=form.dtype, name=name) for name, form in forms.items()}
    features = spec.stream.features
    carried = [index for index, feature in enumerate(features) if feature.calendar is None]
    phases = [index for index, feature in enumerate(features) if feature.calendar is not None]
    targets = [column for column, index in enumerate(carried) if features[index].role == "target"]

    present = ops.isfinite(inputs["past_values"])
    values = ops.where(present, inputs["past_values"], 0.0)
    there = ops.cast(_columns(present, carried), "float32")
    seen = there * ops.cast(_columns(inputs["past_observed"], carried), "float32")

    cells = Cells(_columns(values, carried), seen, inputs.get("key"))
    mean, deviation = SCALINGS[options.scaling](Constants.of(spec, statistics), cells)
    normal = (cells.values - mean[:, None]) / deviation[:, None] * there
    last = _last_observed(_columns(normal, targets), _columns(seen, targets))

    channels = [normal, seen]
    if phases:
        channels.append(_waves(_columns(values, phases)) * ops.tile(ops.cast(_columns(present, phases), "float32"), 2))
    window = EncodedWindow(
        past=ops.concatenate(channels, axis=-1),
        target=(_columns(normal, targets) - last[:, None]) * _columns(there, targets),
        future=_known(inputs["future_values"], features, mean, deviation) if "future_values" in inputs else None,
        horizon=spec.window.horizon,
    )
    moved = FAMILIES[options.family](options, window, portable=portable)
    forecast = (last[:, None] + moved) * _columns(deviation, targets)[:, None] + _columns(mean, targets)[:, None]
    return keras.Model(inputs, {"mean": keras.layers.Identity(name="mean")(forecast)}, name=options.family)


def _model(spec: Spec) -> LstmModel:
    if spec.model is None:
        raise ModelError("$.model: expected a model to train, got none")
    return spec.model


def _columns(tensor: Any, columns: list[int]) -> Any:
    return ops.take(tensor, np.array(columns, np.int32), axis=-1)


def _known(values: Any, features: Sequence[Feature], mean: Any, deviation: Any) -> Any:
    """The channels of the known future: (batch, horizon, future feature) -> (batch, horizon, channel).

    What events announced is normalised as its feature's past is, and 0 where nothing was announced.
    """
    names = [feature.name for feature in features if feature.calendar is None]
    future = [feature for feature in features if feature.role == "future"]
    phases = [column for column, feature in enumerate(future) if feature.calendar is not None]
    announced = [column for column, feature in enumerate(future) if feature.calendar is None]
    channels = [_waves(_columns(values, phases))] if phases else []
    if announced:
        rows = [names.index(future[column].name) for column in announced]
        told = _columns(values, announced)
        normal = (told - _columns(mean, rows)[:, None]) / _columns(deviation, rows)[:, None]
        channels.append(ops.where(ops.isfinite(told), normal, 0.0))
    return ops.concatenate(channels, axis=-1)


def _waves(phase: Any) -> Any:
    """Sine and cosine of phases in [-0.5, 0.5): (batch, time, 2 * phase)."""
    angle = 2 * math.pi * phase
    return ops.concatenate((ops.sin(angle), ops.cos(angle)), axis=-1)


def _last_observed(values: Any, observed: Any) -> Any:
    """The last observed value of each column, 0 where there is none: (batch, time, column) -> (batch, column)."""
    steps = values.shape[1]
    number = np.arange(1, steps + 1, dtype=np.float32)[:, None]
    last = ops.cast(ops.max(observed * number, axis=1, keepdims=True), "int32")
    value = ops.take_along_axis(values, ops.maximum(last - 1, 0), axis=1)
    return ops.where(last > 0, value, 0.0)[:, 0]
