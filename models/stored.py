"""A trained model as it is kept in its run's folder, and made again from it.

A run keeps what its model is built from (the spec, the dataset's statistics) and its weights, rather than a saved
graph: the model can be trained on, be built anew for another device, and be a member of another model.
"""

from __future__ import annotations

import json
import os
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from models import layout
from models.fitting import State, read_state, write_state
from models.forecaster import build_forecaster
from schemas.dataset import Statistics
from schemas.errors import ModelError
from schemas.spec import Spec, parse_spec


@dataclass(frozen=True, slots=True)
class Stored:
    """A trained model and what it was built from; `model` is as `models.forecaster.build_forecaster` gives it."""

    spec: Spec
    statistics: Statistics
    model: Any
    state: State | None
    """Of a family that is fitted without descent."""


def save(run: Path, statistics: Statistics, model: Any, state: State | None = None) -> None:
    """Keeps a trained model in its run's folder, where `run.json` has its spec already."""
    if state is not None:
        write_state(run / layout.STATE_FILE, state)
    (run / layout.STATISTICS_FILE).write_text(statistics.model_dump_json() + "\n", encoding="utf-8")
    # By a rename, so that weights are there whole or not at all.
    unfinished = run / f".unfinished-{layout.WEIGHTS_FILE}"
    model.save_weights(unfinished)
    unfinished.rename(run / layout.WEIGHTS_FILE)


def load(run: str | os.PathLike[str], *, portable: bool = False) -> Stored:
    """The trained model of a run, in float32 whatever it was trained in.

    Args:
      run: its folder.
      portable: see `models.forecaster.build_forecaster`.
    Raises:
      ModelError: the folder holds no trained model.
    """
    folder = Path(run)
    try:
        spec = parse_spec(json.loads((folder / layout.RUN_FILE).read_bytes())["spec"], where=str(folder))
        statistics = Statistics.model_validate_json((folder / layout.STATISTICS_FILE).read_bytes())
        kept = folder / layout.STATE_FILE
        state = read_state(kept) if kept.exists() else None
        model = build_forecaster(spec, statistics, portable=portable, state=state)
        model.load_weights(folder / layout.WEIGHTS_FILE)
    except (OSError, ValueError, KeyError, TypeError, ValidationError) as exc:
        raise ModelError(f"{folder}: expected the folder of a complete run, with its model: {exc}") from exc
    return Stored(spec, statistics, model, state)
