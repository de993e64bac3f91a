"""Attention that shows its weights."""

from __future__ import annotations

import math
from typing import Any

import keras
from keras import layers, ops


class WeightedAttention(keras.layers.Layer):  # type: ignore[misc]
    """Multi-head attention (Vaswani et al., 2017): what each query finds, and how much it looked at each key.

    Args:
      heads: it divides the width.
      dropout: share of weights that training leaves out.
    """

    def __init__(self, heads: int, dropout: float = 0.0, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.heads, self.rate = heads, dropout

    def build(self, queries_shape: tuple[int | None, ...], keys_shape: tuple[int | None, ...]) -> None:
        """Makes the weights for queries and keys of these shapes, of the same width."""
        width = queries_shape[-1]
        if width is None or width % self.heads:
            raise ValueError(f"expected a width of which {self.heads} heads are a divisor, got {width}")
        policy = self.dtype_policy
        self.query = layers.Dense(width, dtype=policy, name="query")
        self.key = layers.Dense(width, use_bias=False, dtype=policy, name="key")  # a bias would change no weight
        self.value = layers.Dense(width, dtype=policy, name="value")
        self.together = layers.Dense(width, dtype=policy, name="together")
        self.dropout = layers.Dropout(self.rate, dtype=policy, name="dropout")
        for dense, shape in ((self.query, queries_shape), (self.key, keys_shape), (self.value, keys_shape)):
            dense.build(shape)
        self.together.build(queries_shape)

    def call(self, queries: Any, keys: Any, training: bool = False) -> tuple[Any, Any]:
        """Looks up, for each of `queries`, floats (n, query, width), in `keys`, floats (n, key, width).

        Returns:
          What was found, floats (n, query, width); and the weights, float32 (n, head, query, key), which add up to 1
          over the keys.
        """
        query, key, value = self._apart(self.query(queries)), self._apart(self.key(keys)), self._apart(self.value(keys))
        scale = 1 / math.sqrt(query.shape[-1])
        scores = ops.matmul(query * scale, ops.transpose(key, (0, 1, 3, 2)))
        scores = ops.cast(scores, "float32")
        weights = ops.exp(scores - ops.logsumexp(scores, axis=-1, keepdims=True))
        found = ops.matmul(ops.cast(self.dropout(weights, training=training), value.dtype), value)
        found = ops.reshape(ops.transpose(found, (0, 2, 1, 3)), (-1, queries.shape[1], queries.shape[2]))
        return self.together(found), weights

    def _apart(self, tokens: Any) -> Any:
        """(n, token, width) -> (n, head, token, width of a head)."""
        count, width = tokens.shape[1:]
        return ops.transpose(ops.reshape(tokens, (-1, count, self.heads, width // self.heads)), (0, 2, 1, 3))
