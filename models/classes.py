"""What classifiers share, of texts and of windows: what they learn from, and how good they are."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from keras import ops
from numpy.typing import NDArray

from models.descent import Objective, Remarks
from pipelines.kernels.metrics import Confusion, skill

LOGITS = "logits"
"""The output of a classifier that is trained, float32 (batch, class)."""

_CORNER = "is / said"
_MOST_CLASSES = 12
"""Of a confusion that is shown in words."""


def cross_entropy() -> Objective:
    """What training makes small, and beside it the accuracy; labels are numbers of classes, int (batch,)."""

    def cost(labels: Any, outputs: Any) -> Any:
        return ops.sparse_categorical_crossentropy(labels, outputs[LOGITS], from_logits=True)

    def hits(labels: Any, outputs: Any) -> Any:
        return ops.cast(ops.argmax(outputs[LOGITS], axis=-1) == ops.cast(labels, "int32"), "float32")

    return Objective(cost, {"accuracy": hits})


class Classified:
    """What classifications were worth; `add` takes batches, `report` gives the scores.

    Args:
      classes: their names, in the order of their numbers.
      train_counts: how often each came in the train split; the majority is of them.
    """

    def __init__(self, classes: Sequence[str], train_counts: Mapping[str, int]) -> None:
        self._confusion = Confusion(classes)
        self._majority = majority(classes, train_counts)
        self._missed = 0.0

    def add(self, label: NDArray[np.int64], shares: NDArray[np.float32]) -> None:
        """Takes numbers of classes, int64 (case,), and a model's shares of them, float32 (case, class)."""
        self._confusion.add(label, shares.argmax(axis=1))
        self._missed -= float(np.log(share_of_class(shares, label)).sum())

    @property
    def error(self) -> float:
        """The share of cases that were given another class than theirs."""
        return error_rate(self._confusion)

    def report(self) -> dict[str, Any]:
        """The scores as a JSON document; there must have been a case.

        `accuracy`, `macro_f1`, `cross_entropy`, `classes`, `confusion` (actual, predicted), `by_class`; and `majority`,
        what always saying the train split's most frequent class is worth, with the model's `skill`: 1 - error rate /
        the yardstick's, None where that is without error.
        """
        scores, matrix, classes = self._confusion.scores(), self._confusion.matrix, self._confusion.classes
        cases = int(matrix.sum())
        beside = 1 - float(matrix[classes.index(self._majority)].sum()) / cases
        return {
            "accuracy": scores["accuracy"],
            "macro_f1": scores["macro_f1"],
            "cross_entropy": self._missed / cases,
            "classes": list(classes),
            "confusion": scores["confusion"],
            "by_class": scores["by_class"],
            "majority": {"class": self._majority, "accuracy": 1 - beside, "skill": skill(self.error, beside)},
        }


def share_of_class(shares: NDArray[np.float32], label: NDArray[np.int64]) -> NDArray[np.float64]:
    """What was given to each case's class, float64 (case,), positive: of shares (case, class) and labels (case,)."""
    found: NDArray[np.float64] = shares[np.arange(len(label)), label].astype(np.float64)
    return np.maximum(found, np.finfo(np.float32).tiny)


CLASS_SCORES = ("cross_entropy", "error_rate")
"""By which models of classes are compared on the validation split; all the better the lower."""


def class_scores(report: Mapping[str, Any]) -> dict[str, float]:
    """Those scores, of what `Classified` reports."""
    return {"cross_entropy": report["cross_entropy"], "error_rate": 1 - report["accuracy"]}


def accuracy_skill(missed: float) -> Remarks:
    """An epoch's skill on the validation split against a yardstick that misses such a share of it."""
    return lambda numbers: {"val_skill": skill(1 - numbers["val_accuracy"], missed)}


def majority(classes: Sequence[str], counts: Mapping[str, int]) -> str:
    """The most frequent class; the first of several."""
    return max(classes, key=lambda name: counts.get(name, 0))


def error_rate(confusion: Confusion) -> float:
    """The share of cases that were given another class than theirs."""
    return float(1 - np.trace(confusion.matrix) / confusion.matrix.sum())


def yardstick_line(name: str, scores: Mapping[str, Any]) -> str:
    """A yardstick of an evaluation in words."""
    against = "" if scores["skill"] is None else f" (skill {scores['skill']:+.1%})"
    return f"{name}: {scores['accuracy']:.2%}{against}"


def score_line(what: str, document: Mapping[str, Any]) -> str:
    """The scores of an evaluation in words."""
    others = f"macro F1 {document['macro_f1']:.4f}, cross-entropy {document['cross_entropy']:.4f}"
    return f"{what}: accuracy {document['accuracy']:.2%}, {others}"


def confusion_lines(document: Mapping[str, Any]) -> list[str]:
    """The confusion of an evaluation as a table; none where the classes are many."""
    classes, counts = document["classes"], document["confusion"]
    if len(classes) > _MOST_CLASSES:
        return []
    width = max(6, *(len(name) + 2 for name in classes))
    first = max(len(_CORNER), *map(len, classes))
    table = [(_CORNER, classes), *zip(classes, counts, strict=True)]
    return [f"{name:<{first}}" + "".join(f"{cell:>{width}}" for cell in cells) for name, cells in table]
