"""Attention over long sequences, by chunks: time and memory grow with the length, not with its square.

Steps become tokens (`PatchStem`); a `ChunkLevel` cuts tokens into chunks, lets the tokens of a chunk attend to each
other and pools each chunk into one vector; these are the tokens of the level above (`UpperLevels`), until one is left.
Chunks are cut so that the last one ends at the last token: padding before the first changes nothing.
"""

from __future__ import annotations

from typing import Any

import keras
from keras import layers, ops

from models.layers.attention_pool import AttentionPool
from models.layers.encoder_block import EncoderBlock


class PatchStem(keras.layers.Layer):  # type: ignore[misc]
    """Makes a token of each `patch` consecutive steps: (n, step, channel) -> (n, ceil(step / patch), width).

    Args:
      width: of a token.
      patch: steps of a token; the first token's are padded where they do not suffice.
      across: tokens on either side that a depthwise convolution mixes into each one; 0 lets every token see its own
        steps only.
    """

    def __init__(self, width: int, patch: int, across: int = 0, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.width, self.patch, self.across = width, patch, across

    def build(self, steps_shape: tuple[int | None, ...], *_: Any) -> None:
        """Makes the weights for steps of that shape."""
        channels = steps_shape[-1]
        if channels is None:
            raise ValueError("expected a known number of channels, got None")
        self.embed = layers.Dense(self.width, dtype=self.dtype_policy, name="embed")
        self.embed.build((None, None, self.patch * (channels + 1)))
        if self.across:
            self.mix = layers.DepthwiseConv1D(2 * self.across + 1, padding="same", dtype=self.dtype_policy, name="mix")
            self.mix.build((None, None, self.width))

    def call(self, steps: Any, present: Any) -> tuple[Any, Any]:
        """Tokens (n, token, width), 0 where nothing is present, of steps float (n, step, channel); and their presence.

        A step that is not `present`, bool (n, step), counts as 0 in each channel; each token is told which steps are.
        """
        count, channels = steps.shape[1:]
        tokens = -(-count // self.patch)
        there = ops.cast(ops.expand_dims(present, -1), steps.dtype)
        told = ops.concatenate((steps * there, there), axis=-1)
        told = ops.pad(told, ((0, 0), (tokens * self.patch - count, 0), (0, 0)))
        some = ops.any(ops.reshape(pad_before(present, tokens * self.patch - count), (-1, tokens, self.patch)), axis=-1)
        gate = ops.cast(ops.expand_dims(some, -1), self.compute_dtype)
        made = self.embed(ops.reshape(told, (-1, tokens, self.patch * (channels + 1)))) * gate
        if self.across:
            made = (made + self.mix(made)) * gate
        return made, some


class ChunkLevel(keras.layers.Layer):  # type: ignore[misc]
    """One level: (n, token, width) -> (n, ceil(token / chunk), width).

    Inside a chunk it is an encoder with learned positions, then a pool; nothing crosses the edge of a chunk. Of a
    sequence of at most `chunk` tokens it is plain, dense attention.

    Args:
      chunk: tokens of a chunk; the first one's are padded where they do not suffice.
      heads: of the attention and of the pool.
      blocks: how many encoder blocks there are.
      dropout: theirs.
    """

    def __init__(self, chunk: int, heads: int, blocks: int, dropout: float = 0.0, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.chunk, self.heads = chunk, heads
        self.blocks = [EncoderBlock(heads, dropout, dtype=self.dtype_policy, name=f"block_{i}") for i in range(blocks)]
        self.normalise = layers.LayerNormalization(epsilon=1e-5, dtype=self.dtype_policy, name="normalise")
        self.pool = AttentionPool(heads, dtype=self.dtype_policy, name="pool")

    def build(self, tokens_shape: tuple[int | None, ...], *_: Any) -> None:
        """Makes the weights, which do not depend on how many tokens there are."""
        width = tokens_shape[-1]
        self.positions = self.add_weight(
            shape=(self.chunk, width), initializer=keras.initializers.RandomNormal(stddev=0.02), name="positions"
        )
        for layer in (*self.blocks, self.normalise, self.pool):
            layer.build((None, self.chunk, width))

    def call(self, tokens: Any, present: Any, training: bool = False) -> tuple[Any, Any, Any]:
        """Encodes and pools each chunk.

        Args:
          tokens: floats (n, token, width).
          present: bool (n, token).
          training: whether there is dropout.
        Returns:
          A vector for each chunk (n, chunk, width), 0 where none of its tokens is present; whether one is, bool
          (n, chunk); and the pool's weights float32 (n, chunk, token of it, head).
        """
        count, width = tokens.shape[1:]
        chunks, size = self._cut(count)
        missing = chunks * size - count
        cut = ops.reshape(ops.pad(tokens, ((0, 0), (missing, 0), (0, 0))), (-1, size, width))
        there = ops.reshape(pad_before(present, missing), (-1, size))
        encoded = cut + ops.cast(self.positions[self.chunk - size :], cut.dtype)
        for block in self.blocks:
            encoded = block(encoded, there, training=training)
        vectors, weights = self.pool(self.normalise(encoded), there)
        return (
            ops.reshape(vectors, (-1, chunks, width)),
            ops.any(ops.reshape(there, (-1, chunks, size)), axis=-1),
            ops.reshape(weights, (-1, chunks, size, self.heads)),
        )

    def _cut(self, tokens: int) -> tuple[int, int]:
        size = min(self.chunk, tokens)
        return -(-tokens // size), size


class UpperLevels(keras.layers.Layer):  # type: ignore[misc]
    """The levels above the lowest: (n, chunk, width) -> (n, width).

    Args:
      levels: how many; they must leave one vector (`levels_above` counts them).
      chunk, heads, blocks, dropout: of each, see `ChunkLevel`.
    """

    def __init__(self, levels: int, chunk: int, heads: int, blocks: int, dropout: float = 0.0, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.levels = [
            ChunkLevel(chunk, heads, blocks, dropout, dtype=self.dtype_policy, name=f"level_{level}")
            for level in range(levels)
        ]

    def build(self, vectors_shape: tuple[int | None, ...], *_: Any) -> None:
        """Makes the weights, which do not depend on how many vectors there are."""
        for level in self.levels:
            level.build(vectors_shape)

    def call(self, vectors: Any, present: Any, training: bool = False) -> tuple[Any, list[Any]]:
        """The vector of the whole, (n, width), 0 where nothing is present, and each level's weights."""
        found = []
        for level in self.levels:
            vectors, present, weights = level(vectors, present, training=training)
            found.append(weights)
        return ops.squeeze(vectors, axis=1), found


def levels_above(chunks: int, chunk: int) -> int:
    """How many levels make one vector of those of so many chunks."""
    levels = 0
    while chunks > 1:
        chunks = -(-chunks // chunk)
        levels += 1
    return levels


def pad_before(present: Any, count: int) -> Any:
    """Puts `count` columns of False before bool (n, column)."""
    return ops.pad(present, ((0, 0), (count, 0)), constant_values=False)


def relevance(weights: list[Any]) -> Any:
    """What each token of the lowest level weighs in the top vector: the product of the pools' weights above it.

    Args:
      weights: of each level from the lowest, float32 (n, chunk, token of it, head); the highest has one chunk.
    Returns:
      float32 (n, chunk * token of it) of the lowest level, its padding first; over the tokens it adds up to 1, or to 0
      where none is present. A level's weight is the mean over its heads.
    """
    mass = None
    for level in reversed(weights):
        chunks, size = level.shape[1:3]
        share = ops.mean(level, axis=-1)
        if mass is not None:
            share = share * ops.expand_dims(mass[:, -chunks:], -1)
        mass = ops.reshape(share, (-1, chunks * size))
    return mass
