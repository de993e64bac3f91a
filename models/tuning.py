"""Searches a spec's fields for what does best on the validation split.

Two ways: `random` trains each drawn candidate whole. `halving` (successive halving, Jamieson and Talwalkar 2016) gives
all of them a little, and the best third of each round three times as much, until the last round trains whole. What
they get more of is epochs (a candidate goes on from where it was stopped, so nothing is trained twice), or windows
an epoch (it begins anew).

The test split is not looked at. What is done is on disk, so a search that was killed goes on where it was.
"""

from __future__ import annotations

import json
import math
import os
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Literal

import keras
import numpy as np
import yaml
from rich.console import Console

from models import layout
from models.run import fit
from models.run_folder import open_run, write_json
from models.task import Task
from models.tasks import open_task
from schemas.errors import Interrupted, ModelError, SpecError
from schemas.search_space import SearchSpace, with_values
from schemas.section import Count, Section
from schemas.spec import Spec
from schemas.text_spec import TextSpec, parse_any_spec
from schemas.training_spec import Training

FACTOR = 3
"""Of successive halving: one in so many goes on, with so many times as much."""
BEST_FILE = "best.yaml"
TABLE_FILE = "trials.json"
_TRIAL_FILE = "trial.json"
_TRIES = 100


class Search(Section):
    """How to search. `seed` draws the candidates; `metric` is one of the task's scores, its first when left out."""

    trials: Count = 20
    method: Literal["random", "halving"] = "random"
    grows: Literal["epochs", "windows"] = "epochs"
    metric: Literal["mae", "mse", "cross_entropy", "error_rate"] | None = None
    seed: int = 0


@dataclass(slots=True)
class Trial:
    """A candidate: its number from 1, its values, and its score on validation after each round that it was in."""

    number: int
    values: dict[str, Any]
    scores: list[float] = field(default_factory=list)
    seconds: float = 0.0
    failed: str | None = None

    @property
    def score(self) -> float | None:
        """After its last round; None for one that failed, or was in none."""
        return self.scores[-1] if self.scores and self.failed is None else None


@dataclass(frozen=True, slots=True)
class Tuned:
    """What came of a search: its metric, the trials, the furthest and best first, and the best one's spec."""

    best: str
    metric: str
    trials: list[Trial]


def tune(
    document: Mapping[str, Any],
    space: SearchSpace,
    search: Search,
    *,
    data: str | os.PathLike[str],
    output: str | os.PathLike[str],
    resume: bool = False,
    report: Callable[[str], None] = lambda _: None,
) -> Tuned:
    """Searches, and leaves a folder with `best.yaml`, `trials.json` and a folder for each trial.

    Args:
      document: the spec as its file has it; the candidates are it with other values.
      space: where to look.
      search: how.
      data: a dataset of the spec and its splits.
      output: a new or empty folder, unless it holds the search to resume.
      resume: goes on with the search in the folder, if there is one.
      report: takes a line for each trial.
    Raises:
      SpecError: the spec is wrong, or the space has too few candidates that are right.
      ModelError: such models have no such metric, the folder is taken, or no candidate could be trained.
      DatasetError: the dataset cannot be trained on.
      Interrupted: it was asked to stop, and can be resumed.
    """
    spec = parse_any_spec(document)
    task = open_task(spec, data)
    search = _fitting(search, task)
    folder = Path(output)
    candidates = list(_candidates(document, space, search))
    record = {
        "spec": spec.semantic_document(),
        "lineage": task.lineage,
        "search": search.model_dump(),
        "candidates": [values for values, _ in candidates],
    }
    open_run(folder, record, resume=resume)
    trials = [Trial(number, values) for number, (values, _) in enumerate(candidates, start=1)]
    left = trials
    rounds = _rounds(spec.training, task.cases("train"), search)
    for number, (keep, resource) in enumerate(rounds):
        left = left[:keep]
        for trial in left:
            candidate = candidates[trial.number - 1][1]
            _advance(trial, number, resource, candidate, search, data, folder / "trials" / f"{trial.number:03}")
            report(_line(trial, number, len(rounds), search))
        left = sorted((trial for trial in left if trial.score is not None), key=_rank)
        if not left:
            raise ModelError(f"{folder}: no candidate could be trained; the first: {trials[0].failed}")
    trials.sort(key=_rank)
    best = folder / BEST_FILE
    chosen = with_values(document, trials[0].values)
    best.write_text(yaml.safe_dump(chosen, sort_keys=False, allow_unicode=True), encoding="utf-8")
    write_json(folder / TABLE_FILE, {"metric": search.metric, "trials": [asdict(trial) for trial in trials]})
    return Tuned(str(best), str(search.metric), trials)


def _fitting(search: Search, task: Task[Any]) -> Search:
    """The search with the metric that it goes by.

    Raises:
      ModelError: such models have no such metric, or no windows to grow by.
    """
    metric = search.metric or task.scores[0]
    if metric not in task.scores:
        raise ModelError(f"--metric: expected one of {', '.join(task.scores)} for such models, got '{metric}'")
    if search.grows == "windows" and isinstance(task.spec, TextSpec):
        raise ModelError("--grows: expected epochs; an epoch of texts is the whole train split")
    return search.model_copy(update={"metric": metric})


def _candidates(
    document: Mapping[str, Any], space: SearchSpace, search: Search
) -> Iterator[tuple[dict[str, Any], Spec | TextSpec]]:
    """Different candidates that are right as specs, as many as asked for or as there are."""
    rng = np.random.default_rng(search.seed)
    seen: set[str] = set()
    found, problem = 0, "got none"
    for _ in range(_TRIES * search.trials):
        values = space.draw(rng)
        name = json.dumps(values, sort_keys=True)
        if name in seen:
            continue
        seen.add(name)
        try:  # some combinations are none, such as a momentum without an optimizer that has one
            spec = parse_any_spec(with_values(document, values))
        except SpecError as exc:
            problem = f"the last that was drawn: {exc}"
            continue
        yield values, spec
        found += 1
        if found == search.trials:
            return
    if not found:
        raise SpecError(f"expected candidates that are right as specs; {problem}")


def _rounds(training: Training, cases: int, search: Search) -> list[tuple[int, int | None]]:
    """How many candidates are in each round, and how much each of them gets; None is all there is."""
    if search.method == "random":
        return [(search.trials, None)]
    whole = training.epochs if search.grows == "epochs" else training.windows_per_epoch or cases
    least = 1 if search.grows == "epochs" else min(training.batch_size, whole)
    halvings = 0
    while FACTOR ** (halvings + 1) <= min(search.trials, whole // least):
        halvings += 1
    rounds = [
        (math.ceil(search.trials / FACTOR**number), max(least, whole // FACTOR ** (halvings - number)))
        for number in range(halvings)
    ]
    return [*rounds, (math.ceil(search.trials / FACTOR**halvings), None)]


def _advance(
    trial: Trial,
    number: int,
    resource: int | None,
    spec: Spec | TextSpec,
    search: Search,
    data: str | os.PathLike[str],
    folder: Path,
) -> None:
    """Takes a trial through a round, unless it has been."""
    done = folder / _TRIAL_FILE
    if done.exists():
        known = json.loads(done.read_bytes())
        rounds = len(known["scores"])
        if rounds > number or (rounds == number and known["failed"]):
            trial.scores, trial.seconds = known["scores"][: number + 1], known["seconds"]
            trial.failed = known["failed"] if rounds == number else None
            return
    started = time.perf_counter()
    run = folder / "run"
    stop_after = resource if search.grows == "epochs" else None
    if search.grows == "windows":
        run = folder / f"run-{number + 1}"
        if resource is not None:
            spec = parse_any_spec(with_values(spec.semantic_document(), {"training.windows_per_epoch": resource}))
    keras.backend.clear_session()
    try:
        task = open_task(spec, data)
        open_run(run, task.record, resume=True)
        if not (task.fitted and (run / layout.WEIGHTS_FILE).exists()):  # which more epochs would not change
            fit(task, run, Console(quiet=True), stop_after=stop_after)
        trial.scores.append(task.validate(run)[str(search.metric)])
    except Interrupted:
        raise
    except ModelError as exc:  # this candidate's, such as a loss that is no number
        trial.failed = str(exc)
    trial.seconds += round(time.perf_counter() - started, 1)
    write_json(done, asdict(trial))


def _rank(trial: Trial) -> tuple[int, int, float]:
    """The best first: of those that came furthest the lowest score; at the end those that failed."""
    if trial.score is None:
        return 1, 0, 0.0
    return 0, -len(trial.scores), trial.score


def _line(trial: Trial, number: int, rounds: int, search: Search) -> str:
    told = f"failed: {trial.failed}" if trial.failed else f"validation {search.metric} {trial.score:.4f}"
    within = f" round {number + 1} of {rounds}" if rounds > 1 else ""
    values = ", ".join(f"{path} {_short(value)}" for path, value in trial.values.items())
    return f"trial {trial.number}{within}: {told}, {trial.seconds:.1f} s ({values})"


def _short(value: Any) -> str:
    return f"{value:.4g}" if isinstance(value, float) else str(value)


def table(tuned: Tuned) -> list[str]:
    """The trials as lines of a table."""
    paths = list(tuned.trials[0].values)
    rows = [["trial", tuned.metric, "rounds", "seconds", *paths]]
    for trial in tuned.trials:
        score = "failed" if trial.score is None else f"{trial.score:.4f}"
        values = [_short(trial.values[path]) for path in paths]
        rows.append([str(trial.number), score, str(len(trial.scores)), f"{trial.seconds:.1f}", *values])
    widths = [max(len(row[column]) for row in rows) for column in range(len(rows[0]))]
    return ["  ".join(cell.rjust(width) for cell, width in zip(row, widths, strict=True)) for row in rows]
