"""A Transformer encoder over patches of the past, as in PatchTST (Nie et al., 2023).

Where something is known of the future, the horizon is cut into segments. Each has a query, which attends to the patches
of the past and to what is known of every segment, and becomes the forecast of its steps.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import keras
from keras import layers, ops

from models.families import parts
from models.layers.weighted_attention import WeightedAttention
from models.scaling import Constants
from models.window import EncodedWindow
from schemas.model_spec import AttentionModel
from schemas.spec import Spec

_WITHIN, _ACROSS = "attention_within_{}", "attention_across"


def build(options: AttentionModel, window: EncodedWindow, *, portable: bool) -> Any:  # noqa: ARG001
    """Builds the family; see `models.families.family`."""
    state = parts.patches(window.past, options.patch, options.stride, options.units)
    state = parts.Positions(state.shape[1], options.units)(state)
    for layer in range(options.layers):
        normal = _norm(options)(state)
        attention = WeightedAttention(options.heads, options.dropout, name=_WITHIN.format(layer))
        found, _ = attention(normal, normal)
        state = state + layers.Dropout(options.dropout)(found)
        state = state + _feed_forward(options, _norm(options)(state))
    state = _norm(options)(state)
    if window.classified:
        state = parts.pyramid(window, state, options.patch, options.stride)
        return parts.head(window, state, dropout=options.dropout)
    if window.future is None:
        return parts.head(window, layers.Flatten()(state), dropout=options.dropout)
    return _decode(options, window, state)


def _decode(options: AttentionModel, window: EncodedWindow, state: Any) -> Any:
    known = parts.horizon_segments(window.future, options.patch)
    count = known.shape[1]
    known = layers.Dense(options.units)(known)
    told = ops.zeros_like(known[:, :1])
    if (constant := parts.context(window)) is not None:
        told = told + layers.Dense(options.units)(constant)[:, None]
    queries = parts.Positions(count, options.units)(told)
    memory = ops.concatenate((state, parts.Positions(count, options.units)(known)), axis=1)
    attention = WeightedAttention(options.heads, options.dropout, name=_ACROSS)
    found, _ = attention(_norm(options)(queries), _norm(options)(memory))
    queries = queries + layers.Dropout(options.dropout)(found)
    queries = queries + _feed_forward(options, _norm(options)(queries))
    return parts.beside_linear(window, parts.segment_head(window, _norm(options)(queries), options.patch))


def signatures(spec: Spec, constants: Constants, model: Any) -> Mapping[str, Any]:  # noqa: ARG001
    """`attention`: how much each patch of the past looked at each other one, and at the known future.

    From the model's inputs to `within` float32 (batch, layer, head, patch, patch), and where something is known of the
    future `across` (batch, head, segment of the horizon, patch of the past and then segment of the horizon). Weights of
    what is looked at add up to 1. Where the channels are independent, a target's axis comes after the batch.
    """
    options = spec.model
    assert isinstance(options, AttentionModel)

    def weights(name: str) -> Any:
        found = model.get_layer(name).output[1]
        if options.channels == "together":
            return found
        return ops.reshape(found, (-1, len(spec.targets), *found.shape[1:]))

    within = [weights(_WITHIN.format(layer)) for layer in range(options.layers)]
    outputs = {"within": ops.stack(within, axis=1 if options.channels == "together" else 2)}
    if any(layer.name == _ACROSS for layer in model.layers):
        outputs["across"] = weights(_ACROSS)
    named = {name: layers.Identity(name=name)(output) for name, output in outputs.items()}
    return {"attention": keras.Model(model.input, named)}


def _norm(options: AttentionModel) -> Any:
    return layers.BatchNormalization() if options.norm == "batch" else layers.LayerNormalization()


def _feed_forward(options: AttentionModel, tokens: Any) -> Any:
    hidden = layers.Dense(options.feed_forward, activation=options.activation)(tokens)
    hidden = layers.Dropout(options.dropout)(hidden)
    return layers.Dropout(options.dropout)(layers.Dense(options.units)(hidden))
