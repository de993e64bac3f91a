"""The model of a spec: a family amid what all share, so that its inputs and outputs are in original units."""

from __future__ import annotations

from typing import Any

import keras

from models.encoding import decode, encode
from models.families import FAMILIES
from models.families.family import Family, FittedFamily
from models.fitting import State
from models.forms import input_forms, model_section
from models.precision import computing_in
from models.scaling import Constants
from schemas.dataset import Statistics
from schemas.errors import ModelError
from schemas.spec import Spec


def build_forecaster(
    spec: Spec,
    statistics: Statistics,
    *,
    portable: bool = False,
    precision: str = "float32",
    state: State | None = None,
) -> Any:
    """The spec's model, not yet trained.

    Args:
      spec: with a model.
      statistics: of the dataset that it is trained on.
      portable: only operations that every device has; the weights are the same either way.
      precision: what the family's layers compute in, `float32` or `bfloat16`; outputs are float32 either way.
      state: of a family that is fitted without descent, what fitting found; others have none.
    Returns:
      A `keras.Model` from a dict of `input_forms` to a dict of outputs: `mean` float32 (batch, horizon, target), and
      `quantiles` float32 (batch, horizon, target, level) where the model has levels. All in original units; a cell of
      `past_values` that is not finite is missing, whatever `past_observed` says.
    Raises:
      ModelError: the spec has no model, or features that its family cannot take.
    """
    forms, options = input_forms(spec), model_section(spec)
    family = FAMILIES[options.family]
    _require_roles(family, spec, options.family)
    inputs = {name: keras.Input(form.shape, dtype=form.dtype, name=name) for name, form in forms.items()}
    encoding = encode(spec, options, Constants.of(spec, statistics), inputs)
    with computing_in(precision):
        if isinstance(family, FittedFamily):
            if state is None:
                raise ModelError(f"$.model.family: '{options.family}' is built of what fitting found, got nothing")
            moved = family.build(options, encoding.window, portable=portable, state=state)
        else:
            moved = family.build(options, encoding.window, portable=portable)
    outputs = decode(options, encoding, keras.ops.cast(moved, "float32"))
    named = {name: keras.layers.Identity(name=name, dtype="float32")(output) for name, output in outputs.items()}
    return keras.Model(inputs, named, name=options.family)


def _require_roles(family: Family | FittedFamily, spec: Spec, name: str) -> None:
    for feature in spec.stream.features:
        if feature.role in family.refuses:
            raise ModelError(
                f"$.model.family: '{name}' takes no features of the role '{feature.role}', got '{feature.name}'"
            )
