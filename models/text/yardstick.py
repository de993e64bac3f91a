"""Naive-Bayes logistic regression on the uni- and bigrams of a dataset: the yardstick of every text model.

It is a family of its own and a branch of the others too: their start.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from models.text import naive_bayes
from models.text.naive_bayes import Contents, NgramWeights
from models.text.ngrams import NgramGraph, choose_bigrams
from models.text.reader import documents
from schemas.text_dataset import TextDatasetFolder
from schemas.text_model_spec import Bigrams
from schemas.text_spec import token_count

_BATCH = 256


@dataclass(frozen=True, slots=True)
class Yardstick:
    """The n-grams that count (`keys`, int64, of the bigrams), and what was fitted to them."""

    ngrams: NgramGraph
    keys: NDArray[np.int64]
    weights: NgramWeights

    def logits(self, ids: Any) -> NDArray[np.float32]:
        """float32 (batch, class) of padded ids."""
        table, indices = self.weights.table, self.ngrams(ids).numpy()
        found: NDArray[np.float32] = self.weights.bias + np.stack([table[row[row > 0]].sum(axis=0) for row in indices])
        return found


def fit_yardstick(folder: TextDatasetFolder, options: Bigrams, class_weights: NDArray[np.float32]) -> Yardstick:
    """Fits to the train split of a dataset; the validation split chooses the penalty.

    Args:
      folder: the dataset.
      options: which n-grams count, and how strongly.
      class_weights: (class,), what a document of each class counts.
    """
    tokens = token_count(folder.spec.text, folder.manifest.vocabulary)
    keys = choose_bigrams((batch["ids"] for batch in _batches(folder, "train")), tokens, options)
    ngrams = NgramGraph(tokens, keys)

    def contents(split: str) -> Contents:
        rows: list[NDArray[np.int32]] = []
        labels = []
        for batch in _batches(folder, split):
            rows += [row[row > 0] for row in ngrams(batch["ids"]).numpy()]
            labels.append(batch["label"])
        return Contents.of(rows, np.concatenate(labels), class_weights, ngrams.size)

    classes = len(folder.manifest.classes)
    weights = naive_bayes.fit(contents("train"), contents("validation"), classes, options)
    return Yardstick(ngrams, keys, weights)


def _batches(folder: TextDatasetFolder, split: str) -> Iterator[dict[str, Any]]:
    found: Iterator[dict[str, Any]] = documents(folder, split, batch_size=_BATCH).as_numpy_iterator()
    return found
