"""Trains the spec's model on a dataset, evaluates it beside persistence and exports it."""

from __future__ import annotations

import hashlib
import importlib.metadata
import json
import os
import platform
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import keras
import tensorflow as tf
from rich.console import Console

from models import layout, objective
from models.evaluation import evaluate_model, evaluate_persistence
from models.export import export
from models.forecaster import build_forecaster
from models.progress import EpochLines, EpochLog, draw_learning_curve
from models.reader import windows
from models.scaling import Constants
from schemas.dataset import DatasetFolder
from schemas.errors import DatasetError, ModelError
from schemas.model_spec import Training
from schemas.spec import Spec
from schemas.split_spec import SPLITS


@dataclass(frozen=True, slots=True)
class RunSummary:
    """What came of a training run.

    `mae` and `mae_persistence` are on the test split, by target, in its unit (None where nothing was observed); `skill`
    is 1 - MAE / MAE of persistence over all targets in standardised units (None where persistence is without error).
    `windows` counts each split's.
    """

    run: str
    family: str
    windows: dict[str, int]
    epochs: int
    best_epoch: int
    seconds: float
    mae: dict[str, float | None]
    mae_persistence: dict[str, float | None]
    skill: float | None


def train(
    spec: Spec, *, data: str | os.PathLike[str], output: str | os.PathLike[str], quiet: bool = False
) -> RunSummary:
    """Trains a model and leaves all that belongs to it in a new folder (`models.layout` says what).

    On a CPU the same spec and dataset give the same model.

    Args:
      spec: with a model.
      data: a dataset of the spec's windows and splits.
      output: the run's folder; it must not exist, or be empty.
      quiet: prints nothing; else the progress goes to standard error.
    Raises:
      ModelError: the spec has no model, the folder is taken or cannot be written, or the loss is no number any more.
      DatasetError: the dataset is not the spec's, is damaged, or a split of it is empty.
    """
    if spec.model is None:
        raise ModelError("$.model: expected a model to train, got none")
    started = time.perf_counter()
    folder = _open_dataset(spec, data)
    run = _make_folder(output)
    record = {"family": spec.model.family, "lineage": _lineage(folder), "environment": _environment()}
    _write_json(run / layout.RUN_FILE, {"spec": spec.semantic_document(), **record})
    model, log, best_epoch = _fit(spec, folder, run, Console(stderr=True, quiet=quiet))
    metrics = evaluate_model(spec, folder, "test", model)
    _write_json(run / layout.EVALUATION_FILE, {"split": "test", **metrics})
    model.save_weights(run / layout.WEIGHTS_FILE)
    draw_learning_curve(log.records, best_epoch, run / layout.CURVE_FILE)
    export(
        spec,
        folder.statistics,
        model.get_weights(),
        to=run / layout.EXPORT_FOLDER,
        lineage={**record, "metrics": {"split": "test", **metrics}},
    )
    seconds = round(time.perf_counter() - started, 1)
    outcome = {"epochs": len(log.records), "best_epoch": best_epoch, "seconds": seconds}
    _write_json(run / layout.RUN_FILE, {"spec": spec.semantic_document(), **record, "outcome": outcome})
    return RunSummary(
        run=str(run),
        family=spec.model.family,
        windows={name: folder.split(name).windows for name in SPLITS},
        epochs=len(log.records),
        best_epoch=best_epoch,
        seconds=seconds,
        mae={name: scores["mae"] for name, scores in metrics["targets"].items()},
        mae_persistence={name: scores["mae_persistence"] for name, scores in metrics["targets"].items()},
        skill=metrics["standardised"]["skill"],
    )


def _open_dataset(spec: Spec, data: str | os.PathLike[str]) -> DatasetFolder:
    folder = DatasetFolder(data)
    folder.require_windows_of(spec)
    if folder.spec.split != spec.split:
        raise DatasetError(f"{folder.path}: expected the splits of this spec ($.split), got others; ingest again")
    for name in SPLITS:
        if not folder.split(name).windows:
            raise DatasetError(f"{folder.path}: expected windows in the split '{name}', got none")
        for shard in folder.split(name).shards:
            _check_file(folder.path / shard.path, shard.sha256)
    return folder


def _check_file(path: Path, sha256: str) -> None:
    # Before training, where it can be said in one line: TensorFlow finds damage only when it comes to it.
    try:
        with path.open("rb") as file:
            found = hashlib.file_digest(file, "sha256").hexdigest()
    except OSError as exc:
        raise DatasetError(f"{path}: cannot be read: {exc.strerror}") from exc
    if found != sha256:
        raise DatasetError(f"{path}: is not the file that was ingested (its sha256 differs); ingest again")


def _make_folder(output: str | os.PathLike[str]) -> Path:
    run = Path(output)
    try:
        run.mkdir(parents=True, exist_ok=True)
        taken = any(run.iterdir())
    except OSError as exc:
        raise ModelError(f"{run}: expected a folder for the run: {exc.strerror}") from exc
    if taken:
        raise ModelError(f"{run}: expected a new or empty folder for the run, got one with files in it")
    return run


def _fit(spec: Spec, folder: DatasetFolder, run: Path, console: Console) -> tuple[Any, EpochLog, int]:
    """Trains until the validation loss no longer falls; returns the best epoch's model and that epoch's number."""
    options = spec.training
    keras.utils.set_random_seed(options.seed)
    model = build_forecaster(spec, folder.statistics)
    _compile(model, options)

    add_deviation = objective.add_deviation(spec, Constants.of(spec, folder.statistics))
    supervise = objective.supervise(spec)

    def batches(split: str, shuffle_seed: int | None = None) -> Any:
        cut = windows(folder, split, batch_size=options.batch_size, shuffle_seed=shuffle_seed)
        return cut.map(add_deviation).map(supervise).prefetch(tf.data.AUTOTUNE)

    yardstick = evaluate_persistence(spec, folder, "validation")["standardised"]["mae_persistence"]
    log = EpochLog(run / layout.METRICS_FILE, yardstick)
    lines = EpochLines(log, console, options.epochs)
    stop = keras.callbacks.EarlyStopping("val_loss", patience=options.patience, restore_best_weights=True)
    boards = keras.callbacks.TensorBoard(run / layout.LOGS_FOLDER, write_graph=False)
    try:
        model.fit(
            batches("train", options.seed),
            validation_data=batches("validation"),
            epochs=options.epochs,
            callbacks=[log, lines, stop, boards],
            verbose=0,
            shuffle=False,  # the reader shuffles
        )
    finally:
        lines.close()
    return model, log, min(log.records, key=lambda record: float(record["val_loss"]))["epoch"]


def _compile(model: Any, options: Training) -> None:
    model.compile(
        optimizer=keras.optimizers.Adam(options.learning_rate, global_clipnorm=options.clip_norm),
        loss={"mean": objective.ObservedLoss(objective.LOSSES[options.loss])},
        weighted_metrics={"mean": [objective.ObservedMean(objective.LOSSES["mae"], name="mae")]},
    )


def _lineage(folder: DatasetFolder) -> dict[str, Any]:
    """What the model is made of: the dataset by its manifest's hash, and the origins of its splits."""
    splits = {
        name: folder.split(name).model_dump(include={"windows", "first_origin_ms", "last_origin_ms"}) for name in SPLITS
    }
    return {"dataset_manifest_sha256": folder.digest, "splits": splits}


def _environment() -> dict[str, Any]:
    packages = ("tidegauge", "tensorflow", "keras", "numpy")
    return {
        "python": platform.python_version(),
        "machine": platform.machine(),
        "devices": sorted(device.device_type for device in tf.config.list_physical_devices()),
        **{package: importlib.metadata.version(package) for package in packages},
    }


def _write_json(path: Path, document: dict[str, Any]) -> None:
    path.write_text(json.dumps(document, indent=2) + "\n", encoding="utf-8")
