"""Classifies windows: trains the spec's model on labels, evaluates it beside the majority class and exports it."""

from __future__ import annotations

import os
import shutil
import time
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import keras
import numpy as np
import tensorflow as tf
from numpy.typing import NDArray
from rich.console import Console

from models import layout, stored
from models.class_weights import class_weights
from models.classes import LOGITS, Classified, confusion_lines, cross_entropy, majority, score_line, yardstick_line
from models.descent import CHECKPOINT_SECONDS, Descent, Feed, descend
from models.export import export
from models.exported import load_exported, make_folder, target_of
from models.forecaster import build_forecaster
from models.forms import input_forms
from models.reader import batches_of, windows
from models.run_folder import open_run, write_json
from models.train import family_of, lineage, open_dataset
from pipelines.kernels.metrics import skill
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
    majority class (None where it is without error). `windows` counts each split's.
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
        return [
            f"{self.family}: {self.epochs} epochs, the best was {self.best_epoch}, {self.seconds:.0f} s",
            f"test accuracy {self.accuracy:.2%}, macro F1 {self.macro_f1:.4f}",
            beside,
            f"run: {self.run}",
        ]


def train_classifier(
    spec: Spec,
    *,
    data: str | os.PathLike[str],
    output: str | os.PathLike[str],
    resume: bool = False,
    quiet: bool = False,
    checkpoint_seconds: float = CHECKPOINT_SECONDS,
) -> ClassRunSummary:
    """Trains a model of a stream with a label; arguments, folder and errors are those of `models.train.train`.

    Raises:
      ModelError: beside what it is raised for there, the spec weighs a class that there is not.
    """
    started = time.perf_counter()
    folder = open_dataset(spec, data)
    counts = label_counts(spec, folder, "train")
    weights = class_weights(spec.training, spec.classes, counts)
    run = Path(output)
    record = {"spec": spec.semantic_document(), "family": family_of(spec), "lineage": lineage(folder)}
    begun = open_run(run, record, resume=resume)
    if "outcome" in begun:
        return ClassRunSummary(**begun["outcome"])
    descent = _fit(spec, folder, run, weights, counts, Console(stderr=True, quiet=quiet), checkpoint_seconds)
    kept = stored.load(run)
    metrics = {"split": "test", **evaluate_classes(spec, folder, "test", shares_of(spec, kept.model))}
    write_json(run / layout.EVALUATION_FILE, metrics)
    shutil.rmtree(run / layout.EXPORT_FOLDER, ignore_errors=True)  # of an attempt that was killed right after it
    export(
        spec,
        folder.statistics,
        kept.model.get_weights(),
        to=run / layout.EXPORT_FOLDER,
        lineage={name: part for name, part in begun.items() if name != "spec"} | {"metrics": metrics},
    )
    summary = ClassRunSummary(
        run=str(run),
        family=family_of(spec),
        windows={name: folder.split(name).windows for name in SPLITS},
        epochs=len(descent.records),
        best_epoch=descent.best_epoch,
        seconds=round(time.perf_counter() - started, 1),
        accuracy=metrics["accuracy"],
        macro_f1=metrics["macro_f1"],
        accuracy_majority=metrics["majority"]["accuracy"],
        skill=metrics["majority"]["skill"],
    )
    write_json(run / layout.RUN_FILE, {**begun, "outcome": asdict(summary)})
    (run / layout.CHECKPOINT_FILE).unlink(missing_ok=True)
    return summary


def label_counts(spec: Spec, folder: DatasetFolder, split: str) -> dict[str, int]:
    """How many windows of a split each class has."""
    counts = np.zeros(len(spec.classes), np.int64)
    for batch in windows(folder, split, batch_size=_BATCH).as_numpy_iterator():
        counts += np.bincount(batch["label"][batch["label"] >= 0], minlength=len(counts))
    return dict(zip(spec.classes, counts.tolist(), strict=True))


def shares_of(spec: Spec, model: Any) -> Shares:
    """A Keras model as the evaluation asks it."""
    names = list(input_forms(spec))

    def shares(batch: Mapping[str, Any]) -> NDArray[np.float32]:
        logits = model.predict_on_batch({name: batch[name] for name in names})[LOGITS]
        found: NDArray[np.float32] = tf.nn.softmax(logits).numpy()
        return found

    return shares


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
    """Evaluates an exported model on a split of a dataset, and writes `evaluation.json`.

    Arguments and errors are those of `models.exported.evaluate_exported`.

    Returns:
      The document of `evaluate_classes`, and `split`.
    """
    target = target_of(model, output)
    exported, folder = load_exported(model), DatasetFolder(data)
    folder.require_windows_of(exported.spec)
    folder.split(split)
    make_folder(target)
    document = evaluate_classes(exported.spec, folder, split, lambda batch: exported.forecast(batch)["scores"])
    write_json(target / layout.EVALUATION_FILE, {"split": split, **document})
    return {"split": split, **document}


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


def _fit(
    spec: Spec,
    folder: DatasetFolder,
    run: Path,
    weights: NDArray[np.float32],
    counts: Mapping[str, int],
    console: Console,
    checkpoint_seconds: float,
) -> Descent:
    """Trains until the validation loss no longer falls, and keeps the best epoch's model in the run's folder."""
    options = spec.training
    keras.utils.set_random_seed(options.seed)
    model = build_forecaster(spec, folder.statistics, precision=options.precision)
    names = list(input_forms(spec))

    def supervise(batch: dict[str, Any]) -> tuple[Any, Any, Any]:
        return {name: batch[name] for name in names}, batch["label"], tf.gather(weights, batch["label"])

    def batches(split: str, seed: Any = None, sample: int | None = None) -> Any:
        cut = windows(folder, split, batch_size=options.batch_size, shuffle_seed=seed, sample=sample)
        return cut.map(supervise).prefetch(tf.data.AUTOTUNE)

    validated = label_counts(spec, folder, "validation")
    missed = 1 - validated[majority(spec.classes, counts)] / sum(validated.values())
    descent = descend(
        model,
        options,
        cross_entropy(),
        Feed(
            train=lambda seed: batches("train", seed, options.windows_per_epoch),
            train_steps=batches_of(folder.split("train").windows, options.batch_size, options.windows_per_epoch),
            validation=batches("validation"),
            validation_steps=batches_of(folder.split("validation").windows, options.batch_size),
        ),
        run=run,
        console=console,
        remarks=lambda numbers: {"val_skill": skill(1 - numbers["val_accuracy"], missed)},
        checkpoint_seconds=checkpoint_seconds,
    )
    stored.save(run, folder.statistics, model)
    return descent
