"""The files of a model version: whether they are whole, whose weights they are, and how they get on disk."""

from __future__ import annotations

import hashlib
import json
import os
from pathlib import Path
from typing import Any

from models.layout import MODEL_FILE
from schemas.errors import ModelError

_LEARNED = ("variables/", "assets/")
"""What a SavedModel has learned; the rest of its files, even of the same model, differ from one export to the next."""


def record_of(export: Path) -> dict[str, Any]:
    """What an exported model says of itself: `assets.extra/model.json`.

    Raises:
      ModelError: there is none.
    """
    try:
        record = json.loads((export / MODEL_FILE).read_bytes())
        if not isinstance(record["files"], dict):
            raise TypeError
    except OSError as exc:
        raise ModelError(f"{export}: expected an exported model; {exc.filename}: {exc.strerror}") from exc
    except (ValueError, KeyError, TypeError) as exc:
        raise ModelError(
            f"{export / MODEL_FILE}: expected the record of an exported model, got something else"
        ) from exc
    return dict(record)


def check_files(export: Path) -> dict[str, Any]:
    """Checks that an exported model has every file that it was written with, unchanged, and returns its record.

    Raises:
      ModelError: it has not.
    """
    record = record_of(export)
    for path, digest in record["files"].items():
        try:
            found = hashlib.sha256((export / path).read_bytes()).hexdigest()
        except OSError as exc:
            raise ModelError(f"{export}: expected an exported model; {exc.filename}: {exc.strerror}") from exc
        if found != digest:
            raise ModelError(f"{export / path}: is not the file that was exported (its sha256 differs)")
    return record


def identity_of(export: Path) -> str:
    """What an exported model has learned, as 64 hexadecimal digits: the same for each export of the same weights.

    Raises:
      ModelError: there is no exported model.
    """
    record = record_of(export)
    learned = sorted(item for item in record["files"].items() if item[0].startswith(_LEARNED))
    # A model without weights, such as persistence, is told from others by its spec alone.
    return hashlib.sha256(json.dumps([record.get("fingerprint"), learned]).encode()).hexdigest()


def flush(folder: Path) -> None:
    """Waits until a folder and all in it are on disk."""
    for path in (*folder.rglob("*"), folder):
        flush_one(path)


def flush_one(path: Path) -> None:
    """Waits until a file, or the names in a folder, are on disk."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
