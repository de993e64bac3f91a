"""Trains a text model on a dataset, evaluates it beside the yardsticks and exports it."""

from __future__ import annotations

import os
import shutil
import time
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import keras
import numpy as np
import tensorflow as tf
from numpy.typing import NDArray
from rich.console import Console

from models import layout
from models.class_weights import class_weights
from models.classes import cross_entropy
from models.descent import CHECKPOINT_SECONDS, Descent, Feed, descend
from models.precision import computing_in
from models.reader import batches_of
from models.run_folder import check_file, open_run, write_json
from models.text import stored
from models.text.classifier import NGRAM_BRANCH, bigrams_of
from models.text.evaluation import Scores, evaluate_texts
from models.text.export import export_classifier
from models.text.reader import documents
from models.text.stored import TextClassifier, TextState
from models.text.yardstick import Yardstick, fit_yardstick
from pipelines.kernels.metrics import skill
from schemas.errors import DatasetError, ModelError
from schemas.split_spec import SPLITS
from schemas.text_dataset import TextDatasetFolder
from schemas.text_model_spec import Bigrams, BigramsModel
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
    spec: TextSpec,
    *,
    data: str | os.PathLike[str],
    output: str | os.PathLike[str],
    resume: bool = False,
    quiet: bool = False,
    checkpoint_seconds: float = CHECKPOINT_SECONDS,
) -> TextRunSummary:
    """Trains a model and leaves all that belongs to it in a folder (`models.layout` says what).

    On a CPU the same spec and dataset give the same model but for the last digits: threads add up a gradient in the
    order in which they come to it.

    Args:
      spec: with a model and splits.
      data: a dataset of the spec's texts.
      output: the run's folder; it must not exist, or be empty, unless it holds the run to resume.
      resume: goes on with the run in the folder, if there is one. One that is complete is left as it is.
      quiet: prints nothing; else the progress goes to standard error.
      checkpoint_seconds: between checkpoints within an epoch; there is one at the end of each epoch anyway.
    Raises:
      ModelError: the spec has no model or weighs a class that there is not, the folder is taken or cannot be written,
        the run in it is another, or the loss is no number any more.
      Interrupted: it was asked to stop, and can be resumed.
      DatasetError: the dataset is not the spec's, is damaged, or a split of it is empty.
    """
    if spec.model is None:
        raise ModelError("$.model: expected a model to train, got none")
    started = time.perf_counter()
    folder = _open_dataset(spec, data)
    weights = class_weights(spec.training, folder.manifest.classes, folder.split("train").documents_by_class)
    run = Path(output)
    record = {"spec": spec.semantic_document(), "family": spec.model.family, "lineage": _lineage(folder)}
    begun = open_run(run, record, resume=resume)
    if "outcome" in begun:
        return TextRunSummary(**begun["outcome"])
    yardstick = fit_yardstick(folder, bigrams_of(spec) or Bigrams(), weights)
    descent = _fit(spec, folder, run, yardstick, weights, Console(stderr=True, quiet=quiet), checkpoint_seconds)
    classifier = stored.load(run, portable=True)
    metrics = evaluate_texts(folder, "test", scores_of(classifier), yardstick)
    write_json(run / layout.EVALUATION_FILE, {"split": "test", **metrics})
    shutil.rmtree(run / layout.EXPORT_FOLDER, ignore_errors=True)  # of an attempt that was killed right after it
    export_classifier(
        classifier,
        to=run / layout.EXPORT_FOLDER,
        lineage={name: part for name, part in begun.items() if name != "spec"}
        | {"metrics": {"split": "test", **metrics}},
    )
    summary = TextRunSummary(
        run=str(run),
        family=spec.model.family,
        documents={name: folder.split(name).documents for name in SPLITS},
        epochs=len(descent.records),
        best_epoch=descent.best_epoch,
        seconds=round(time.perf_counter() - started, 1),
        accuracy=metrics["accuracy"],
        macro_f1=metrics["macro_f1"],
        accuracy_majority=metrics["majority"]["accuracy"],
        accuracy_bigrams=metrics["bigrams"]["accuracy"],
        skill=metrics["bigrams"]["skill"],
    )
    write_json(run / layout.RUN_FILE, begun | {"outcome": asdict(summary)})
    (run / layout.CHECKPOINT_FILE).unlink(missing_ok=True)
    return summary


def scores_of(classifier: TextClassifier) -> Scores:
    """The model as the evaluation asks it."""

    def scores(batch: Mapping[str, Any]) -> NDArray[np.float32]:
        found: NDArray[np.float32] = tf.nn.softmax(classifier.logits(batch["ids"])).numpy()
        return found

    return scores


def _open_dataset(spec: TextSpec, data: str | os.PathLike[str]) -> TextDatasetFolder:
    folder = TextDatasetFolder(data)
    if folder.spec.window_fingerprint != spec.window_fingerprint:
        raise DatasetError(f"{folder.path}: expected texts of this spec ($.text), got others; ingest again")
    if spec.split is None or folder.spec.split != spec.split:
        raise DatasetError(f"{folder.path}: expected the splits of this spec ($.split), got others; ingest again")
    for name in SPLITS:
        if not folder.split(name).documents:
            raise DatasetError(f"{folder.path}: expected documents in the split '{name}', got none")
        for shard in folder.split(name).shards:
            check_file(folder.path / shard.path, shard.sha256)
    return folder


def _fit(
    spec: TextSpec,
    folder: TextDatasetFolder,
    run: Path,
    yardstick: Yardstick,
    weights: NDArray[np.float32],
    console: Console,
    checkpoint_seconds: float,
) -> Descent:
    """Trains until the validation loss no longer falls, and keeps the best epoch's model in the run's folder."""
    options = spec.training
    keras.utils.set_random_seed(options.seed)
    keys = np.zeros(0, np.int64) if bigrams_of(spec) is None else yardstick.keys
    state = TextState(folder.vocabulary, folder.manifest.classes, keys)
    with computing_in(options.precision):
        classifier = TextClassifier(spec, state, state.build(spec))
    if bigrams_of(spec) is not None:
        classifier.model.get_layer(NGRAM_BRANCH).take_over(yardstick.weights)
    if isinstance(spec.model, BigramsModel):
        stored.save(run, classifier)
        return Descent([], 0)

    def supervise(batch: dict[str, Any]) -> tuple[Any, Any, Any]:
        return classifier.inputs(batch["ids"]), batch["label"], tf.gather(weights, batch["label"])

    def batches(split: str, seed: Any = None) -> Any:
        found = documents(folder, split, batch_size=options.batch_size, shuffle_seed=seed)
        return found.map(supervise, num_parallel_calls=tf.data.AUTOTUNE).prefetch(tf.data.AUTOTUNE)

    def steps(split: str) -> int:
        return batches_of(folder.split(split).documents, options.batch_size)

    missed = _validation_error(folder, yardstick)
    descent = descend(
        classifier.model,
        options,
        cross_entropy(),
        Feed(lambda seed: batches("train", seed), steps("train"), batches("validation"), steps("validation")),
        run=run,
        console=console,
        remarks=lambda numbers: {"val_skill": skill(1 - numbers["val_accuracy"], missed)},
        checkpoint_seconds=checkpoint_seconds,
    )
    stored.save(run, classifier)
    return descent


def _validation_error(folder: TextDatasetFolder, yardstick: Yardstick) -> float:
    wrong = 0
    for batch in documents(folder, "validation", batch_size=256).as_numpy_iterator():
        wrong += int((yardstick.logits(batch["ids"]).argmax(axis=1) != batch["label"]).sum())
    return wrong / folder.split("validation").documents


def _lineage(folder: TextDatasetFolder) -> dict[str, Any]:
    """What the model is made of: the dataset by its manifest's hash, and the documents of its splits."""
    splits = {name: {"documents": folder.split(name).documents} for name in SPLITS}
    return {"dataset_manifest_sha256": folder.digest, "splits": splits}
