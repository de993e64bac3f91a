"""Pooling by attention, against the formula written out."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import tensorflow as tf
from numpy.typing import NDArray

from models.layers.attention_pool import AttentionPool

PRESENT = np.array([[True] * 5, [False, True, False, True, True], [False] * 5])


def tokens_of(seed: int = 0) -> NDArray[np.float32]:
    return np.random.default_rng(seed).normal(size=(3, 5, 8)).astype(np.float32)


def naive(pool: AttentionPool, tokens: NDArray[Any], present: NDArray[np.bool_]) -> NDArray[np.float64]:
    """One row and one head at a time, over the tokens that are present and no others."""
    hidden, bias, query, value = (weight.astype(np.float64) for weight in pool.get_weights())
    pooled = np.zeros((len(tokens), tokens.shape[-1]))
    width = tokens.shape[-1] // pool.heads
    for row, there in enumerate(present):
        seen = tokens[row, there].astype(np.float64)
        for head in range(pool.heads if len(seen) else 0):
            score = np.exp(np.tanh(seen @ hidden + bias) @ query[:, head])
            columns = slice(head * width, (head + 1) * width)
            pooled[row, columns] = (score / score.sum()) @ (seen @ value)[:, columns]
    return pooled


@pytest.mark.parametrize("heads", [1, 4])
def test_it_is_the_weighted_mean_of_what_is_present(heads: int) -> None:
    pool = AttentionPool(heads)
    pooled, weights = (np.asarray(part) for part in pool(tokens_of(), PRESENT))
    np.testing.assert_allclose(pooled, naive(pool, tokens_of(), PRESENT), rtol=1e-4, atol=1e-6)
    np.testing.assert_allclose(weights.sum(axis=1), [[1] * heads, [1] * heads, [0] * heads], rtol=1e-6)
    assert not weights[~PRESENT].any()


def test_what_is_not_present_changes_nothing() -> None:
    pool = AttentionPool(2)
    other = tokens_of()
    other[~PRESENT] = 1e6
    np.testing.assert_array_equal(pool(tokens_of(), PRESENT)[0], pool(other, PRESENT)[0])


def test_nothing_present_gives_zero_and_a_finite_gradient() -> None:
    pool = AttentionPool(2)
    tokens = tf.Variable(tokens_of()[2:])
    with tf.GradientTape() as tape:
        pooled, _ = pool(tokens, PRESENT[2:])
        loss = tf.reduce_sum(pooled)
    np.testing.assert_array_equal(pooled, np.zeros((1, 8)))
    for gradient in tape.gradient(loss, [tokens, *pool.trainable_variables], unconnected_gradients="zero"):
        np.testing.assert_array_equal(gradient, np.zeros_like(gradient))


def test_a_width_that_the_heads_do_not_divide_is_refused() -> None:
    with pytest.raises(ValueError, match="expected a width of which 3 heads are a divisor, got 8"):
        AttentionPool(3)(tokens_of(), PRESENT)
