"""A run's folder: begun or found again, and its JSON files."""

from __future__ import annotations

import hashlib
import importlib.metadata
import json
import platform
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import tensorflow as tf

from models import layout
from schemas.errors import DatasetError, ModelError


def open_run(run: Path, record: Mapping[str, Any], *, resume: bool) -> dict[str, Any]:
    """Begins a run in its folder, or finds the one that is there.

    Args:
      run: the folder.
      record: JSON values that tell this run from others; with them `run.json` begins.
      resume: a run may be there, of the same record.
    Returns:
      What its `run.json` says.
    Raises:
      ModelError: the folder is taken, cannot be written, or holds another run.
    """
    try:
        run.mkdir(parents=True, exist_ok=True)
        taken = any(run.iterdir())
    except OSError as exc:
        raise ModelError(f"{run}: expected a folder for the run: {exc.strerror}") from exc
    if not taken:
        begun = {**record, "environment": _environment()}
        write_json(run / layout.RUN_FILE, begun)
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


def check_file(path: Path, sha256: str) -> None:
    """Checks that a file of a dataset is the one that was ingested.

    Raises:
      DatasetError: it is not.
    """
    # Before training, where it can be said in one line: TensorFlow finds damage only when it comes to it.
    try:
        with path.open("rb") as file:
            found = hashlib.file_digest(file, "sha256").hexdigest()
    except OSError as exc:
        raise DatasetError(f"{path}: cannot be read: {exc.strerror}") from exc
    if found != sha256:
        raise DatasetError(f"{path}: is not the file that was ingested (its sha256 differs); ingest again")


def write_json(path: Path, document: Mapping[str, Any]) -> None:
    """Writes a document, in the place of an earlier one: whatever happens, a whole one is there."""
    unfinished = path.with_name(f".{path.name}-unfinished")
    unfinished.write_text(json.dumps(document, indent=2) + "\n", encoding="utf-8")
    unfinished.replace(path)


def _environment() -> dict[str, Any]:
    packages = ("tidegauge", "tensorflow", "keras", "numpy")
    return {
        "python": platform.python_version(),
        "machine": platform.machine(),
        "devices": sorted(device.device_type for device in tf.config.list_physical_devices()),
        **{package: importlib.metadata.version(package) for package in packages},
    }
