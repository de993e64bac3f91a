"""How a run goes, whatever it trains: begun or found again, fitted, measured, exported, and told of."""

from __future__ import annotations

import hashlib
import os
import shutil
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, TypedDict

import keras
from numpy.typing import NDArray
from rich.console import Console

from models import layout
from models.descent import CHECKPOINT_SECONDS, Descent, descend
from models.distribution import Distribution, Kind
from models.run_folder import open_run, write_json
from models.task import Course, S, Task
from schemas.errors import ModelError

Weights = list[NDArray[Any]]
"""Of a model, as Keras's `get_weights` gives them."""


class RunOptions(TypedDict, total=False):
    """The options of `carry_out`."""

    resume: bool
    quiet: bool
    checkpoint_seconds: float
    strategy: Kind


def carry_out(
    open_task: Callable[[], Task[S]],
    output: str | os.PathLike[str],
    *,
    resume: bool = False,
    quiet: bool = False,
    checkpoint_seconds: float = CHECKPOINT_SECONDS,
    strategy: Kind = "one",
    start: Callable[[], Weights] | None = None,
) -> S:
    """Trains a model and leaves all that belongs to it in a folder (`models.layout` says what).

    Args:
      open_task: opens what to train.
      output: the run's folder; it must not exist, or be empty, unless it holds the run to resume.
      resume: goes on with the run in the folder, if there is one. One that is complete is left as it is.
      quiet: prints nothing; else the progress goes to standard error.
      checkpoint_seconds: between checkpoints within an epoch; there is one at the end of each epoch anyway.
      strategy: over which devices (`models.distribution`). Of several processes the chief writes the run; to resume it,
        the others must see its folder.
      start: gives the weights that a descent begins with; new ones when left out.
    Raises:
      ModelError: the folder is taken or cannot be written, the run in it is another, or the loss is no number any more.
      Interrupted: it was asked to stop, and can be resumed.
    """
    started = time.perf_counter()
    distribution = Distribution(strategy)  # before the task, which reads the dataset by TensorFlow
    task = open_task()
    weights = None if start is None else start()
    record = {**task.record, "started_from": None if weights is None else {"weights_sha256": _digest(weights)}}
    with _folder_of(distribution, Path(output), resume=resume) as run:
        begun = open_run(run, record, resume=resume)
        if "outcome" in begun:
            return task.summary(**begun["outcome"])
        console = Console(stderr=True, quiet=quiet or not distribution.is_chief)
        found = fit(task, run, console, checkpoint_seconds=checkpoint_seconds, distribution=distribution, start=weights)
        return finish(task, run, begun | found.record, found.descent, started=started)


@dataclass(frozen=True, slots=True)
class Fit:
    """What came of fitting a model: for a descent its course, and what else a run's record says of it."""

    descent: Descent
    record: dict[str, Any]


def fit(
    task: Task[S],
    run: Path,
    console: Console,
    *,
    checkpoint_seconds: float = CHECKPOINT_SECONDS,
    distribution: Distribution | None = None,
    stop_after: int | None = None,
    start: Weights | None = None,
) -> Fit:
    """Fits the task's model, by descent or without, and keeps it in the run's folder.

    Args:
      task: what to train.
      run: the run's folder, with its `run.json`; a descent goes on from the checkpoint in it.
      console: for progress.
      checkpoint_seconds: between checkpoints within an epoch.
      distribution: over which devices.
      stop_after: of a descent, so many epochs now; it can go on later.
      start: the weights that a descent begins with; new ones when left out.
    Raises:
      ModelError, Interrupted: as for `carry_out`.
    """
    spread, training = distribution or Distribution(), task.spec.training
    if task.fitted:
        if spread.replicas > 1:
            raise ModelError(f"$.model.family: '{task.family}' is fitted on one device (--strategy one)")
        return Fit(Descent([], 0), task.fit(run, console))
    keras.utils.set_random_seed(training.seed)
    with spread.scope():
        model = task.build()
        if start is not None:
            model.set_weights(start)
    descent = descend(
        model,
        training,
        task.objective(),
        task.feed(model),
        run=run,
        console=console,
        remarks=task.remarks(),
        checkpoint_seconds=checkpoint_seconds,
        distribution=spread,
        stop_after=stop_after,
    )
    task.keep(run, model)
    return Fit(descent, {})


def finish(task: Task[S], run: Path, begun: Mapping[str, Any], descent: Descent, *, started: float) -> S:
    """Makes a run complete: measures and exports the model that is kept in its folder.

    Args:
      task: what was trained.
      run: the run's folder.
      begun: what `run.json` is to say, but for the outcome.
      descent: how the model was trained.
      started: by `time.perf_counter`, for the outcome's seconds.
    """
    shutil.rmtree(run / layout.EXPORT_FOLDER, ignore_errors=True)  # of an attempt that was killed right after it
    metrics = task.complete(run, {name: part for name, part in begun.items() if name != "spec"})
    seconds = round(time.perf_counter() - started, 1)
    course = Course(str(run), task.family, len(descent.records), descent.best_epoch, seconds)
    summary = task.summarise(course, metrics)
    write_json(run / layout.RUN_FILE, {**begun, "outcome": asdict(summary)})  # type: ignore[call-overload]
    (run / layout.CHECKPOINT_FILE).unlink(missing_ok=True)
    return summary


def _digest(weights: Weights) -> str:
    digest = hashlib.sha256()
    for array in weights:
        digest.update(array.tobytes())
    return digest.hexdigest()


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
