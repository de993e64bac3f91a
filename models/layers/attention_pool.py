"""Pools a sequence of tokens into one vector by learned attention."""

from __future__ import annotations

from typing import Any

import keras
from keras import layers, ops

_NEVER = -1e9
"""The score of a token that is not present: it is never the highest, unless none is present."""


class AttentionPool(keras.layers.Layer):  # type: ignore[misc]
    """(n, token, width) -> (n, width), a weighted mean of projected tokens, for each head by weights of its own.

    A token's score is what a learned query makes of a hidden layer over it, as the context vector does in hierarchical
    attention networks (Yang et al., 2016). The heads' means are laid side by side.

    Args:
      heads: how many queries there are; it divides the width.
    """

    def __init__(self, heads: int = 1, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.heads = heads
        self.supports_masking = True  # `present` says it; a mask that Keras hands on says the same

    def build(self, tokens_shape: tuple[int | None, ...], *_: Any) -> None:
        """Makes the weights for tokens of that shape."""
        width = tokens_shape[-1]
        if width is None or width % self.heads:
            raise ValueError(f"expected a width of which {self.heads} heads are a divisor, got {width}")
        self.hidden = layers.Dense(width, activation="tanh", dtype=self.dtype_policy, name="hidden")
        self.query = layers.Dense(self.heads, use_bias=False, dtype=self.dtype_policy, name="query")
        # Without a bias: nothing present must give nothing.
        self.value = layers.Dense(width, use_bias=False, dtype=self.dtype_policy, name="value")
        self.hidden.build(tokens_shape)
        self.query.build((*tokens_shape[:-1], width))
        self.value.build(tokens_shape)

    def call(self, tokens: Any, present: Any) -> tuple[Any, Any]:
        """Pools.

        Args:
          tokens: floats (n, token, width).
          present: bool (n, token).
        Returns:
          The pooled vectors (n, width), 0 where no token is present; and the weights float32 (n, token, head), which
          add up to 1 over the tokens, or to 0 where none is present.
        """
        count, width = ops.shape(tokens)[1], tokens.shape[-1]
        scores = ops.cast(self.query(self.hidden(tokens)), "float32")
        weights = softmax_of_present(scores, ops.expand_dims(present, -1))
        # (n, head, 1, token) x (n, head, token, width of a head)
        values = ops.reshape(self.value(tokens), (-1, count, self.heads, width // self.heads))
        rows = ops.expand_dims(ops.transpose(weights, (0, 2, 1)), 2)
        pooled = ops.matmul(ops.cast(rows, values.dtype), ops.transpose(values, (0, 2, 1, 3)))
        return ops.reshape(pooled, (-1, width)), weights


def softmax_of_present(scores: Any, present: Any) -> Any:
    """Softmax over axis 1 of float32 scores (n, token, ...), of what is `present`, bool of a shape that broadcasts.

    Returns:
      As many weights, 0 where not present; over the tokens they add up to 1, or to 0 where none is present.
    """
    masked = ops.where(present, scores, _NEVER)
    powers = ops.exp(masked - ops.stop_gradient(ops.max(masked, axis=1, keepdims=True)))
    powers = powers * ops.cast(present, "float32")
    # Where anything is present the highest power is 1, so this only keeps 0 / 0 away.
    return powers / ops.maximum(ops.sum(powers, axis=1, keepdims=True), 0.5)
