"""Trains a classifier of texts: what differs from other runs, and what comes of it."""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, Unpack

import numpy as np
import tensorflow as tf
from numpy.typing import NDArray
from rich.console import Console

from models import layout
from models.class_report import write_class_evaluation
from models.class_weights import class_weights
from models.classes import CLASS_SCORES, accuracy_skill, class_scores, cross_entropy, share_of_class
from models.descent import Feed, Objective, Remarks
from models.precision import computing_in
from models.reader import batches_of
from models.run import RunOptions, carry_out
from models.task import Course, Task, require_no_ensemble
from models.text import stored
from models.text.classifier import NGRAM_BRANCH, bigrams_of
from models.text.evaluation import Scores, evaluate_texts
from models.text.export import export_classifier
from models.text.reader import documents
from models.text.stored import TextClassifier, TextState
from models.text.yardstick import Yardstick, fit_yardstick
from schemas.errors import DatasetError, ModelError
from schemas.split_spec import SPLITS
from schemas.text_dataset import TextDatasetFolder
from schemas.text_model_spec import Bigrams, BigramsModel, TextEnsembleModel
from schemas.text_spec import TextSpec


@dataclass(frozen=True, slots=True)
class TextRunSummary:
    """What came of a training run.

    `accuracy`, `macro_f1` and the yardsticks' `accuracy_majority` and `accuracy_bigrams` are on the test split;
    `skill` is 1 - error rate / that of the bigrams (None where they are without error). `documents` counts each
    split's. Without descent there are no epochs.
    """

    run: str
    family: str
    documents: dict[str, int]
    epochs: int
    best_epoch: int
    seconds: float
    accuracy: float
    macro_f1: float
    accuracy_majority: float
    accuracy_bigrams: float
    skill: float | None

    def lines(self) -> list[str]:
        """The summary in words."""
        descent = f"{self.epochs} epochs, the best was {self.best_epoch}, " if self.epochs else ""
        lines = [
            f"{self.family}: {descent}{self.seconds:.0f} s",
            f"test accuracy {self.accuracy:.2%}, macro F1 {self.macro_f1:.4f}",
            f"beside it: the most frequent class {self.accuracy_majority:.2%}, bigrams {self.accuracy_bigrams:.2%}",
        ]
        if self.skill is not None:
            lines.append(f"skill against bigrams: {self.skill:+.1%}")
        return [*lines, f"run: {self.run}"]


def train_texts(
    spec: TextSpec, *, data: str | os.PathLike[str], output: str | os.PathLike[str], **options: Unpack[RunOptions]
) -> TextRunSummary:
    """Trains a classifier of texts.

    On a CPU the same spec and dataset give the same model but for the last digits: threads add up a gradient in the
    order in which they come to it.

    Args:
      spec: with a model and splits.
      data: a dataset of the spec's texts.
      output: the run's folder.
      options: see `models.run.carry_out`, which may raise too.
    Raises:
      ModelError: the spec has no model, or weighs a class that there is not.
      DatasetError: the dataset is not the spec's, is damaged, or a split of it is empty.
    """
    return carry_out(lambda: TextTask(spec, data), output, **options)


class TextTask(Task[TextRunSummary]):
    """A classification of texts; arguments and errors are those of `train_texts`."""

    summary = TextRunSummary
    scores = CLASS_SCORES
    noun = "documents"
    spec: TextSpec
    folder: TextDatasetFolder

    def __init__(self, spec: TextSpec, data: str | os.PathLike[str]) -> None:
        if spec.model is None:
            raise ModelError("$.model: expected a model to train, got none")
        self.spec, self.family = spec, spec.model.family
        self.folder = folder = TextDatasetFolder(data)
        if folder.spec.window_fingerprint != spec.window_fingerprint:
            raise DatasetError(f"{folder.path}: expected texts of this spec ($.text), got others; ingest again")
        self._require_splits()
        self._weights = class_weights(spec.training, self._classes, folder.split("train").documents_by_class)

    @property
    def fitted(self) -> bool:
        """So are the bigrams alone: their fit is the yardstick's; and an ensemble, of its members."""
        return isinstance(self.spec.model, BigramsModel | TextEnsembleModel)

    @property
    def lineage(self) -> dict[str, Any]:
        """The dataset by its manifest's hash, and the documents of its splits."""
        splits = {name: {"documents": self.cases(name)} for name in SPLITS}
        return {"dataset_manifest_sha256": self.folder.digest, "splits": splits}

    def cases(self, split: str) -> int:
        """How many documents a split has."""
        return self.folder.split(split).documents

    def fit(self, run: Path, console: Console) -> dict[str, Any]:  # noqa: ARG002
        """Keeps the yardstick as the model.

        Raises:
          ModelError: the model is an ensemble.
        """
        require_no_ensemble(self.family)
        self.keep(run, self.build())
        return {}

    def build(self) -> Any:
        """A new model of `models.text.classifier`, that starts from the yardstick's bigrams where it has them."""
        with computing_in(self.spec.training.precision):
            model = self._state.build(self.spec)
        if bigrams_of(self.spec) is not None:
            model.get_layer(NGRAM_BRANCH).take_over(self._yardstick.weights)
        return model

    def objective(self) -> Objective:
        """The cross-entropy."""
        return cross_entropy()

    def feed(self, model: Any) -> Feed:
        """The documents of the splits, with their bigrams where the model takes them."""
        classifier, size, weights = (
            TextClassifier(self.spec, self._state, model),
            self.spec.training.batch_size,
            self._weights,
        )

        def supervise(batch: dict[str, Any]) -> tuple[Any, Any, Any]:
            return classifier.inputs(batch["ids"]), batch["label"], tf.gather(weights, batch["label"])

        def batches(split: str, seed: Any = None) -> Any:
            found = documents(self.folder, split, batch_size=size, shuffle_seed=seed)
            return found.map(supervise, num_parallel_calls=tf.data.AUTOTUNE).prefetch(tf.data.AUTOTUNE)

        def steps(split: str) -> int:
            return batches_of(self.cases(split), size)

        return Feed(lambda seed: batches("train", seed), steps("train"), batches("validation"), steps("validation"))

    def remarks(self) -> Remarks:
        """The skill against the bigrams."""
        return accuracy_skill(_validation_error(self.folder, self._yardstick))

    def keep(self, run: Path, model: Any) -> None:
        """Keeps a trained model in the run's folder, where `run.json` has its spec already."""
        stored.save(run, self._state, model)

    def validate(self, run: Path) -> dict[str, float]:
        """The scores on the validation split."""
        return class_scores(evaluate_texts(self.folder, "validation", scores_of(stored.load(run)), self._yardstick))

    def complete(self, run: Path, lineage: Mapping[str, Any]) -> dict[str, Any]:
        """Evaluates and exports the model that is kept."""
        classifier = stored.load(run, portable=True)
        metrics = {"split": "test", **evaluate_texts(self.folder, "test", scores_of(classifier), self._yardstick)}
        write_class_evaluation(run, self.spec, metrics, run, self.noun)
        export_classifier(classifier, to=run / layout.EXPORT_FOLDER, lineage={**lineage, "metrics": metrics})
        return metrics

    def summarise(self, course: Course, metrics: Mapping[str, Any]) -> TextRunSummary:
        """The scores on the test split."""
        return TextRunSummary(
            **asdict(course),
            documents={name: self.cases(name) for name in SPLITS},
            accuracy=metrics["accuracy"],
            macro_f1=metrics["macro_f1"],
            accuracy_majority=metrics["majority"]["accuracy"],
            accuracy_bigrams=metrics["bigrams"]["accuracy"],
            skill=metrics["bigrams"]["skill"],
        )

    @property
    def _classes(self) -> tuple[str, ...]:
        return self.folder.manifest.classes

    @cached_property
    def _yardstick(self) -> Yardstick:
        return fit_yardstick(self.folder, bigrams_of(self.spec) or Bigrams(), self._weights)

    @cached_property
    def _state(self) -> TextState:
        keys = np.zeros(0, np.int64) if bigrams_of(self.spec) is None else self._yardstick.keys
        return TextState(self.folder.vocabulary, self._classes, keys)


def scores_of(classifier: TextClassifier) -> Scores:
    """The model as the evaluation asks it."""

    def scores(batch: Mapping[str, Any]) -> NDArray[np.float32]:
        found: NDArray[np.float32] = tf.nn.softmax(classifier.logits(batch["ids"])).numpy()
        return found

    return scores


def likelihoods(folder: TextDatasetFolder, split: str, classifier: TextClassifier) -> NDArray[np.float64]:
    """The share that a model gives to the class of each document of a split, float64 (document,)."""
    scores = scores_of(classifier)
    found = [
        share_of_class(scores(batch), batch["label"])
        for batch in documents(folder, split, batch_size=256).as_numpy_iterator()
    ]
    return np.concatenate(found)


def _validation_error(folder: TextDatasetFolder, yardstick: Yardstick) -> float:
    wrong = 0
    for batch in documents(folder, "validation", batch_size=256).as_numpy_iterator():
        wrong += int((yardstick.logits(batch["ids"]).argmax(axis=1) != batch["label"]).sum())
    return wrong / folder.split("validation").documents
