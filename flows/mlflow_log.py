"""Logs retraining runs to MLflow, beside the registry's records. That one could not be logged is a warning."""

from __future__ import annotations

import logging
import math
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from schemas.registry_record import Record
from schemas.retrain_spec import Mlflow

_LOGGER = logging.getLogger(__name__)

_RUN_TAG = "tidegauge.run"
_MOST_CHARACTERS = 500
"""Of a parameter, and of a tag: as little as any MLflow server takes."""


def log_run(settings: Mlflow, model: str, record: Record, card: Path) -> bool:
    """Logs a run's scores, what its model was made of and its run card; once, whatever is run again.

    Args:
      settings: where to.
      model: its name, which the experiment has too unless the settings name another.
      record: of the promotion or the refusal.
      card: the run card's file.
    Returns:
      Whether it is there.
    """
    try:
        from mlflow import MlflowClient, MlflowException
    except ImportError as exc:
        _LOGGER.warning(
            "$.retrain.mlflow: expected the package mlflow-skinny (or mlflow), which is not installed: %s", exc
        )
        return False
    name = settings.experiment or model
    run = f"{model} {'..'.join(record.interval or ())} {record.event}"
    try:
        client = MlflowClient(tracking_uri=settings.tracking_uri)
        found = client.get_experiment_by_name(name)
        experiment = client.create_experiment(name) if found is None else found.experiment_id
        logged = f"tags.`{_RUN_TAG}` = '{run}' and attributes.status = 'FINISHED'"
        if client.search_runs([experiment], logged, max_results=1):
            return True
        begun = client.create_run(experiment, run_name=run, tags={_RUN_TAG: run, **_tags(record)}).info.run_id
        for key, score in _metrics(record.metrics):
            client.log_metric(begun, key, score)
        for key, text in _parameters(record):
            client.log_param(begun, key, text)
        client.log_artifact(begun, str(card))
        client.set_terminated(begun)
    except (MlflowException, OSError) as exc:
        _LOGGER.warning("$.retrain.mlflow: %s was not logged: %s", run, exc)
        return False
    return True


def _tags(record: Record) -> dict[str, str]:
    version = {} if record.version is None else {"tidegauge.version": str(record.version)}
    return {"tidegauge.outcome": record.event, "mlflow.note.content": record.reason[:_MOST_CHARACTERS]} | version


def _metrics(scores: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, float]]:
    """The numbers among JSON values, by their paths: `champion/mae`."""
    for name, value in scores.items():
        if isinstance(value, Mapping):
            yield from _metrics(value, f"{prefix}{name}/")
        elif isinstance(value, int | float) and math.isfinite(value):
            yield prefix + name, float(value)


def _parameters(record: Record) -> Iterator[tuple[str, str]]:
    made_of = {} if record.lineage is None else record.lineage.model_dump(exclude_none=True)
    for name, value in {**made_of, "run": record.run, "champion": record.champion}.items():
        if value is not None:
            text = " ".join(value) if isinstance(value, tuple) else str(value)
            yield name, text if len(text) <= _MOST_CHARACTERS else text[: _MOST_CHARACTERS - 1] + "…"
