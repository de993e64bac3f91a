"""Classifies windows: trains the spec's model on labels, evaluates it beside the majority class and exports it."""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Unpack

import numpy as np
import tensorflow as tf
from numpy.typing import NDArray

from models import layout, stored
from models.answers import answer_of
from models.class_report import write_class_evaluation
from models.class_weights import class_weights
from models.classes import (
    CLASS_SCORES,
    LOGITS,
    Classified,
    accuracy_skill,
    class_scores,
    confusion_lines,
    cross_entropy,
    majority,
    score_line,
    share_of_class,
    yardstick_line,
)
from models.descent import Objective, Remarks
from models.export import export
from models.exported import load_exported, make_folder, run_of, target_of
from models.forms import input_forms
from models.reader import windows
from models.run import RunOptions, carry_out
from models.task import Course
from models.window_task import WindowTask
from schemas.dataset import DatasetFolder
from schemas.errors import DatasetError
from schemas.spec import Spec
from schemas.split_spec import SPLITS

Shares = Callable[[Mapping[str, Any]], NDArray[np.float32]]
"""A batch as the reader gives it, in numpy, to the shares of the classes, float32 (batch, class)."""

_BATCH = 256


@dataclass(frozen=True, slots=True)
class ClassRunSummary:
    """What came of a training run.

    `accuracy`, `macro_f1` and `accuracy_majority` are on the test split; `skill` is 1 - error rate / that of the
    majority class (None where it is without error). `windows` counts each split's. A family that is fitted without
    descent has no epochs.
    """

    run: str
    family: str
    windows: dict[str, int]
    epochs: int
    best_epoch: int
    seconds: float
    accuracy: float
    macro_f1: float
    accuracy_majority: float
    skill: float | None

    def lines(self) -> list[str]:
        """The summary in words."""
        beside = yardstick_line("always the most frequent class", _of_majority(self))
        how = f"{self.epochs} epochs, the best was {self.best_epoch}" if self.epochs else "fitted"
        return [
            f"{self.family}: {how}, in {self.seconds:.0f} s",
            f"test accuracy {self.accuracy:.2%}, macro F1 {self.macro_f1:.4f}",
            beside,
            f"run: {self.run}",
        ]


def train_classifier(
    spec: Spec, *, data: str | os.PathLike[str], output: str | os.PathLike[str], **options: Unpack[RunOptions]
) -> ClassRunSummary:
    """Trains a model of a stream with a label; arguments, folder and errors are those of `models.train.train`.

    Raises:
      ModelError: beside what it is raised for there, the spec weighs a class that there is not.
    """
    return carry_out(lambda: WindowClassTask(spec, data), output, **options)


class WindowClassTask(WindowTask[ClassRunSummary]):
    """A classification of windows; arguments and errors are those of `train_classifier`."""

    summary = ClassRunSummary
    scores = CLASS_SCORES

    def __init__(self, spec: Spec, data: str | os.PathLike[str]) -> None:
        super().__init__(spec, data)
        self._counts = label_counts(spec, self.folder, "train")
        self._weights = class_weights(spec.training, spec.classes, self._counts)

    def objective(self) -> Objective:
        """The cross-entropy."""
        return cross_entropy()

    def supervise(self) -> Callable[[dict[str, Any]], tuple[Any, Any, Any]]:
        """From a batch of the reader to inputs, labels and weights."""
        names, weights = list(input_forms(self.spec)), self._weights

        def split(batch: dict[str, Any]) -> tuple[Any, Any, Any]:
            return {name: batch[name] for name in names}, batch["label"], tf.gather(weights, batch["label"])

        return split

    def remarks(self) -> Remarks:
        """The skill against the most frequent class."""
        counts = label_counts(self.spec, self.folder, "validation")
        return accuracy_skill(1 - counts[majority(self.spec.classes, self._counts)] / sum(counts.values()))

    def validate(self, run: Path) -> dict[str, float]:
        """The scores on the validation split."""
        return class_scores(self._evaluate(run, "validation"))

    def complete(self, run: Path, lineage: Mapping[str, Any]) -> dict[str, Any]:
        """Evaluates and exports the model that is kept."""
        kept = stored.load(run)
        metrics = {"split": "test", **self._evaluate(run, "test")}
        write_class_evaluation(run, self.spec, metrics, run, self.noun)
        export(
            self.spec,
            self.folder.statistics,
            kept.model.get_weights(),
            to=run / layout.EXPORT_FOLDER,
            state=kept.state,
            lineage={**lineage, "metrics": metrics},
        )
        return metrics

    def summarise(self, course: Course, metrics: Mapping[str, Any]) -> ClassRunSummary:
        """The scores on the test split."""
        return ClassRunSummary(
            **asdict(course),
            windows={name: self.cases(name) for name in SPLITS},
            accuracy=metrics["accuracy"],
            macro_f1=metrics["macro_f1"],
            accuracy_majority=metrics["majority"]["accuracy"],
            skill=metrics["majority"]["skill"],
        )

    def _evaluate(self, run: Path, split: str) -> dict[str, Any]:
        return evaluate_classes(self.spec, self.folder, split, shares_of(stored.load(run).model))


def label_counts(spec: Spec, folder: DatasetFolder, split: str) -> dict[str, int]:
    """How many windows of a split each class has."""
    counts = np.zeros(len(spec.classes), np.int64)
    for batch in windows(folder, split, batch_size=_BATCH).as_numpy_iterator():
        counts += np.bincount(batch["label"][batch["label"] >= 0], minlength=len(counts))
    return dict(zip(spec.classes, counts.tolist(), strict=True))


def shares_of(model: Any) -> Shares:
    """A Keras model as the evaluation asks it."""
    answer = answer_of(model)

    def shares(batch: Mapping[str, Any]) -> NDArray[np.float32]:
        found: NDArray[np.float32] = tf.nn.softmax(answer(batch)[LOGITS]).numpy()
        return found

    return shares


def likelihoods(folder: DatasetFolder, split: str, model: Any) -> NDArray[np.float64]:
    """The share that a model gives to the class of each window of a split that has one, float64 (window,)."""
    shares, found = shares_of(model), []
    for batch in windows(folder, split, batch_size=_BATCH).as_numpy_iterator():
        told = batch["label"] >= 0
        found.append(share_of_class(shares(batch)[told], batch["label"][told]))
    return np.concatenate(found)


def evaluate_classes(spec: Spec, folder: DatasetFolder, split: str, shares: Shares) -> dict[str, Any]:
    """Compares what a model says of the windows of a split with their labels.

    Args:
      spec: the model's.
      folder: a dataset of its windows, with a train split.
      split: of the dataset; windows without a label do not count.
      shares: the model.
    Returns:
      A JSON document: `windows`, `dataset`, and what `models.classes.Classified` reports.
    Raises:
      DatasetError: no window of the split has a label.
    """
    found, cases = Classified(spec.classes, label_counts(spec, folder, "train")), 0
    for batch in windows(folder, split, batch_size=_BATCH).as_numpy_iterator():
        told = batch["label"] >= 0
        found.add(batch["label"][told], shares(batch)[told])
        cases += int(told.sum())
    if not cases:
        raise DatasetError(f"{folder.path}: expected windows with a label in the split '{split}', got none")
    return {"dataset": folder.digest, "windows": cases, **found.report()}


def evaluate_exported_classes(
    model: str | os.PathLike[str],
    data: str | os.PathLike[str],
    *,
    split: str = "test",
    output: str | os.PathLike[str] | None = None,
) -> dict[str, Any]:
    """Evaluates an exported model on a split of a dataset, and writes `evaluation.json` and `report.html`.

    Arguments and errors are those of `models.exported.evaluate_exported`.

    Returns:
      The document of `evaluate_classes`, and `split`.
    """
    target = target_of(model, output)
    exported, folder = load_exported(model), DatasetFolder(data)
    folder.require_windows_of(exported.spec)
    folder.split(split)
    make_folder(target)
    found = evaluate_classes(exported.spec, folder, split, lambda batch: exported.forecast(batch)["scores"])
    document = {"split": split, **found}
    write_class_evaluation(target, exported.spec, document, run_of(model), WindowClassTask.noun)
    return document


def evaluation_lines(document: Mapping[str, Any]) -> list[str]:
    """An evaluation in words: accuracy beside the majority class, and the confusion where the classes are few."""
    yardstick = document["majority"]
    return [
        score_line(f"{document['windows']} windows of {document['split']}", document),
        yardstick_line(f"always '{yardstick['class']}'", yardstick),
        *confusion_lines(document),
    ]


def _of_majority(summary: ClassRunSummary) -> dict[str, Any]:
    return {"accuracy": summary.accuracy_majority, "skill": summary.skill}
