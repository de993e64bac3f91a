"""The model of a spec: a family amid what all share, so that its inputs and outputs are in original units."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import keras

from models.classes import LOGITS
from models.encoding import decode, encode
from models.families import FAMILIES
from models.families.family import Family, FittedFamily
from models.fitting import State
from models.forms import input_forms, model_section
from models.mixture import member_name, mixed_logits, outputs_of, weighted_mean
from models.precision import computing_in
from models.scaling import Constants
from schemas.dataset import Statistics
from schemas.errors import ModelError
from schemas.model_spec import EnsembleModel
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
      state: of a family that is fitted without descent, what fitting found, and of an ensemble what `of_members` made
        of its members'; others have none.
    Returns:
      A `keras.Model` from a dict of `input_forms` to a dict of outputs: `mean` float32 (batch, horizon, target), and
      `quantiles` float32 (batch, horizon, target, level) where the model has levels. All in original units; a cell of
      `past_values` that is not finite is missing, whatever `past_observed` says. Of a stream with a label the one
      output is `logits` float32 (batch, class).
    Raises:
      ModelError: the spec has no model, or features that its family cannot take.
    """
    forms, options = input_forms(spec), model_section(spec)
    if isinstance(options, EnsembleModel):
        return _build_ensemble(spec, options, statistics, portable, precision, state or {})
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
    moved = keras.ops.cast(moved, "float32")
    if spec.classes:
        outputs = {LOGITS: keras.ops.reshape(moved, (-1, len(spec.classes)))}
    else:
        outputs = decode(options, encoding, moved)
    named = {name: keras.layers.Identity(name=name, dtype="float32")(output) for name, output in outputs.items()}
    return keras.Model(inputs, named, name=options.family)


def of_members(states: Sequence[State | None]) -> State | None:
    """The state of an ensemble, from those of its members; None where none has one."""
    found = {
        f"{member_name(number)}.{name}": value
        for number, state in enumerate(states)
        for name, value in (state or {}).items()
    }
    return found or None


def _build_ensemble(
    spec: Spec, options: EnsembleModel, statistics: Statistics, portable: bool, precision: str, state: State
) -> Any:
    """The members beside each other, and the weighted means of their outputs, of classes of their shares."""
    inputs = {name: keras.Input(form.shape, dtype=form.dtype, name=name) for name, form in input_forms(spec).items()}
    members = []
    for number, section in enumerate(options.sections):
        prefix = f"{member_name(number)}."
        own = {name.removeprefix(prefix): value for name, value in state.items() if name.startswith(prefix)}
        alone = spec.model_copy(update={"model": section})
        members.append(build_forecaster(alone, statistics, portable=portable, precision=precision, state=own or None))
    found = outputs_of(members, inputs)
    put_together = mixed_logits if spec.classes else weighted_mean
    outputs = {name: put_together(options.weights, [each[name] for each in found]) for name in found[0]}
    named = {name: keras.layers.Identity(name=name, dtype="float32")(output) for name, output in outputs.items()}
    return keras.Model(inputs, named, name=options.family)


def _require_roles(family: Family | FittedFamily, spec: Spec, name: str) -> None:
    for feature in spec.stream.inputs:
        if feature.role in family.refuses:
            raise ModelError(
                f"$.model.family: '{name}' takes no features of the role '{feature.role}', got '{feature.name}'"
            )
