"""Levels of attention over chunks of the past: tens of thousands of steps in linear time and memory.

Patches of steps are tokens. The tokens of a chunk attend to each other and are pooled into one vector by learned
queries; these vectors are the tokens of the level above, until one is left (hierarchical attention, Yang et al., 2016;
with encoder blocks inside the chunks, as in Hi-Transformer, Wu et al., 2021). It goes to the head, beside a linear path
from the last steps.

Where the model is **cacheable**, chunks are cut on absolute step numbers and nothing crosses a chunk's edge below the
levels above. So the summary of a whole chunk is the same in every window that has it, and an event costs the encoding
of the ragged chunks and the levels above. `pipelines.kernels.long_context` tells which chunks these are.

An exported model has these signatures more, the last two where it is cacheable:

- `attention` takes the model's inputs and gives `relevance` float32 (batch, past), what each step weighs in the vector
  of the whole, and `level_1`, `level_2`, ... float32 (batch, chunk, token), the weights of each level's pool, the mean
  over its heads. Where targets are independent, an axis for them follows the batch.
- `encode_chunk` takes `chunk_values` float32 (batch, step, feature), NaN where masked, outside of the window or yet to
  come, `chunk_observed` bool, the same shape, and `key` as the model does. It gives `summary` float32 (batch, unit) and
  `present` bool (batch,).
- `predict_from_summaries` takes `summaries` float32 (batch, slot, unit) and `present` bool (batch, slot) of a window's
  chunks, only the last `recent` steps as `past_values` and `past_observed`, and what else the model takes: the future,
  the statics, the key. It gives the model's outputs.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import keras
from keras import ops

from models.encoding import decode, encode
from models.families import parts
from models.layers.chunks import ChunkLevel, PatchStem, UpperLevels, levels_above, relevance
from models.layers.slots import FromSlots, ToSlots
from models.scaling import Constants
from models.window import EncodedWindow
from pipelines.kernels.long_context import ChunkLayout
from schemas.model_spec import HierarchicalModel
from schemas.spec import Spec

NEIGHBOURS = 2
"""Tokens on either side that the stem mixes into each one, unless chunks must stand for themselves."""

_STEM, _LOWEST, _UPPER, _HEAD = "stem", "lowest", "upper", "head"


def build(options: HierarchicalModel, window: EncodedWindow, *, portable: bool) -> Any:  # noqa: ARG001
    """Builds the family; see `models.families.family`."""
    steps, present = window.past, window.present
    if options.cacheable:
        slots = ToSlots(layout_of(options, steps.shape[1]))
        steps, present = slots(steps, present, window.first_step)
    stem = PatchStem(options.units, options.patch, 0 if options.cacheable else NEIGHBOURS, name=_STEM)
    lowest = ChunkLevel(options.chunk, options.heads, options.layers, options.dropout, name=_LOWEST)
    vectors, there, _ = lowest(*stem(steps, present))
    levels = levels_above(vectors.shape[1], options.chunk)
    upper = UpperLevels(levels, options.chunk, options.heads, options.layers, options.dropout, name=_UPPER)
    state, _ = upper(vectors, there)
    recent = replace(window, target=window.target[:, -options.recent :])
    return _head(options, recent)(_given(recent, state))


def layout_of(options: HierarchicalModel, past: int) -> ChunkLayout:
    """How a cacheable model cuts windows of so many steps."""
    return ChunkLayout.of(options, past)


def _given(window: EncodedWindow, state: Any) -> dict[str, Any]:
    """What the head is given, by name."""
    parts_of_window = {name: getattr(window, name) for name in ("target", "future", "static", "channel")}
    return {"state": state} | {name: part for name, part in parts_of_window.items() if part is not None}


def _head(options: HierarchicalModel, window: EncodedWindow) -> Any:
    """The head as a model of its own, so that it can be given a state of another origin."""
    inputs = {
        "state": keras.Input((options.units,), dtype=keras.config.floatx(), name="state"),
        **{
            name: keras.Input(part.shape[1:], dtype=part.dtype, name=name)
            for name, part in _given(window, None).items()
            if part is not None
        },
    }
    inner = replace(window, **{name: part for name, part in inputs.items() if name != "state"})
    return keras.Model(inputs, parts.head(inner, inputs["state"], dropout=options.dropout), name=_HEAD)


def signatures(spec: Spec, constants: Constants, model: Any) -> Mapping[str, Any]:
    """What a model can do beyond forecasting; see `models.families.family`."""
    options = spec.model
    assert isinstance(options, HierarchicalModel)
    found = {"attention": _attention(spec, options, model)}
    if options.cacheable:
        found["encode_chunk"] = _encode_chunk(spec, options, constants, model)
        found["predict_from_summaries"] = _predict_from_summaries(spec, options, constants, model)
    return found


def _attention(spec: Spec, options: HierarchicalModel, model: Any) -> Any:
    """What each step weighs in the vector of the whole, and the weights of each level, lowest first."""
    _, present = model.get_layer(_STEM).input
    _, _, lowest = model.get_layer(_LOWEST).output
    state_and_above = model.get_layer(_UPPER).output
    weights = [lowest, *(state_and_above[1:] if isinstance(state_and_above, list) else [])]
    of_steps = _of_steps(relevance(weights), present, options.patch)
    if options.cacheable:
        of_steps = FromSlots(layout_of(options, spec.window.past))(of_steps, model.input["first_step"])
    outputs = {"relevance": of_steps}
    outputs |= {f"level_{number}": ops.mean(level, axis=-1) for number, level in enumerate(weights, start=1)}
    if options.channels == "independent":
        targets = len(spec.targets)
        outputs = {name: ops.reshape(part, (-1, targets, *part.shape[1:])) for name, part in outputs.items()}
    return keras.Model(model.input, outputs)


def _of_steps(of_tokens: Any, present: Any, patch: int) -> Any:
    """The relevance of each step, float32 (n, step): a token's is that of its present steps, in equal parts."""
    steps = present.shape[1]
    tokens = -(-steps // patch)
    there = ops.pad(ops.cast(present, "float32"), ((0, 0), (tokens * patch - steps, 0)))
    there = ops.reshape(there, (-1, tokens, patch))
    share = there / ops.maximum(ops.sum(there, axis=-1, keepdims=True), 1.0)
    spread = ops.reshape(share * of_tokens[:, -tokens:, None], (-1, tokens * patch))
    return spread[:, tokens * patch - steps :]


def _encode_chunk(spec: Spec, options: HierarchicalModel, constants: Constants, model: Any) -> Any:
    chunk = layout_of(options, spec.window.past).chunk
    features = len(spec.stream.inputs)
    inputs = _inputs(model, ("key",)) | {
        "chunk_values": keras.Input((chunk, features), dtype="float32", name="chunk_values"),
        "chunk_observed": keras.Input((chunk, features), dtype="bool", name="chunk_observed"),
    }
    steps = {"past_values": inputs["chunk_values"], "past_observed": inputs["chunk_observed"]}
    window = encode(spec, options, constants, inputs | steps).window
    vectors, present, _ = model.get_layer(_LOWEST)(*model.get_layer(_STEM)(window.past, window.present))
    return keras.Model(inputs, {"summary": vectors[:, 0], "present": present[:, 0]})


def _predict_from_summaries(spec: Spec, options: HierarchicalModel, constants: Constants, model: Any) -> Any:
    slots = layout_of(options, spec.window.past).slots
    recent, features = min(options.recent, spec.window.past), len(spec.stream.inputs)
    inputs = _inputs(model, ("key", "future_values", "static_values")) | {
        "summaries": keras.Input((slots, options.units), dtype="float32", name="summaries"),
        "present": keras.Input((slots,), dtype="bool", name="present"),
        "past_values": keras.Input((recent, features), dtype="float32", name="past_values"),
        "past_observed": keras.Input((recent, features), dtype="bool", name="past_observed"),
    }
    encoding = encode(spec, options, constants, inputs)
    state, _ = model.get_layer(_UPPER)(inputs["summaries"], inputs["present"])
    moved = model.get_layer(_HEAD)(_given(encoding.window, state))
    return keras.Model(inputs, decode(options, encoding, moved))


def _inputs(model: Any, names: tuple[str, ...]) -> dict[str, Any]:
    """Inputs like the model's own of those names, as far as it has them."""
    return {
        name: keras.Input(tensor.shape[1:], dtype=tensor.dtype, name=name)
        for name, tensor in model.input.items()
        if name in names
    }
