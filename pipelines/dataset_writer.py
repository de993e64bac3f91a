"""The dataset folder: built beside its place, then renamed, so that a job that dies leaves no half dataset.

What a killed job leaves behind (`OUTPUT.tmp-*`, `OUTPUT.old-*`) the next job with the same output clears away. A living
job holds a lock on its folder, by which it is told from a dead one.
"""

from __future__ import annotations

import fcntl
import glob
import hashlib
import shutil
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from pipelines.dataset_schema import schema_text
from pipelines.feature_statistics import feature_statistics, features_text
from pipelines.spans import Span
from schemas.dataset import (
    COMPLETED_FILE,
    FEATURE_STATISTICS_FILE,
    FEATURES_FILE,
    MANIFEST_FILE,
    SCHEMA_FILE,
    SPANS_FOLDER,
    STATISTICS_FILE,
    VALIDATION_FILE,
    DatasetFolder,
    Manifest,
    Statistics,
    Validation,
    span_folders,
)
from schemas.errors import DatasetError
from schemas.spec import Spec

_TEMPORARY, _OLD = ".tmp-", ".old-"
_LOCK_FILE = ".lock"


@contextmanager
def building(output: Path, *, overwrite: bool) -> Iterator[Path]:
    """A folder to build a dataset in, which takes the place of `output` at the end; it goes when the block fails.

    Raises:
      DatasetError: `output` is a dataset and `overwrite` is not given, or it is something else, which is never deleted.
    """
    _clear_leftovers(output)
    _require_place(output, overwrite=overwrite)
    mark = uuid.uuid4().hex[:12]
    folder = _building_folder(output, mark)
    try:
        try:
            folder.mkdir(parents=True)
        except OSError as exc:
            raise DatasetError(f"{output}: expected a folder that can be written, got {exc.strerror}") from exc
        with _locked(folder):
            yield folder
            _require_place(output, overwrite=overwrite)
            (folder / _LOCK_FILE).unlink()
            _put(folder, output, output.with_name(f"{output.name}{_OLD}{mark}"))
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def span_place(output: Path, span: Span) -> Path:
    """Where a span of the dataset at `output` belongs.

    Raises:
      DatasetError: `output` is a dataset without spans, or has one that overlaps.
    """
    if (output / COMPLETED_FILE).exists():
        raise DatasetError(f"{output}: expected a dataset of spans, got one that was ingested whole")
    for other in span_folders(output):
        interval = DatasetFolder(other).manifest.interval_ms
        if interval and other.name != span.folder and interval[0] < span.end_ms and span.start_ms < interval[1]:
            raise DatasetError(f"{output}: the interval overlaps the span {other.name}")
    return output / SPANS_FOLDER / span.folder


def complete(folder: Path, spec: Spec, manifest: Manifest, statistics: Statistics, validation: Validation) -> None:
    """Writes what a dataset has beside its shards; `COMPLETED` last."""
    text = manifest.model_dump_json(indent=2).encode() + b"\n"
    (folder / STATISTICS_FILE).write_text(statistics.model_dump_json(indent=2) + "\n")
    (folder / VALIDATION_FILE).write_text(validation.model_dump_json(indent=2) + "\n")
    (folder / SCHEMA_FILE).write_text(schema_text(spec))
    (folder / FEATURES_FILE).write_text(features_text(spec))
    (folder / FEATURE_STATISTICS_FILE).write_bytes(feature_statistics(spec, statistics))
    (folder / MANIFEST_FILE).write_bytes(text)
    (folder / COMPLETED_FILE).write_text(hashlib.sha256(text).hexdigest() + "\n")


def _require_place(output: Path, *, overwrite: bool) -> None:
    if not output.exists() or (output.is_dir() and not any(output.iterdir())):
        return
    if not (output / COMPLETED_FILE).is_file():
        raise DatasetError(f"{output}: expected a new folder, or a dataset to replace, got something else")
    if not overwrite:
        raise DatasetError(f"{output}: expected a new folder, got a dataset; overwrite it, or name another output")


def _building_folder(output: Path, mark: str) -> Path:
    return output.with_name(f"{output.name}{_TEMPORARY}{mark}")


def _clear_leftovers(output: Path) -> None:
    name = glob.escape(output.name)
    for old in output.parent.glob(f"{name}{_OLD}*"):
        if _is_alive(_building_folder(output, old.name.rpartition(_OLD)[2])):
            continue
        if output.exists():
            shutil.rmtree(old, ignore_errors=True)
        else:  # the job died between putting the old dataset aside and the new one in its place
            old.rename(output)
    for folder in output.parent.glob(f"{name}{_TEMPORARY}*"):
        if not _is_alive(folder):
            shutil.rmtree(folder, ignore_errors=True)


@contextmanager
def _locked(folder: Path) -> Iterator[None]:
    with (folder / _LOCK_FILE).open("w") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        yield


def _is_alive(folder: Path) -> bool:
    """Whether a job builds in the folder now."""
    try:
        with (folder / _LOCK_FILE).open("r+") as file:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except FileNotFoundError:
        return False
    except OSError:
        return True
    return False


def _put(folder: Path, output: Path, aside: Path) -> None:
    if output.exists():
        output.rename(aside)
    folder.rename(output)
    shutil.rmtree(aside, ignore_errors=True)
