"""Trains the spec's model on a dataset, evaluates it beside persistence and exports it."""

from __future__ import annotations

import hashlib
import importlib.metadata
import json
import math
import os
import platform
import shutil
import time
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import keras
import tensorflow as tf
from rich.console import Console

from models import layout, objective, stored
from models.descent import CHECKPOINT_SECONDS, Descent, Feed, descend
from models.evaluation import evaluate_model, evaluate_persistence
from models.export import export
from models.forecaster import build_forecaster
from models.reader import windows
from models.scaling import Constants
from models.yardsticks import skill
from schemas.dataset import DatasetFolder
from schemas.errors import DatasetError, ModelError
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
    spec: Spec,
    *,
    data: str | os.PathLike[str],
    output: str | os.PathLike[str],
    resume: bool = False,
    quiet: bool = False,
    checkpoint_seconds: float = CHECKPOINT_SECONDS,
) -> RunSummary:
    """Trains a model and leaves all that belongs to it in a folder (`models.layout` says what).

    On a CPU the same spec and dataset give the same model, however often the run was stopped and resumed.

    Args:
      spec: with a model.
      data: a dataset of the spec's windows and splits.
      output: the run's folder; it must not exist, or be empty, unless it holds the run to resume.
      resume: goes on with the run in the folder, if there is one. One that is complete is left as it is.
      quiet: prints nothing; else the progress goes to standard error.
      checkpoint_seconds: between checkpoints within an epoch; there is one at the end of each epoch anyway.
    Raises:
      ModelError: the spec has no model, the folder is taken or cannot be written, the run in it is another, or the loss
        is no number any more.
      Interrupted: it was asked to stop, and can be resumed.
      DatasetError: the dataset is not the spec's, is damaged, or a split of it is empty.
    """
    if spec.model is None:
        raise ModelError("$.model: expected a model to train, got none")
    started = time.perf_counter()
    folder = _open_dataset(spec, data)
    run = Path(output)
    record = {"spec": spec.semantic_document(), "family": spec.model.family, "lineage": _lineage(folder)}
    begun = _open_run(run, record, resume=resume)
    if "outcome" in begun:
        return RunSummary(**begun["outcome"])
    descent = _fit(spec, folder, run, Console(stderr=True, quiet=quiet), checkpoint_seconds)
    model = stored.load(run).model
    metrics = evaluate_model(spec, folder, "test", model)
    _write_json(run / layout.EVALUATION_FILE, {"split": "test", **metrics})
    shutil.rmtree(run / layout.EXPORT_FOLDER, ignore_errors=True)  # of an attempt that was killed right after it
    export(
        spec,
        folder.statistics,
        model.get_weights(),
        to=run / layout.EXPORT_FOLDER,
        lineage={name: part for name, part in begun.items() if name != "spec"}
        | {"metrics": {"split": "test", **metrics}},
    )
    summary = RunSummary(
        run=str(run),
        family=spec.model.family,
        windows={name: folder.split(name).windows for name in SPLITS},
        epochs=len(descent.records),
        best_epoch=descent.best_epoch,
        seconds=round(time.perf_counter() - started, 1),
        mae={name: scores["mae"] for name, scores in metrics["targets"].items()},
        mae_persistence={name: scores["mae_persistence"] for name, scores in metrics["targets"].items()},
        skill=metrics["standardised"]["skill"],
    )
    _write_json(run / layout.RUN_FILE, begun | {"outcome": asdict(summary)})
    (run / layout.CHECKPOINT_FILE).unlink()
    return summary


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


def _open_run(run: Path, record: Mapping[str, Any], *, resume: bool) -> dict[str, Any]:
    """Begins a run in its folder, or finds the one that is there; returns what its `run.json` says."""
    try:
        run.mkdir(parents=True, exist_ok=True)
        taken = any(run.iterdir())
    except OSError as exc:
        raise ModelError(f"{run}: expected a folder for the run: {exc.strerror}") from exc
    if not taken:
        begun = {**record, "environment": _environment()}
        _write_json(run / layout.RUN_FILE, begun)
        return begun
    if not resume:
        raise ModelError(f"{run}: expected a new or empty folder for the run, got one with files in it")
    try:
        found: dict[str, Any] = json.loads((run / layout.RUN_FILE).read_bytes())
    except (OSError, ValueError) as exc:
        raise ModelError(f"{run}: expected a run to resume, got a folder without a readable {layout.RUN_FILE}") from exc
    for name, part in json.loads(json.dumps(record)).items():
        if found.get(name) != part:
            raise ModelError(f"{run}: expected a run of this spec and dataset to resume, got one with another {name}")
    return found


def _fit(spec: Spec, folder: DatasetFolder, run: Path, console: Console, checkpoint_seconds: float) -> Descent:
    """Trains until the validation loss no longer falls, and keeps the best epoch's model in the run's folder."""
    options = spec.training
    keras.utils.set_random_seed(options.seed)
    model = build_forecaster(spec, folder.statistics)

    add_deviation = objective.add_deviation(spec, Constants.of(spec, folder.statistics))
    supervise = objective.supervise(spec)

    def batches(split: str, seed: Any = None) -> Any:
        cut = windows(folder, split, batch_size=options.batch_size, shuffle_seed=seed)
        return cut.map(add_deviation).map(supervise).prefetch(tf.data.AUTOTUNE)

    def steps(split: str) -> int:
        return math.ceil(folder.split(split).windows / options.batch_size)

    feed = Feed(lambda seed: batches("train", seed), steps("train"), batches("validation"), steps("validation"))
    yardstick = evaluate_persistence(spec, folder, "validation")["standardised"]["mae_persistence"]
    descent = descend(
        model,
        options,
        objective.objective(spec),
        feed,
        run=run,
        console=console,
        remarks=lambda numbers: {"val_skill": skill(numbers["val_mae"], yardstick)},
        checkpoint_seconds=checkpoint_seconds,
    )
    stored.save(run, folder.statistics, model)
    return descent


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


def _write_json(path: Path, document: Mapping[str, Any]) -> None:
    unfinished = path.with_name(f".{path.name}-unfinished")
    unfinished.write_text(json.dumps(document, indent=2) + "\n", encoding="utf-8")
    unfinished.replace(path)
