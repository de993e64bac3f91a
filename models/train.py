"""Trains the spec's model on a dataset, evaluates it beside persistence and exports it."""

from __future__ import annotations

import hashlib
import os
import shutil
import tempfile
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import keras
import tensorflow as tf
from numpy.typing import NDArray
from rich.console import Console

from models import layout, objective, stored
from models.calibration import calibrate, calibrated, needs_calibration
from models.descent import CHECKPOINT_SECONDS, Descent, Feed, descend
from models.distribution import Distribution, Kind
from models.evaluation import evaluate_forecasts, evaluate_persistence, forecast_of, skills_of
from models.export import export
from models.exported import write_evaluation
from models.families import FAMILIES
from models.families.family import FittedFamily
from models.forecaster import build_forecaster
from models.reader import batches_of, windows
from models.run_folder import check_file, open_run, write_json
from models.scaling import Constants
from models.yardsticks import yardsticks
from pipelines.kernels.metrics import skill
from schemas.dataset import DatasetFolder
from schemas.errors import DatasetError, ModelError
from schemas.model_spec import EnsembleModel
from schemas.spec import Spec, require_targets
from schemas.split_spec import SPLITS

Weights = list[NDArray[Any]]


@dataclass(frozen=True, slots=True)
class RunSummary:
    """What came of a training run.

    `mae` and `mae_persistence` are on the test split, by target, in its unit (None where nothing was observed); `skill`
    is 1 - MAE / MAE of persistence over all targets in standardised units (None where persistence is without error);
    `skills` are those against every yardstick. `windows` counts each split's. A family that is fitted without descent
    has no epochs.
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
    skills: dict[str, float | None]


def train(
    spec: Spec,
    *,
    data: str | os.PathLike[str],
    output: str | os.PathLike[str],
    resume: bool = False,
    quiet: bool = False,
    checkpoint_seconds: float = CHECKPOINT_SECONDS,
    strategy: Kind = "one",
    warm_from: str | os.PathLike[str] | None = None,
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
      strategy: over which devices (`models.distribution`). Of several processes the chief writes the run; to resume it,
        the others must see its folder.
      warm_from: the folder of an earlier run, with whose weights training begins. The normalisation is the new
        dataset's.
    Raises:
      SpecError: the stream has no target (`models.window_classes` trains on labels).
      ModelError: the spec has no model, the folder is taken or cannot be written, the run in it is another, that of
        `warm_from` is of another model, or the loss is no number any more.
      Interrupted: it was asked to stop, and can be resumed.
      DatasetError: the dataset is not the spec's, is damaged, or a split of it is empty.
    """
    started = time.perf_counter()
    require_targets(spec, "forecast")
    distribution = Distribution(strategy)
    folder = open_dataset(spec, data)
    record = {"spec": spec.semantic_document(), "family": family_of(spec), "lineage": lineage(folder)}
    start = None if warm_from is None else weights_to_start_from(spec, warm_from)
    if start is not None:
        record["started_from"] = {"weights_sha256": _digest(start)}
    with _folder_of(distribution, Path(output), resume=resume) as run:
        begun = open_run(run, record, resume=resume)
        if "outcome" in begun:
            return RunSummary(**begun["outcome"])
        console = Console(stderr=True, quiet=quiet or not distribution.is_chief)
        found = fit(
            spec, folder, run, console, checkpoint_seconds=checkpoint_seconds, distribution=distribution, start=start
        )
        return finish(run, spec, folder, begun | found.record, found.descent, started=started)


@dataclass(frozen=True, slots=True)
class Fit:
    """What came of fitting a model: for a descent its course, and what else a run's record says of it."""

    descent: Descent
    record: dict[str, Any]


def fit(
    spec: Spec,
    folder: DatasetFolder,
    run: Path,
    console: Console,
    *,
    checkpoint_seconds: float = CHECKPOINT_SECONDS,
    distribution: Distribution | None = None,
    stop_after: int | None = None,
    start: Weights | None = None,
) -> Fit:
    """Fits the spec's model, by descent or in closed form, and keeps it in the run's folder.

    Args:
      spec: with a model.
      folder: of `open_dataset`.
      run: the run's folder, with its `run.json`; a descent goes on from the checkpoint in it.
      console: for progress.
      checkpoint_seconds: between checkpoints within an epoch.
      distribution: over which devices.
      stop_after: of a descent, so many epochs now; it can go on later.
      start: the weights that a descent begins with; new ones when left out.
    Raises:
      ModelError, Interrupted: as for `train`.
    """
    if isinstance(spec.model, EnsembleModel):
        raise ModelError("$.model.family: an 'ensemble' is made of trained runs, by `tidegauge ensemble`")
    family = FAMILIES[family_of(spec)]
    if isinstance(family, FittedFamily):
        if distribution is not None and distribution.replicas > 1:
            raise ModelError(f"$.model.family: '{family_of(spec)}' is fitted on one device (--strategy one)")
        return Fit(Descent([], 0), {"fit": _fit(family, spec, folder, run, console)})
    spread = distribution or Distribution()
    return Fit(_descend(spec, folder, run, console, checkpoint_seconds, spread, stop_after, start), {})


def finish(
    run: Path, spec: Spec, folder: DatasetFolder, begun: Mapping[str, Any], descent: Descent, *, started: float
) -> RunSummary:
    """Makes a run complete: calibrates, evaluates and exports the model that is kept in its folder.

    Args:
      run: the run's folder.
      spec: the model's.
      folder: the dataset that it is evaluated on.
      begun: what `run.json` is to say, but for the outcome.
      descent: how the model was trained.
      started: by `time.perf_counter`, for the outcome's seconds.
    """
    kept = stored.load(run)
    model, calibration = kept.model, None
    if needs_calibration(spec):
        calibration = calibrate(spec, folder.statistics, folder, model)
        model = calibrated(spec, folder.statistics, model, calibration)
    evaluation = evaluate_forecasts(spec, folder, "test", forecast_of(spec, model), yardsticks(spec, folder))
    metrics = evaluation.document
    if "fit" in begun:
        metrics["fitted"] = begun["fit"]["summary"]
    write_evaluation(run, spec, evaluation, run)
    shutil.rmtree(run / layout.EXPORT_FOLDER, ignore_errors=True)  # of an attempt that was killed right after it
    export(
        spec,
        folder.statistics,
        kept.model.get_weights(),
        to=run / layout.EXPORT_FOLDER,
        state=kept.state,
        lineage={name: part for name, part in begun.items() if name != "spec"} | {"metrics": metrics},
        calibration=calibration,
    )
    summary = RunSummary(
        run=str(run),
        family=family_of(spec),
        windows={name: folder.split(name).windows for name in SPLITS},
        epochs=len(descent.records),
        best_epoch=descent.best_epoch,
        seconds=round(time.perf_counter() - started, 1),
        mae={name: scores["mae"] for name, scores in metrics["targets"].items()},
        mae_persistence={name: scores["mae_persistence"] for name, scores in metrics["targets"].items()},
        skill=metrics["standardised"]["skill"],
        skills=skills_of(metrics),
    )
    write_json(run / layout.RUN_FILE, {**begun, "outcome": asdict(summary)})
    (run / layout.CHECKPOINT_FILE).unlink(missing_ok=True)
    return summary


def family_of(spec: Spec) -> str:
    """The family of the spec's model.

    Raises:
      ModelError: the spec has no model.
    """
    if spec.model is None:
        raise ModelError("$.model: expected a model to train, got none")
    return spec.model.family


def weights_to_start_from(spec: Spec, run: str | os.PathLike[str]) -> Weights:
    """The weights of an earlier run, to train a spec's model on from.

    Raises:
      ModelError: there is no such run, its model is another one, or one that is not trained by descent.
    """
    if is_fitted(spec):
        raise ModelError(f"$.model.family: '{family_of(spec)}' is fitted in one go, and starts from no weights")
    kept = stored.load(run)
    if (kept.spec.model, kept.spec.window_fingerprint) != (spec.model, spec.window_fingerprint):
        raise ModelError(f"{run}: expected a run of this spec's model and windows to start from, got another")
    weights: Weights = kept.model.get_weights()
    return weights


def _digest(weights: Weights) -> str:
    digest = hashlib.sha256()
    for array in weights:
        digest.update(array.tobytes())
    return digest.hexdigest()


def is_fitted(spec: Spec) -> bool:
    """Whether the spec's family is fitted without descent."""
    return isinstance(FAMILIES.get(family_of(spec)), FittedFamily)


@contextmanager
def _folder_of(distribution: Distribution, output: Path, *, resume: bool) -> Iterator[Path]:
    """The folder that this process writes the run to: the chief's is the run's, another's is gone at the end."""
    if distribution.is_chief:
        yield output
        return
    with tempfile.TemporaryDirectory(prefix="tidegauge-worker-") as own:
        for name in (layout.RUN_FILE, layout.CHECKPOINT_FILE) if resume else ():
            if (output / name).exists():
                shutil.copy(output / name, own)
        yield Path(own)


def open_dataset(spec: Spec, data: str | os.PathLike[str]) -> DatasetFolder:
    """Opens a dataset to train a spec's model on.

    Raises:
      DatasetError: it is not the spec's, is damaged, or a split of it is empty.
      ModelError: the spec has no model, or options that no forecast has.
    """
    family_of(spec)
    if spec.training.class_weights is not None and not spec.classes:
        raise ModelError("$.training.class_weights: expected none for a forecast, which has no classes")
    folder = DatasetFolder(data)
    folder.require_windows_of(spec)
    if folder.spec.split != spec.split:
        raise DatasetError(f"{folder.path}: expected the splits of this spec ($.split), got others; ingest again")
    for name in SPLITS:
        if not folder.split(name).windows:
            raise DatasetError(f"{folder.path}: expected windows in the split '{name}', got none")
        for shard in folder.split(name).shards:
            check_file(folder.path / shard.path, shard.sha256)
    return folder


def _fit(family: FittedFamily, spec: Spec, folder: DatasetFolder, run: Path, console: Console) -> dict[str, Any]:
    """Fits a model without descent and keeps it in the run's folder; returns what is worth knowing of it."""
    fitted = family.fit(spec, folder)
    console.print(f"fitted: {fitted.summary}", highlight=False, soft_wrap=True)
    stored.save(run, folder.statistics, build_forecaster(spec, folder.statistics, state=fitted.state), fitted.state)
    return {"summary": fitted.summary, **fitted.report}


def _descend(
    spec: Spec,
    folder: DatasetFolder,
    run: Path,
    console: Console,
    checkpoint_seconds: float,
    distribution: Distribution,
    stop_after: int | None,
    start: Weights | None,
) -> Descent:
    """Trains until the validation loss no longer falls, and keeps the best epoch's model in the run's folder."""
    options = spec.training
    keras.utils.set_random_seed(options.seed)
    with distribution.scope():
        model = build_forecaster(spec, folder.statistics, precision=options.precision)
        if start is not None:
            model.set_weights(start)

    add_deviation = objective.add_deviation(spec, Constants.of(spec, folder.statistics))
    supervise = objective.supervise(spec)

    def batches(split: str, seed: Any = None, sample: int | None = None) -> Any:
        cut = windows(folder, split, batch_size=options.batch_size, shuffle_seed=seed, sample=sample)
        return cut.map(add_deviation).map(supervise).prefetch(tf.data.AUTOTUNE)

    feed = Feed(
        train=lambda seed: batches("train", seed, options.windows_per_epoch),
        train_steps=batches_of(folder.split("train").windows, options.batch_size, options.windows_per_epoch),
        validation=batches("validation"),
        validation_steps=batches_of(folder.split("validation").windows, options.batch_size),
    )
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
        distribution=distribution,
        stop_after=stop_after,
    )
    stored.save(run, folder.statistics, model)
    return descent


def lineage(folder: DatasetFolder) -> dict[str, Any]:
    """What the model is made of: the dataset by its manifest's hash, and the origins of its splits."""
    splits = {
        name: folder.split(name).model_dump(include={"windows", "first_origin_ms", "last_origin_ms"}) for name in SPLITS
    }
    return {"dataset_manifest_sha256": folder.digest, "splits": splits}
