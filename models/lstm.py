"""LSTM over segments of the past, with a direct head for all horizon steps.

One token is a segment of consecutive steps rather than a step, as in SegRNN (Lin et al., 2023): the recurrence is
short, so it is fast and its gradients are sound.
"""

from __future__ import annotations

from typing import Any

from keras import layers, ops

from models.window import EncodedWindow
from schemas.model_spec import LstmModel


def build(options: LstmModel, window: EncodedWindow, *, portable: bool) -> Any:
    """Builds the family; see `models.families`."""
    past, channels = window.past.shape[1:]
    segment = min(options.segment, past)
    tokens = -(-past // segment)
    # What is missing of the first segment is padded before the past, so that the last segment ends at the origin.
    padded = ops.pad(window.past, ((0, 0), (tokens * segment - past, 0), (0, 0)))
    state = ops.reshape(padded, (-1, tokens, segment * channels))
    state = layers.Dense(options.units, activation="relu")(state)
    for layer in range(1, options.layers + 1):
        state = layers.Dropout(options.dropout)(state)
        state = layers.LSTM(
            options.units, return_sequences=layer < options.layers, use_cudnn=False if portable else "auto"
        )(state)
    state = layers.Dropout(options.dropout)(state)

    targets = window.target.shape[-1]
    recent = layers.Flatten()(window.target)  # straight to the head: the linear forecast that the state corrects
    known = [] if window.future is None else [layers.Flatten()(window.future)]
    moved = layers.Dense(window.horizon * targets)(layers.Concatenate()([state, recent, *known]))
    return ops.reshape(moved, (-1, window.horizon, targets))
