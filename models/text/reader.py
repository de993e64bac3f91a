"""Reads the documents of a dataset of texts into tf.data batches."""

from __future__ import annotations

from typing import Any

import tensorflow as tf

from schemas.errors import DatasetError
from schemas.text_dataset import TEXT, TEXT_IDS, TEXT_LABEL, TEXT_ROW_LENGTHS, TextDatasetFolder

SHUFFLED_DOCUMENTS = 10_000
"""Documents that wait in memory, still serialised, to be drawn from."""

_FEATURES = {
    TEXT: tf.io.FixedLenFeature((), tf.string),
    TEXT_LABEL: tf.io.FixedLenFeature((), tf.int64),
    TEXT_IDS: tf.io.FixedLenFeature((), tf.string),
    TEXT_ROW_LENGTHS: tf.io.FixedLenFeature((), tf.string),
}


def documents(
    folder: TextDatasetFolder, split: str, *, batch_size: int, shuffle_seed: int | tf.Tensor | None = None
) -> Any:
    """The documents of a split, each exactly once, in batches.

    Args:
      folder: a dataset of texts.
      split: its name.
      batch_size: documents a batch; the last batch holds the rest.
      shuffle_seed: shuffles the documents, in another order each pass, the same orders for the same seed; None keeps
        the order of the files. It may be a tensor, int64 (), of a function that makes datasets.
    Returns:
      A `tf.data.Dataset` of dicts: `ids` int32, padded with 0, and `mask` bool of the same shape, True where a token
      is: (batch, token), or (batch, row, token) where the spec has rows. `label` int64 (batch,) and `text` string
      (batch,), the document as it came.
    Raises:
      DatasetError: there is no such split, or a file of it is missing.
    """
    paths = folder.shard_paths(split)
    for path in paths:
        if not path.is_file():
            raise DatasetError(f"{path}: expected a file of the split '{split}', got none")
    records = tf.data.TFRecordDataset([str(path) for path in paths])
    if shuffle_seed is not None:
        records = records.shuffle(SHUFFLED_DOCUMENTS, seed=shuffle_seed, reshuffle_each_iteration=True)
    in_rows = folder.spec.text.rows is not None

    def batch(serialized: tf.Tensor) -> dict[str, tf.Tensor]:
        document = tf.io.parse_example(serialized, _FEATURES)
        ids, counts = _vectors(document[TEXT_IDS])
        if in_rows:
            row_lengths, rows = _vectors(document[TEXT_ROW_LENGTHS])
            ragged = tf.RaggedTensor.from_nested_row_lengths(ids, (rows, tf.cast(row_lengths, tf.int64)))
        else:
            ragged = tf.RaggedTensor.from_row_lengths(ids, counts)
        return {
            "ids": ragged.to_tensor(),
            "mask": tf.ones_like(ragged, tf.bool).to_tensor(),
            "label": document[TEXT_LABEL],
            "text": document[TEXT],
        }

    batches = records.batch(batch_size).map(batch, num_parallel_calls=tf.data.AUTOTUNE)
    return batches.prefetch(tf.data.AUTOTUNE)


def _vectors(packed: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
    """Unpacks strings of int32: all numbers end to end, and how many each string has (int64)."""
    numbers = tf.io.decode_raw(tf.strings.reduce_join(packed), tf.int32)
    return numbers, tf.cast(tf.strings.length(packed) // 4, tf.int64)
