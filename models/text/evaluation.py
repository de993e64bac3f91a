"""How good a text model is, beside two yardsticks: always the most frequent class, and the bigram classifier."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

from models.classes import Classified, error_rate
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
      A JSON document: `dataset`, `documents`, what `models.classes.Classified` reports, and `bigrams`, the second
      yardstick, with its accuracy, its macro F1 and the model's `skill` against it.
    Raises:
      DatasetError: the split has no documents.
    """
    if not folder.split(split).documents:
        raise DatasetError(f"{folder.path}: expected documents in the split '{split}', got none")
    classes = folder.manifest.classes
    found, beside = Classified(classes, folder.split("train").documents_by_class), Confusion(classes)
    for batch in documents(folder, split, batch_size=_BATCH).as_numpy_iterator():
        found.add(batch["label"], scores(batch))
        beside.add(batch["label"], yardstick.logits(batch["ids"]).argmax(axis=1))
    missed = error_rate(beside)
    bigrams = {
        "accuracy": 1 - missed,
        "macro_f1": beside.scores()["macro_f1"],
        "skill": skill(found.error, missed),
    }
    cases = int(beside.matrix.sum())
    return {"dataset": folder.digest, "documents": cases, **found.report(), "bigrams": bigrams}
