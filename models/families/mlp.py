"""Layers of neurons over the whole past at once.

Each layer normalises, transforms and adds to what came in (He et al., 2016; normalised first, as in Xiong et al.,
2020), so that the gradient reaches the first of many layers as it left the last. Without shortcuts it is a plain stack.
"""

from __future__ import annotations

from typing import Any

from keras import layers

from models.families import parts
from models.window import EncodedWindow
from schemas.model_spec import MlpModel


def build(options: MlpModel, window: EncodedWindow, *, portable: bool) -> Any:  # noqa: ARG001
    """Builds the family; see `models.families.family`."""
    state = layers.Dense(options.units)(layers.Flatten()(window.past))
    for _ in range(options.layers):
        inner = layers.LayerNormalization()(state) if options.shortcuts else state
        inner = layers.Activation(options.activation)(inner)
        inner = layers.Dropout(options.dropout)(inner)
        inner = layers.Dense(options.units)(inner)
        state = state + inner if options.shortcuts else inner
    if options.shortcuts:
        state = layers.LayerNormalization()(state)
    return parts.head(window, layers.Activation(options.activation)(state), dropout=options.dropout)
