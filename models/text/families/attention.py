"""A Transformer encoder (Vaswani et al., 2017), pooled by attention."""

from __future__ import annotations

from typing import Any

import keras
from keras import layers, ops

from models.layers.attention_pool import AttentionPool
from models.layers.encoder_block import EncoderBlock
from models.text.encoded import EncodedText
from schemas.text_model_spec import TextAttentionModel


def build(options: TextAttentionModel, text: EncodedText, *, portable: bool) -> Any:  # noqa: ARG001
    """Builds the family; see `models.text.families`."""
    tokens = AddPositions(text.length + 1)(text.tokens)
    for _ in range(options.layers):
        tokens = EncoderBlock(options.heads, options.dropout)(tokens, text.present)
    tokens = layers.LayerNormalization(epsilon=1e-5)(tokens)
    return AttentionPool()(tokens, text.present)[0]


class AddPositions(keras.layers.Layer):  # type: ignore[misc]
    """Adds to each token what is learned of its place: (n, token, width) -> the same.

    Args:
      length: at most so many tokens.
    """

    def __init__(self, length: int, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.length = length

    def build(self, tokens_shape: tuple[int | None, ...]) -> None:
        """Makes the weights for tokens of that shape."""
        self.places = self.add_weight((self.length, tokens_shape[-1]), "random_uniform", name="places")

    def call(self, tokens: Any) -> Any:
        """Adds them."""
        return tokens + self.places[: ops.shape(tokens)[1]]
