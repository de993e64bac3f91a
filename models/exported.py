"""Evaluates an exported model as those see it who serve it: of any family, and without the run that made it."""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import tensorflow as tf
from numpy.typing import NDArray

from models import layout
from models.evaluation import Batch, Evaluation, Forecast, evaluate_forecasts
from models.report import epochs_of, write_report
from models.run_folder import write_json
from models.saved_model import DEFAULT_SIGNATURE
from models.yardsticks import yardsticks
from schemas.dataset import DatasetFolder
from schemas.errors import ModelError
from schemas.spec import Spec, parse_spec


@dataclass(frozen=True, slots=True)
class Exported:
    """A SavedModel: the spec that it was made for, and its forecasts."""

    spec: Spec
    forecast: Forecast


def load_exported(model: str | os.PathLike[str]) -> Exported:
    """Loads the export of a run, or a SavedModel that `models.export` wrote.

    Args:
      model: the run's folder, or the SavedModel's.
    Raises:
      ModelError: there is none, or it cannot be loaded.
    """
    record, predict = load_signature(model)
    names = list(predict.structured_input_signature[1])

    def forecast(batch: Batch) -> Mapping[str, NDArray[Any]]:
        inputs = {name: tf.constant(batch[name].tolist() if name == "key" else batch[name]) for name in names}
        return {name: output.numpy() for name, output in predict(**inputs).items()}

    return Exported(parse_spec(record["spec"], where=str(model)), forecast)


def load_signature(model: str | os.PathLike[str]) -> tuple[dict[str, Any], Any]:
    """The record of an exported model of any kind, and its default signature.

    Args:
      model: a run's folder, or the SavedModel's.
    Raises:
      ModelError: there is none, or it cannot be loaded.
    """
    folder = Path(model)
    if (folder / layout.EXPORT_FOLDER).is_dir():
        folder = folder / layout.EXPORT_FOLDER
    try:
        record = json.loads((folder / layout.MODEL_FILE).read_bytes())
        loaded = tf.saved_model.load(str(folder))
        signature = loaded.signatures[DEFAULT_SIGNATURE]
    except (OSError, ValueError, KeyError, TypeError, tf.errors.OpError) as exc:
        problem = str(exc).partition("\n")[0]
        raise ModelError(f"{model}: expected the folder of a run or of an exported model: {problem:.300}") from exc
    signature.model = loaded  # of which it holds nothing itself
    return record, signature


def evaluate_exported(
    model: str | os.PathLike[str],
    data: str | os.PathLike[str],
    *,
    split: str = "test",
    output: str | os.PathLike[str] | None = None,
) -> Evaluation:
    """Evaluates an exported model on a split of a dataset, and writes `evaluation.json` and `report.html`.

    Args:
      model: a run's folder or a SavedModel's.
      data: a dataset of the model's windows.
      split: of the dataset.
      output: the folder for the files; the run's when left out.
    Raises:
      ModelError: there is no such model, `output` is left out for a model without a run, or it cannot be made.
      DatasetError: the dataset is of other windows, or has no such split.
    """
    run, target = run_of(model), target_of(model, output)
    exported, folder = load_exported(model), DatasetFolder(data)
    folder.require_windows_of(exported.spec)
    folder.split(split)
    make_folder(target)  # before the work, not after it
    beside = yardsticks(exported.spec, folder) if _can_be_fitted(folder) else {}
    evaluation = evaluate_forecasts(exported.spec, folder, split, exported.forecast, beside)
    write_evaluation(target, exported.spec, evaluation, run)
    return evaluation


def _can_be_fitted(folder: DatasetFolder) -> bool:
    """Whether there is something to fit a yardstick to: a dataset of all origins has persistence alone."""
    splits = folder.manifest.splits
    return all(name in splits and splits[name].windows for name in ("train", "validation"))


def write_evaluation(target: Path, spec: Spec, evaluation: Evaluation, run: Path | None) -> None:
    """Writes `evaluation.json` and `report.html`, with the run's learning curve where there is a run."""
    write_json(target / layout.EVALUATION_FILE, evaluation.document)
    write_report(target / layout.REPORT_FILE, spec, evaluation, epochs=epochs_of(run))


def target_of(model: str | os.PathLike[str], output: str | os.PathLike[str] | None) -> Path:
    """Where an evaluation goes: to `output`, or to the run's folder when left out.

    Raises:
      ModelError: it is left out for a model without a run.
    """
    target = Path(output) if output else run_of(model)
    if target is None:
        raise ModelError(f"{model}: expected --output for a model that is not in its run's folder")
    return target


def run_of(model: str | os.PathLike[str]) -> Path | None:
    """The folder of the run, where `model` is one and no exported model."""
    return Path(model) if (Path(model) / layout.EXPORT_FOLDER).is_dir() else None


def make_folder(target: Path) -> None:
    """Makes the folder of an evaluation.

    Raises:
      ModelError: it cannot be made.
    """
    try:
        target.mkdir(parents=True, exist_ok=True)
    except OSError as exc:
        raise ModelError(f"{target}: expected a folder for the evaluation: {exc.strerror}") from exc
