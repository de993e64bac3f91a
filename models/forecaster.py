"""The model of a spec: a family amid what all share, so that its inputs and outputs are in original units."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import keras

from models.encoding import decode, encode
from models.families import FAMILIES
from models.families.family import Family
from models.precision import computing_in
from models.scaling import Constants
from schemas.dataset import Statistics
from schemas.errors import ModelError
from schemas.model_spec import ModelSection
from schemas.spec import Spec


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
    if options.on_absolute_steps:
        forms["first_step"] = TensorForm((), "int64")
    if options.scaling == "per_key":
        forms["key"] = TensorForm((), "string")
    return forms


def build_forecaster(spec: Spec, statistics: Statistics, *, portable: bool = False, precision: str = "float32") -> Any:
    """The spec's model, not yet trained.

    Args:
      spec: with a model.
      statistics: of the dataset that it is trained on.
      portable: only operations that every device has; the weights are the same either way.
      precision: what the family's layers compute in, `float32` or `bfloat16`; outputs are float32 either way.
    Returns:
      A `keras.Model` from a dict of `input_forms` to a dict of outputs: `mean` float32 (batch, horizon, target), and
      `quantiles` float32 (batch, horizon, target, level) where the model has levels. All in original units; a cell of
      `past_values` that is not finite is missing, whatever `past_observed` says.
    Raises:
      ModelError: the spec has no model, or features that its family cannot take.
    """
    forms, options = input_forms(spec), _model(spec)
    family = FAMILIES[options.family]
    _require_roles(family, spec, options.family)
    inputs = {name: keras.Input(form.shape, dtype=form.dtype, name=name) for name, form in forms.items()}
    encoding = encode(spec, options, Constants.of(spec, statistics), inputs)
    with computing_in(precision):
        moved = family.build(options, encoding.window, portable=portable)
    outputs = decode(options, encoding, keras.ops.cast(moved, "float32"))
    named = {name: keras.layers.Identity(name=name, dtype="float32")(output) for name, output in outputs.items()}
    return keras.Model(inputs, named, name=options.family)


def _model(spec: Spec) -> ModelSection:
    if spec.model is None:
        raise ModelError("$.model: expected a model to train, got none")
    return spec.model


def _require_roles(family: Family, spec: Spec, name: str) -> None:
    for feature in spec.stream.features:
        if feature.role in family.refuses:
            raise ModelError(
                f"$.model.family: '{name}' takes no features of the role '{feature.role}', got '{feature.name}'"
            )
