"""The dataset folder: built beside its place, then renamed, so that a job that dies leaves no half dataset."""

from __future__ import annotations

import hashlib
import shutil
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from pipelines.dataset_schema import schema_text
from schemas.dataset import COMPLETED_FILE, MANIFEST_FILE, SCHEMA_FILE, STATISTICS_FILE, Manifest, Statistics
from schemas.errors import DatasetError


@contextmanager
def building(output: Path, *, overwrite: bool) -> Iterator[Path]:
    """A folder to build a dataset in, which takes the place of `output` at the end; it goes when the block fails.

    Raises:
      DatasetError: `output` is a dataset and `overwrite` is not given, or it is something else, which is never deleted.
    """
    _require_place(output, overwrite=overwrite)
    mark = uuid.uuid4().hex[:12]
    folder = output.with_name(f"{output.name}.tmp-{mark}")
    try:
        try:
            folder.mkdir(parents=True)
        except OSError as exc:
            raise DatasetError(f"{output}: expected a folder that can be written, got {exc.strerror}") from exc
        yield folder
        _require_place(output, overwrite=overwrite)
        _put(folder, output, output.with_name(f"{output.name}.old-{mark}"))
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def complete(folder: Path, manifest: Manifest, statistics: Statistics) -> None:
    """Writes what a dataset has beside its shards; `COMPLETED` last."""
    text = manifest.model_dump_json(indent=2).encode() + b"\n"
    (folder / STATISTICS_FILE).write_text(statistics.model_dump_json(indent=2) + "\n")
    (folder / SCHEMA_FILE).write_text(schema_text())
    (folder / MANIFEST_FILE).write_bytes(text)
    (folder / COMPLETED_FILE).write_text(hashlib.sha256(text).hexdigest() + "\n")


def _require_place(output: Path, *, overwrite: bool) -> None:
    if not output.exists() or (output.is_dir() and not any(output.iterdir())):
        return
    if not (output / COMPLETED_FILE).is_file():
        raise DatasetError(f"{output}: expected a new folder, or a dataset to replace, got something else")
    if not overwrite:
        raise DatasetError(f"{output}: expected a new folder, got a dataset; overwrite it, or name another output")


def _put(folder: Path, output: Path, aside: Path) -> None:
    if output.exists():
        output.rename(aside)
    folder.rename(output)
    shutil.rmtree(aside, ignore_errors=True)
