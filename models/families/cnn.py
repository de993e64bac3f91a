"""Convolutions over patches of the past.

`dilated`: causal convolutions whose reach doubles with each layer (Bai et al., 2018, after WaveNet); the last patch's
vector has seen all before it. `wide`: depthwise convolutions that reach over tens of patches at once, and a pointwise
net that mixes their channels, as in ModernTCN (Luo & Wang, 2024); all patches go to the head.
"""

from __future__ import annotations

from typing import Any

from keras import layers, ops

from models.families import parts
from models.window import EncodedWindow
from schemas.model_spec import CnnModel


def build(options: CnnModel, window: EncodedWindow, *, portable: bool) -> Any:  # noqa: ARG001
    """Builds the family; see `models.families.family`."""
    state = parts.patches(window.past, options.patch, options.stride, options.units)
    for layer in range(options.layers):
        inner = _dilated(options, state, layer) if options.kind == "dilated" else _wide(options, state)
        state = state + inner if options.shortcuts else inner
    state = layers.LayerNormalization()(state)
    if window.classified:
        state = parts.pyramid(window, state, options.patch, options.stride)
    elif options.kind == "dilated":
        state = state[:, -1]
    else:
        # Narrowed first: the head has a weight for each number of each patch and each step of the horizon.
        state = layers.Flatten()(layers.Dense(max(1, options.units // 4))(state))
    return parts.head(window, state, dropout=options.dropout)


def _dilated(options: CnnModel, state: Any, layer: int) -> Any:
    # As slices and one product: no device lacks it, and on a CPU it is faster than a dilated convolution.
    inner = layers.LayerNormalization()(state) if options.shortcuts else state
    steps, kernel, dilation = inner.shape[1], options.kernel or 3, 2**layer
    reach = min((kernel - 1) * dilation, dilation * ((steps - 1) // dilation))
    padded = ops.pad(inner, ((0, 0), (reach, 0), (0, 0)))
    inner = parts.joined([padded[:, first : first + steps] for first in range(0, reach + 1, dilation)])
    inner = layers.Activation(options.activation)(layers.Dense(options.units)(inner))
    return layers.Dropout(options.dropout)(inner)


def _wide(options: CnnModel, state: Any) -> Any:
    inner = layers.LayerNormalization()(state) if options.shortcuts else state
    inner = layers.DepthwiseConv1D(options.kernel or 25, padding="same")(inner)
    inner = layers.Activation(options.activation)(layers.Dense(2 * options.units)(inner))
    return layers.Dropout(options.dropout)(layers.Dense(options.units)(inner))
