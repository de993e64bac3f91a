"""How good a text model is, beside two yardsticks: always the most frequent class, and the bigram classifier."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

from models.text.reader import documents
from models.text.yardstick import Yardstick
from pipelines.kernels.metrics import Confusion, skill
from schemas.errors import DatasetError
from schemas.text_dataset import TextDatasetFolder

_BATCH = 64

Scores = Callable[[Mapping[str, Any]], NDArray[np.float32]]
"""A batch as the reader gives it, in numpy, to the shares of the classes, float32 (batch, class)."""


def evaluate_texts(folder: TextDatasetFolder, split: str, scores: Scores, yardstick: Yardstick) -> dict[str, Any]:
    """Compares what a model says of the documents of a split with what they are.

    Args:
      folder: a dataset.
      split: its name.
      scores: the model; its classes are the dataset's, in their order.
      yardstick: fitted to the dataset.
    Returns:
      A JSON document: `documents`, `accuracy`, `macro_f1`, `cross_entropy`, `classes`, `confusion` (actual, predicted),
      `by_class`; `majority` and `bigrams`, the yardsticks, with the accuracy of each and the model's `skill`: 1 - error
      rate / the yardstick's, None where that is without error.
    Raises:
      DatasetError: the split has no documents.
    """
    if not folder.split(split).documents:
        raise DatasetError(f"{folder.path}: expected documents in the split '{split}', got none")
    classes = folder.manifest.classes
    found, beside = Confusion(classes), Confusion(classes)
    missed = 0.0
    for batch in documents(folder, split, batch_size=_BATCH).as_numpy_iterator():
        label, shares = batch["label"], scores(batch)
        found.add(label, shares.argmax(axis=1))
        beside.add(label, yardstick.logits(batch["ids"]).argmax(axis=1))
        likely = np.maximum(shares[np.arange(len(label)), label].astype(np.float64), np.finfo(np.float32).tiny)
        missed -= float(np.log(likely).sum())
    report = found.scores()
    cases = int(found.matrix.sum())
    error = _error(found)
    most = max(classes, key=lambda name: folder.split("train").documents_by_class.get(name, 0))
    majority_error = 1 - float(found.matrix[classes.index(most)].sum()) / cases
    return {
        "documents": cases,
        "accuracy": report["accuracy"],
        "macro_f1": report["macro_f1"],
        "cross_entropy": missed / cases,
        "classes": list(classes),
        "confusion": report["confusion"],
        "by_class": report["by_class"],
        "majority": {"class": most, "accuracy": 1 - majority_error, "skill": skill(error, majority_error)},
        "bigrams": {
            "accuracy": 1 - _error(beside),
            "macro_f1": beside.scores()["macro_f1"],
            "skill": skill(error, _error(beside)),
        },
    }


def _error(confusion: Confusion) -> float:
    return float(1 - np.trace(confusion.matrix) / confusion.matrix.sum())
