"""Attention by chunks: what must hold of it for every length, every mask and every cut."""

from __future__ import annotations

import math
from typing import Any

import keras
import numpy as np
import pytest
import tensorflow as tf
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from models.layers.chunks import ChunkLevel, PatchStem, UpperLevels, levels_above, relevance
from models.layers.encoder_block import EncoderBlock

Array = NDArray[Any]

CHANNELS, WIDTH, PATCH, CHUNK, HEADS = 2, 8, 3, 4, 2


class Encoder:
    """Stem, lowest level and two above it: enough for 4 * 4 * 4 tokens."""

    def __init__(self, *, across: int = 0, seed: int = 0) -> None:
        keras.utils.set_random_seed(seed)
        self.stem = PatchStem(WIDTH, PATCH, across)
        self.lowest = ChunkLevel(CHUNK, HEADS, blocks=1)
        self.upper = UpperLevels(2, CHUNK, HEADS, blocks=1)
        self(np.zeros((1, 3, CHANNELS), np.float32), np.ones((1, 3), bool))
        for weight in self.weights:  # away from zero, so that no bias or position can be forgotten unnoticed
            weight.assign_add(tf.random.stateless_normal(weight.shape, (seed, len(weight.path)), stddev=0.2))

    @property
    def weights(self) -> list[Any]:
        return [*self.stem.weights, *self.lowest.weights, *self.upper.weights]

    def __call__(self, steps: Array, present: Array) -> tuple[Any, list[Any]]:
        vectors, there, weights = self.lowest(*self.stem(steps, present))
        vector, above = self.upper(vectors, there)
        return vector, [weights, *above]


@pytest.fixture(scope="module", params=[0, 1])
def encoder(request: pytest.FixtureRequest) -> Encoder:
    return Encoder(across=request.param)


def steps_of(length: int, seed: int = 0, rows: int = 2) -> tuple[Array, Array]:
    rng = np.random.default_rng(seed)
    return rng.normal(size=(rows, length, CHANNELS)).astype(np.float32), rng.random((rows, length)) < 0.7


@settings(max_examples=6, deadline=None)
@given(length=st.integers(1, 40), before=st.integers(0, 60), seed=st.integers(0, 99))
def test_padding_before_the_first_step_changes_nothing(encoder: Encoder, length: int, before: int, seed: int) -> None:
    steps, present = steps_of(length, seed)
    rubbish = np.full((2, before, CHANNELS), 1e6, np.float32)
    padded = np.concatenate((rubbish, steps), axis=1), np.pad(present, ((0, 0), (before, 0)))
    np.testing.assert_allclose(encoder(*padded)[0], encoder(steps, present)[0], rtol=1e-5, atol=1e-5)


@settings(max_examples=4, deadline=None)
@given(length=st.integers(1, 60), seed=st.integers(0, 99))
def test_what_is_not_present_changes_nothing_to_the_bit(encoder: Encoder, length: int, seed: int) -> None:
    steps, present = steps_of(length, seed)
    other = np.where(present[..., None], steps, np.float32(-1e6))
    np.testing.assert_array_equal(encoder(other, present)[0], encoder(steps, present)[0])


def test_a_row_without_anything_present_gives_zero(encoder: Encoder) -> None:
    steps, present = steps_of(100)
    present[1] = False
    vector, weights = encoder(steps, present)
    assert np.isfinite(vector).all()
    assert np.abs(vector[0]).max() > 0
    np.testing.assert_array_equal(vector[1], np.zeros(WIDTH))
    np.testing.assert_allclose(np.sum(relevance(weights), axis=1), [1, 0], rtol=1e-6)


def test_a_chunk_without_anything_present_gives_zero_and_counts_for_nothing() -> None:
    level = ChunkLevel(CHUNK, HEADS, blocks=1)
    tokens = np.random.default_rng(0).normal(size=(1, 12, WIDTH)).astype(np.float32)
    present = np.ones((1, 12), bool)
    present[0, 4:8] = False
    vectors, there, _ = level(tokens, present)
    assert there.numpy().tolist() == [[True, False, True]]
    np.testing.assert_array_equal(vectors[0, 1], np.zeros(WIDTH))


# --- dense attention, written out ---


def layer_norm(tokens: Array, layer: Any) -> Array:
    gamma, beta = layer.get_weights()
    spread = np.sqrt(tokens.var(-1, keepdims=True) + 1e-5)
    outcome: Array = (tokens - tokens.mean(-1, keepdims=True)) / spread * gamma + beta
    return outcome


def softmax(scores: Array) -> Array:
    outcome: Array = np.exp(scores) / np.exp(scores).sum(-1, keepdims=True)
    return outcome


def dense_block(tokens: Array, block: EncoderBlock) -> Array:
    """A block over the tokens of one row, all present: (token, width)."""
    query, key, value, out = block.attention.get_weights()
    normal = layer_norm(tokens, block.before_attention)
    found = np.zeros_like(tokens)
    for head in range(HEADS):
        q, k, v = (normal @ kernel[:, head] for kernel in (query, key, value))
        found += softmax(q @ k.T / math.sqrt(WIDTH // HEADS)) @ v @ out[head]
    tokens = tokens + found
    widen, widen_bias = block.widen.get_weights()
    narrow, narrow_bias = block.narrow.get_weights()
    hidden = layer_norm(tokens, block.before_net) @ widen + widen_bias
    hidden = hidden * 0.5 * (1 + np.vectorize(math.erf)(hidden / math.sqrt(2)))
    outcome: Array = tokens + hidden @ narrow + narrow_bias
    return outcome


def dense_level(tokens: Array, level: ChunkLevel) -> Array:
    """A level over the tokens of one row, as if they were one chunk: (width,)."""
    encoded = tokens.astype(np.float64) + level.positions.numpy()[-len(tokens) :]
    for block in level.blocks:
        encoded = dense_block(encoded, block)
    normal = layer_norm(encoded, level.normalise)
    hidden, bias, query, value = level.pool.get_weights()
    weights = softmax((np.tanh(normal @ hidden + bias) @ query).T)
    width = WIDTH // HEADS
    values = normal @ value
    parts = [weights[head] @ values[:, head * width : (head + 1) * width] for head in range(HEADS)]
    return np.concatenate(parts)


@pytest.mark.parametrize("count", [1, 3, 16])
def test_up_to_a_chunk_it_is_dense_attention(count: int) -> None:
    level = ChunkLevel(16, HEADS, blocks=2)
    tokens = np.random.default_rng(count).normal(size=(2, 20, WIDTH)).astype(np.float32)
    present = np.arange(20) >= 20 - count
    vectors, _, _ = level(tokens[:, 20 - count :], np.ones((2, count), bool))
    longer, _, _ = level(tokens, np.broadcast_to(present, (2, 20)))
    for row in range(2):
        expected = dense_level(tokens[row, 20 - count :], level)
        np.testing.assert_allclose(vectors[row, 0], expected, rtol=1e-4, atol=1e-5)
        np.testing.assert_allclose(longer[row, -1], expected, rtol=1e-4, atol=1e-5)


def test_each_chunk_is_encoded_by_itself() -> None:
    level = ChunkLevel(CHUNK, HEADS, blocks=1)
    tokens = np.random.default_rng(0).normal(size=(1, 11, WIDTH)).astype(np.float32)
    vectors, _, _ = level(tokens, np.ones((1, 11), bool))
    for chunk, part in enumerate((tokens[0, :3], tokens[0, 3:7], tokens[0, 7:])):
        np.testing.assert_allclose(vectors[0, chunk], dense_level(part, level), rtol=1e-4, atol=1e-5)


# --- training ---


def test_a_gradient_reaches_every_weight(encoder: Encoder) -> None:
    steps, present = steps_of(3 * 4 * 4 * 4, rows=4)
    with tf.GradientTape() as tape:
        vector, _ = encoder(steps, present)
        loss = tf.reduce_sum(tf.square(vector - tf.constant(np.arange(WIDTH), tf.float32)))
    weights = [weight.value for weight in encoder.weights]
    for weight, gradient in zip(encoder.weights, tape.gradient(loss, weights), strict=True):
        assert gradient is not None, weight.path
        assert np.isfinite(gradient).all(), weight.path
        assert np.abs(gradient).max() > 1e-8, weight.path


# --- the size of what is computed ---


def largest_tensors(length: int) -> tuple[int, int]:
    """Numbers in the largest tensor, and in all of them, of a training step over one sequence of that length."""
    stem, lowest = PatchStem(WIDTH, 2, across=1), ChunkLevel(16, HEADS, blocks=1)
    upper = UpperLevels(levels_above(-(-length // 32), 16), 16, HEADS, blocks=1)

    def step(steps: Any, present: Any) -> Any:
        with tf.GradientTape() as tape:
            vectors, there, _ = lowest(*stem(steps, present))
            loss = tf.reduce_sum(upper(vectors, there)[0])
        weights = [*stem.weights, *lowest.weights, *upper.weights]
        return tape.gradient(loss, [weight.value for weight in weights], unconnected_gradients="zero")

    form = tf.TensorSpec((1, length, CHANNELS)), tf.TensorSpec((1, length), tf.bool)
    # The weights are made outside of the function that is looked at.
    step(tf.zeros((1, length, CHANNELS)), tf.ones((1, length), tf.bool))
    graph = tf.function(step, autograph=False).get_concrete_function(*form).graph
    sizes = [
        tensor.shape.num_elements() or 0
        for operation in graph.get_operations()
        for tensor in operation.outputs
        if tensor.shape.rank is not None
    ]
    return max(sizes), sum(sizes)


def test_memory_grows_with_the_length_not_with_its_square() -> None:
    largest, together = largest_tensors(4096)
    largest_of_four, together_of_four = largest_tensors(4 * 4096)
    assert largest > 4096
    assert largest_of_four <= 4 * largest
    assert together_of_four <= 4.2 * together
    assert largest_of_four < 2048**2, "no tensor has a number for each pair of tokens"


@pytest.mark.parametrize(
    ("chunks", "chunk", "levels"), [(1, 4, 0), (2, 4, 1), (4, 4, 1), (5, 4, 2), (16, 4, 2), (17, 4, 3), (1024, 64, 2)]
)
def test_levels_until_one_vector_is_left(chunks: int, chunk: int, levels: int) -> None:
    assert levels_above(chunks, chunk) == levels


def test_relevance_multiplies_the_levels() -> None:
    lowest = np.array([[[0.0, 0.0], [1.0, 0.0], [0.25, 0.75]]], np.float32)[..., None]  # the first chunk is padding
    above = np.array([[[0.5, 0.5]]], np.float32)[..., None]
    np.testing.assert_allclose(relevance([lowest[:, 1:], above]), [[0.5, 0, 0.125, 0.375]])
    # The level above padded its chunk before the first vector.
    padded = np.array([[[0.0, 0.0, 0.4, 0.6]]], np.float32)[..., None]
    np.testing.assert_allclose(relevance([lowest[:, 1:], padded]), [[0.4, 0, 0.15, 0.45]])
