"""Recurrent layers over the tokens, and what their states say together: the families `rnn` and `lstm`."""

from __future__ import annotations

from typing import Any

from keras import layers, ops

from models.layers.attention_pool import AttentionPool
from models.text.encoded import EncodedText
from schemas.text_model_spec import RecurrentTextModel, TextLstmModel

_LEAST = -1.0
"""No state is lower."""


def build(options: RecurrentTextModel, text: EncodedText, *, portable: bool) -> Any:
    """Builds the family; see `models.text.families`."""
    states = text.tokens
    kind = layers.LSTM if isinstance(options, TextLstmModel) else layers.GRU
    for _ in range(options.layers):
        layer = kind(options.units, return_sequences=True, use_cudnn=False if portable else "auto")
        layer = layers.Bidirectional(layer) if options.bidirectional else layer
        states = layer(states, mask=text.present)
    if options.pooling == "attention":
        return AttentionPool()(states, text.present)[0]
    return ops.max(ops.where(ops.expand_dims(text.present, -1), states, _LEAST), axis=1)
