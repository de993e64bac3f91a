"""A block of a Transformer encoder."""

from __future__ import annotations

from typing import Any

import keras
from keras import layers, ops


class EncoderBlock(keras.layers.Layer):  # type: ignore[misc]
    """Self-attention and a feed-forward net, each on normalised tokens and beside a shortcut (Xiong et al., 2020).

    (n, token, width) -> the same. Every token attends to all present tokens of its row.

    Args:
      heads: of the attention; it divides the width.
      dropout: share of activations that training leaves out, of either part.
      expansion: width of the hidden layer in widths of a token.
    """

    def __init__(self, heads: int, dropout: float = 0.0, expansion: int = 2, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.heads, self.rate, self.expansion = heads, dropout, expansion

    def build(self, tokens_shape: tuple[int | None, ...], *_: Any) -> None:
        """Makes the weights for tokens of that shape."""
        width = tokens_shape[-1]
        if width is None or width % self.heads:
            raise ValueError(f"expected a width of which {self.heads} heads are a divisor, got {width}")
        hidden = width * self.expansion
        policy = self.dtype_policy
        self.before_attention = layers.LayerNormalization(epsilon=1e-5, dtype=policy, name="before_attention")
        # Without biases: that of the keys moves all scores of a query alike, and the net's stand in for the others.
        self.attention = layers.MultiHeadAttention(
            self.heads, width // self.heads, use_bias=False, flash_attention=False, dtype=policy, name="attention"
        )
        self.before_net = layers.LayerNormalization(epsilon=1e-5, dtype=policy, name="before_net")
        self.widen = layers.Dense(hidden, activation="gelu", dtype=policy, name="widen")
        self.narrow = layers.Dense(width, dtype=policy, name="narrow")
        self.dropout = layers.Dropout(self.rate, dtype=policy, name="dropout")
        self.before_attention.build(tokens_shape)
        self.attention.build(tokens_shape, tokens_shape)
        self.before_net.build(tokens_shape)
        self.widen.build(tokens_shape)
        self.narrow.build((*tokens_shape[:-1], hidden))

    def call(self, tokens: Any, present: Any, training: bool = False) -> Any:
        """The tokens, float (n, token, width), each with what it found in those that are `present`, bool (n, token)."""
        normal = self.before_attention(tokens)
        found = self.attention(normal, normal, attention_mask=ops.expand_dims(present, 1), training=training)
        tokens = tokens + self.dropout(found, training=training)
        made = self.narrow(self.widen(self.before_net(tokens)))
        return tokens + self.dropout(made, training=training)
