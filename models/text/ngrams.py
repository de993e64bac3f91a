"""Uni- and bigrams of documents, as indices of a table: those of the train split that a spec lets count.

Index 0 pads; that of a token is its id; those of the bigrams follow in the order of their keys. The key of a pair of
ids is first * tokens + second, and a document (or each of its rows) has an id 0 before and behind it, so that there are
bigrams of its first and of its last token.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

import numpy as np
import tensorflow as tf
from numpy.typing import NDArray

from schemas.text_model_spec import Bigrams

_NO_KEY = np.iinfo(np.int64).max
"""Greater than any key: it closes the table, so that none is empty and every search ends in it."""

_WAITING = 1_000_000
"""Keys that are collected before they are counted."""


class NgramGraph(tf.Module):  # type: ignore[misc]
    """Ids of documents to indices of what they contain, each once.

    Args:
      tokens: how many ids there are, those of padding and of unknown tokens among them.
      bigrams: int64 (bigram,), the keys that count, rising.
    """

    def __init__(self, tokens: int, bigrams: NDArray[np.int64]) -> None:
        super().__init__()
        self._tokens = tokens
        self._keys = tf.Variable(np.append(bigrams, _NO_KEY), trainable=False, name="bigrams")
        self.size = tokens + len(bigrams)

    def __call__(self, ids: tf.Tensor) -> tf.Tensor:
        """The indices, falling, with 0 in the place of those that are there again.

        Args:
          ids: int32 (batch, token) or (batch, row, token), padded with 0.
        Returns:
          int32 (batch, index).
        """
        keys = bigram_keys(ids, self._tokens)
        place = tf.searchsorted(self._keys, tf.reshape(keys, (-1,)), out_type=tf.int64)
        place = tf.reshape(place, tf.shape(keys))
        known = tf.gather(self._keys, place) == keys
        bigrams = tf.cast(tf.where(known, place + self._tokens, 0), tf.int32)
        both = tf.concat((flat(ids), bigrams), axis=1)
        ordered = tf.sort(both, direction="DESCENDING")
        again = tf.concat((tf.zeros_like(ordered[:, :1], tf.bool), ordered[:, 1:] == ordered[:, :-1]), axis=1)
        return tf.where(again, 0, ordered)


def bigram_keys(ids: tf.Tensor, tokens: int) -> tf.Tensor:
    """The keys of all pairs of successive tokens: int64 (batch, pair); 0 where there is none.

    Args:
      ids: int32 (batch, token) or (batch, row, token), padded with 0.
      tokens: how many ids there are.
    """
    second = tf.pad(tf.cast(ids, tf.int64), [[0, 0]] * (len(ids.shape) - 1) + [[0, 1]])
    first = tf.pad(second[..., :-1], [[0, 0]] * (len(ids.shape) - 1) + [[1, 0]])
    return flat(first * tokens + second)


def choose_bigrams(batches: Iterable[Any], tokens: int, options: Bigrams) -> NDArray[np.int64]:
    """The bigrams that count: the most frequent of the train split, by documents; of equals, the lowest keys.

    Args:
      batches: tensors of ids as `NgramGraph` takes them.
      tokens: how many ids there are.
      options: how many count.
    Returns:
      Their keys, int64 (bigram,), rising.
    """
    keys, counts = np.zeros(0, np.int64), np.zeros(0, np.int64)
    waiting: list[NDArray[np.int64]] = []
    for ids in batches:
        of_batch = np.sort(bigram_keys(tf.constant(ids), tokens).numpy())
        waiting.append(of_batch[np.diff(of_batch, axis=1, prepend=0) > 0])  # each once a document
        if sum(map(len, waiting)) > len(keys) + _WAITING:
            keys, counts = _added(keys, counts, waiting)
            waiting = []
    keys, counts = _added(keys, counts, waiting)
    frequent = counts >= options.min_count
    keys, counts = keys[frequent], counts[frequent]
    most = np.lexsort((keys, -counts))[: options.size]
    return np.sort(keys[most])


def flat(ids: tf.Tensor) -> tf.Tensor:
    """(batch, ...) to (batch, all the rest)."""
    return tf.reshape(ids, (tf.shape(ids)[0], tf.reduce_prod(tf.shape(ids)[1:])))


def _added(
    keys: NDArray[np.int64], counts: NDArray[np.int64], found: Sequence[NDArray[np.int64]]
) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    all_keys = np.concatenate((keys, *found))
    weights = np.concatenate((counts, np.ones(len(all_keys) - len(keys))))
    together, owner = np.unique(all_keys, return_inverse=True)
    return together, np.bincount(owner, weights, len(together)).astype(np.int64)
