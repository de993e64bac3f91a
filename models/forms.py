"""What a model takes, by name: the tensors of a batch of windows, in original units."""

from __future__ import annotations

from dataclasses import dataclass

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
    options = model_section(spec)
    past = (spec.window.past, len(spec.stream.inputs))
    forms = {"past_values": TensorForm(past, "float32"), "past_observed": TensorForm(past, "bool")}
    if known := sum(feature.role == "future" for feature in spec.stream.inputs):
        forms["future_values"] = TensorForm((spec.window.horizon, known), "float32")
    if constant := sum(feature.role == "static" for feature in spec.stream.inputs):
        forms["static_values"] = TensorForm((constant,), "float32")
    if options.on_absolute_steps:
        forms["first_step"] = TensorForm((), "int64")
    if options.scaling == "per_key":
        forms["key"] = TensorForm((), "string")
    return forms


def model_section(spec: Spec) -> ModelSection:
    """The spec's section of its model.

    Raises:
      ModelError: there is none.
    """
    if spec.model is None:
        raise ModelError("$.model: expected a model to train, got none")
    return spec.model
