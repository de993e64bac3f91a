"""From a model's inputs, in original units, to what a family sees, and from what it says back to original units.

A family sees normalised channels and predicts how far each target moves away from its anchor. So a family that has
learnt nothing repeats the anchor, by default the last value, and every family starts from that yardstick.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import keras
import numpy as np
from keras import ops

from models.scaling import SCALINGS, Cells, Constants
from models.window import EncodedWindow
from schemas.model_spec import ForecastModel
from schemas.spec import Spec
from schemas.stream_spec import Feature


def last_observed(values: Any, observed: Any) -> Any:
    """The last observed value of each column, 0 where there is none: (batch, time, column) -> (batch, column)."""
    steps = values.shape[1]
    number = np.arange(1, steps + 1, dtype=np.float32)[:, None]
    last = ops.cast(ops.max(observed * number, axis=1, keepdims=True), "int32")
    value = ops.take_along_axis(values, ops.maximum(last - 1, 0), axis=1)
    return ops.where(last > 0, value, 0.0)[:, 0]


def mean_observed(values: Any, observed: Any) -> Any:
    """The mean of each column's observed values, 0 where there is none: (batch, time, column) -> (batch, column)."""
    return ops.sum(values * observed, axis=1) / ops.maximum(ops.sum(observed, axis=1), 1.0)


def nothing(values: Any, observed: Any) -> Any:  # noqa: ARG001
    """0 for each column: (batch, time, column) -> (batch, column)."""
    return ops.zeros_like(values[:, 0])


ANCHORS: dict[str, Callable[[Any, Any], Any]] = {"last": last_observed, "mean": mean_observed, "none": nothing}
"""What forecasts are relative to, by its name in a spec: of normalised values and their flags, float32."""


class Affine(keras.layers.Layer):  # type: ignore[misc]
    """Stretches and shifts each column by learnt numbers, and undoes it: RevIN's affine part (Kim et al., 2022).

    The stretch is learnt as its logarithm, so that it can always be undone.
    """

    def build(self, shape: tuple[int | None, ...]) -> None:
        """Makes a stretch and a shift for each column; both leave numbers as they are at first."""
        self.log_stretch = self.add_weight(shape=(shape[-1],), initializer="zeros", name="log_stretch")
        self.shift = self.add_weight(shape=(shape[-1],), initializer="zeros", name="shift")

    def call(self, values: Any, undo: bool = False) -> Any:
        """(..., column) -> the same shape."""
        if undo:
            return (values - self.shift) * ops.exp(-self.log_stretch)
        return values * ops.exp(self.log_stretch) + self.shift


@dataclass(frozen=True, slots=True)
class Encoding:
    """A batch of windows as a family sees it, and what it takes to undo that.

    `anchor`, `mean` and `deviation` are float32 (batch, target); the anchor is in normalised units.
    """

    window: EncodedWindow
    anchor: Any
    mean: Any
    deviation: Any
    affine: Affine | None


def encode(spec: Spec, options: ForecastModel, constants: Constants, inputs: Mapping[str, Any]) -> Encoding:
    """Encodes a batch of inputs (`models.forms.input_forms`), symbolic while a model is built."""
    columns = _Columns(spec.stream.inputs, classified=bool(spec.classes))
    present = ops.isfinite(inputs["past_values"])
    values = ops.where(present, inputs["past_values"], 0.0)
    present = ops.cast(present, "float32")
    observed = present * ops.cast(inputs["past_observed"], "float32")

    carried = columns.carried
    cells = Cells(_take(values, carried), _take(observed, carried), inputs.get("key"))
    mean, deviation = SCALINGS[options.scaling](constants, cells)
    normal = (cells.values - mean[:, None]) / deviation[:, None] * _take(present, carried)

    there, seen = _take(present, columns.targets), _take(observed, columns.targets)
    target = _take(normal, columns.place(columns.targets))
    anchor = ANCHORS[options.anchor](target, seen)
    moved = target - anchor[:, None]
    affine = Affine(name="reversible") if options.reversible else None
    if affine is not None:
        target, moved = affine(target), affine(moved)
    target, moved = target * there, moved * there

    around = ops.any(_take(present, columns.beside) > 0, axis=-1)
    beside = _beside(columns, normal, values, present, observed)
    known = _known(columns, inputs["future_values"], mean, deviation) if "future_values" in inputs else None
    horizon, width = spec.window.horizon, (len(columns.targets) if options.channels == "together" else 1)
    if spec.classes:
        # One answer for the window: what is known of the horizon is known of it all at once.
        known = None if known is None else ops.reshape(known, (-1, 1, horizon * known.shape[-1]))
        horizon, width = 1, len(spec.classes)
    static = _static(columns, inputs["static_values"], constants) if "static_values" in inputs else None
    if options.channels == "independent":
        rows = _Rows(len(columns.targets))
        moved = rows.apart(moved)
        past = _joined([moved, rows.apart(seen), *(rows.each(part) for part in beside)])
        known, static, around = (None if part is None else rows.each(part) for part in (known, static, around))
        there = rows.apart(there)
    else:
        rows, past = None, _joined([target, seen, *beside])
    window = EncodedWindow(
        past=past,
        target=moved,
        future=known,
        static=static,
        present=ops.logical_or(ops.any(there > 0, axis=-1), around),
        first_step=inputs.get("first_step"),
        channel=None if rows is None else rows.number(anchor),
        channels=len(columns.targets),
        horizon=horizon,
        width=width * max(1, len(options.quantiles)),
        classified=bool(spec.classes),
    )
    where = columns.place(columns.targets)
    return Encoding(window, anchor, _take(mean, where), _take(deviation, where), affine)


def decode(options: ForecastModel, encoding: Encoding, moved: Any) -> dict[str, Any]:
    """The outputs by name, in original units, of what a family says of an encoded batch.

    Args:
      options: of the model.
      encoding: what the family was given.
      moved: (n, horizon, width), as the family gives it.
    Returns:
      `mean` float32 (batch, horizon, target), and `quantiles` float32 (batch, horizon, target, level), each at least
      the one before it, where the model has levels; `mean` is the median then.
    """
    window, levels = encoding.window, options.quantiles
    numbers = max(1, len(levels))
    moved = ops.cast(moved, "float32")
    if window.channel is None:
        moved = ops.reshape(moved, (-1, window.horizon, window.channels, numbers))
    else:
        moved = ops.reshape(moved, (-1, window.channels, window.horizon, numbers))
        moved = ops.transpose(moved, (0, 2, 1, 3))
    if levels:
        moved = rising(moved, levels.index(0.5))
    if encoding.affine is not None:
        moved = ops.swapaxes(encoding.affine(ops.swapaxes(moved, -1, -2), undo=True), -1, -2)
    standing = encoding.anchor[:, None, :, None] + moved
    forecast = standing * encoding.deviation[:, None, :, None] + encoding.mean[:, None, :, None]
    if not levels:
        return {"mean": forecast[..., 0]}
    return {"mean": forecast[..., levels.index(0.5)], "quantiles": forecast}


def rising(numbers: Any, middle: int) -> Any:
    """Numbers that rise along the last axis: the middle one as it is, the others by what they add to their neighbour.

    What a number adds is its softplus, so that quantiles never cross.
    """
    steps = ops.softplus(numbers)
    centre = numbers[..., middle : middle + 1]
    below = centre - ops.flip(ops.cumsum(ops.flip(steps[..., :middle], axis=-1), axis=-1), axis=-1)
    above = centre + ops.cumsum(steps[..., middle + 1 :], axis=-1)
    return ops.concatenate((below, centre, above), axis=-1)


class _Columns:
    """Which columns of a window's values are what; each list holds numbers of features.

    Where windows are classified, the past covariates that are numbers are what a family looks at as targets.
    """

    def __init__(self, features: tuple[Feature, ...], *, classified: bool) -> None:
        self.features = features
        self.carried = [index for index, feature in enumerate(features) if feature.calendar is None]
        self.targets = [index for index in self.carried if features[index].role == "target"]
        self.beside = [index for index in self.carried if features[index].role in ("past", "future")]
        if classified:
            past = [index for index in self.beside if features[index].role == "past"]
            self.targets = [index for index in past if not features[index].categorical]
            self.beside = [index for index in self.beside if index not in self.targets]
        self.phases = [index for index, feature in enumerate(features) if feature.calendar is not None]
        self.future = [index for index, feature in enumerate(features) if feature.role == "future"]
        self.static = [index for index, feature in enumerate(features) if feature.role == "static"]

    def place(self, features: list[int]) -> list[int]:
        """Where carried features are among the carried."""
        return [self.carried.index(feature) for feature in features]

    def categorical(self, features: list[int]) -> list[int]:
        """Those of them whose values are indices of categories."""
        return [feature for feature in features if self.features[feature].categorical]

    def numeric(self, features: list[int]) -> list[int]:
        """Those of them whose values are numbers."""
        return [feature for feature in features if not self.features[feature].categorical]


class _Rows:
    """Makes each target of a window a row of its own."""

    def __init__(self, targets: int) -> None:
        self._targets = targets

    def apart(self, columns: Any) -> Any:
        """(batch, time, target) -> (batch * target, time, 1)."""
        return ops.reshape(ops.transpose(columns, (0, 2, 1)), (-1, columns.shape[1], 1))

    def each(self, shared: Any) -> Any:
        """(batch, ...) -> (batch * target, ...), the same for each target."""
        return ops.repeat(shared, self._targets, axis=0)

    def number(self, anchor: Any) -> Any:
        """The target of each row, int32 (batch * target,), given any (batch, target)."""
        numbers = ops.zeros_like(anchor, dtype="int32") + np.arange(self._targets, dtype=np.int32)
        return ops.reshape(numbers, (-1,))


def _beside(columns: _Columns, normal: Any, values: Any, present: Any, observed: Any) -> list[Any]:
    """The channels of the past beside the targets: (batch, past, channel) each."""
    parts = []
    if numeric := columns.numeric(columns.beside):
        parts.append(_take(normal, columns.place(numeric)))
    parts += [
        _one_hot(columns, index, values[..., index]) * present[..., index, None]
        for index in columns.categorical(columns.beside)
    ]
    if columns.beside:
        parts.append(_take(observed, columns.beside))
    if columns.phases:
        parts.append(_waves(_take(values, columns.phases)) * ops.tile(_take(present, columns.phases), 2))
    return parts


def _known(columns: _Columns, values: Any, mean: Any, deviation: Any) -> Any:
    """The channels of the known future: (batch, horizon, future feature) -> (batch, horizon, channel).

    What events announced is normalised as its feature's past is, and 0 where nothing was announced.
    """
    told = ops.where(ops.isfinite(values), values, 0.0)
    there = ops.cast(ops.isfinite(values), "float32")
    place = columns.future.index
    parts = []
    if phases := [place(index) for index in columns.phases]:
        parts.append(_waves(_take(told, phases)))
    announced = [index for index in columns.future if index not in columns.phases]
    if numeric := columns.numeric(announced):
        of, rows = [place(index) for index in numeric], columns.place(numeric)
        normal = (_take(told, of) - _take(mean, rows)[:, None]) / _take(deviation, rows)[:, None]
        parts.append(normal * _take(there, of))
    for index in columns.categorical(announced):
        parts.append(_one_hot(columns, index, told[..., place(index)]) * there[..., place(index), None])
    return _joined(parts)


def _static(columns: _Columns, values: Any, constants: Constants) -> Any:
    """The channels of the static covariates: (batch, static feature) -> (batch, channel).

    Always normalised by the shared constants: a window's or a key's own would take away all that they say.
    """
    told = ops.where(ops.isfinite(values), values, 0.0)
    there = ops.cast(ops.isfinite(values), "float32")
    place = columns.static.index
    parts = [there]
    if numeric := columns.numeric(columns.static):
        of, rows = [place(index) for index in numeric], columns.place(numeric)
        parts.append((_take(told, of) - constants.mean[-1, rows]) / constants.deviation[-1, rows] * _take(there, of))
    for index in columns.categorical(columns.static):
        parts.append(_one_hot(columns, index, told[..., place(index)]) * there[..., place(index), None])
    return _joined(parts)


def _one_hot(columns: _Columns, feature: int, values: Any) -> Any:
    """A channel for each category of a feature, and one for every other text: (...) -> (..., channel)."""
    return ops.one_hot(ops.cast(values, "int32"), len(columns.features[feature].categories) + 1, dtype="float32")


def _waves(phase: Any) -> Any:
    """Sine and cosine of phases in [-0.5, 0.5): (batch, time, 2 * phase)."""
    angle = 2 * math.pi * phase
    return ops.concatenate((ops.sin(angle), ops.cos(angle)), axis=-1)


def _take(tensor: Any, columns: list[int]) -> Any:
    return ops.take(tensor, np.array(columns, np.int32), axis=-1)


def _joined(parts: list[Any]) -> Any:
    return parts[0] if len(parts) == 1 else ops.concatenate(parts, axis=-1)
