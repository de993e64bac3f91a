"""The registry of model versions: `<base>/<name>/<version>/`, as TF Serving watches it."""

from __future__ import annotations

import errno
import hashlib
import json
import os
import re
import shutil
import uuid
from pathlib import Path

from models.layout import EXPORT_FOLDER, MODEL_FILE
from schemas.errors import ModelError

_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,99}")


def push(run: str | os.PathLike[str], to: str | os.PathLike[str], name: str) -> int:
    """Publishes a run's export as the next version, whole or not at all.

    The files are copied beside the versions, under a name that is no number and so is none to a model server, and
    appear by one rename. Of several pushes at once each gets a version of its own.

    Args:
      run: what `models.train.train` wrote.
      to: the base folder of models; made where it does not exist.
      name: the served model's name.
    Returns:
      The version: the highest one there is, plus 1.
    Raises:
      ModelError: the run has no whole export, the name is none, or the base cannot be written.
    """
    export = Path(run) / EXPORT_FOLDER
    if not _NAME.fullmatch(name):
        raise ModelError(f"expected a model name of letters, digits and '._-', got '{name}'")
    check_files(export)
    versions = Path(to) / name
    arriving = versions / f".arriving-{uuid.uuid4().hex}"
    try:
        versions.mkdir(parents=True, exist_ok=True)
        try:
            shutil.copytree(export, arriving)
            _flush(arriving)
            version = _claim(arriving, versions)
        finally:
            shutil.rmtree(arriving, ignore_errors=True)
        _flush_one(versions)
    except OSError as exc:
        raise ModelError(f"{versions}: cannot publish {run}: {exc.strerror or exc}") from exc
    return version


def check_files(export: Path) -> None:
    """Checks that an exported model has every file that it was written with, unchanged.

    Raises:
      ModelError: it has not.
    """
    try:
        expected = json.loads((export / MODEL_FILE).read_bytes())["files"]
        for path, digest in expected.items():
            if hashlib.sha256((export / path).read_bytes()).hexdigest() != digest:
                raise ModelError(f"{export / path}: is not the file that was exported (its sha256 differs)")
    except OSError as exc:
        raise ModelError(f"{export}: expected an exported model; {exc.filename}: {exc.strerror}") from exc
    except (ValueError, KeyError, AttributeError, TypeError) as exc:
        raise ModelError(
            f"{export / MODEL_FILE}: expected the record of an exported model, got something else"
        ) from exc


def _claim(arriving: Path, versions: Path) -> int:
    """Renames a whole copy to the next free version."""
    while True:
        taken = [int(path.name) for path in versions.iterdir() if path.name.isdecimal()]
        version = max(taken, default=0) + 1
        try:
            os.rename(arriving, versions / str(version))
        except OSError as exc:
            # Another push was faster: a folder that is not empty cannot be renamed over.
            if exc.errno not in (errno.ENOTEMPTY, errno.EEXIST):
                raise
        else:
            return version


def _flush(folder: Path) -> None:
    for path in (*folder.rglob("*"), folder):
        _flush_one(path)


def _flush_one(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
