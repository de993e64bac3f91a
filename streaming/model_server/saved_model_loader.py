"""From a version folder to a servable that is checked, compiled and warm."""

from __future__ import annotations

import ctypes
import gc
import hashlib
import json
import logging
import os
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

from streaming.model_server.metrics import Metrics
from streaming.model_server.model_config import check_allowed
from streaming.model_server.saved_model_bundle import SessionOptions, load_bundle
from streaming.model_server.servable import ExecutionFactory, Servable
from streaming.model_server.status import Code, StatusError

_log = logging.getLogger(__name__)

_MANIFEST = Path("assets.extra", "model.json")
_CHUNK_BYTES = 1 << 20

Warmup = Callable[[Servable, Path], None]
"""Runs the requests that were saved with a model."""


class SavedModelLoader:
    """The manager's `Loader` for SavedModels."""

    def __init__(
        self,
        session_options: SessionOptions,
        execution: Callable[[Path], ExecutionFactory],
        warmup: Warmup | None,
        allowed_roots: Sequence[Path],
        metrics: Metrics,
    ) -> None:
        """Sets how models are loaded.

        Args:
          session_options: for each session.
          execution: gives the way to run the model of a version folder.
          warmup: what to do before a servable is available; None for nothing.
          allowed_roots: resolved folders that every file of a model must lie in; none allows all.
          metrics: where attempts, load times and run times are counted.
        """
        self._session_options = session_options
        self._execution = execution
        self._warmup = warmup
        self._allowed_roots = allowed_roots
        self._metrics = metrics

    def __call__(self, name: str, version: int, path: Path) -> Servable:
        """Loads one version.

        Raises:
          StatusError: DATA_LOSS if a file differs from its checksum, PERMISSION_DENIED if one lies outside the allowed
            roots.
          Exception: whatever TensorFlow raises for a folder that is no SavedModel.
        """
        started = time.perf_counter()
        try:
            servable = self._load(name, version, path)
        except BaseException:
            self._metrics.load_attempts.add((str(path), "fail"))
            raise
        self._metrics.load_attempts.add((str(path), "success"))
        self._metrics.load_latency.add((str(path),), (time.perf_counter() - started) * 1e6)
        return servable

    def _load(self, name: str, version: int, path: Path) -> Servable:
        if self._allowed_roots:
            check_files_allowed(path, self._allowed_roots)
        check_checksums(path)
        bundle = load_bundle(path, self._session_options)
        try:
            servable = Servable(
                name, version, bundle, self._execution(path), give_memory_back, self._metrics.runtime_latency
            )
            servable.prepare()
            if self._warmup is not None:
                self._warmup(servable, path)
        except BaseException:
            bundle.close()
            give_memory_back()
            raise
        return servable


def check_files_allowed(path: Path, allowed_roots: Sequence[Path]) -> None:
    """Raises PERMISSION_DENIED if the folder or a link in it leads out of the allowed roots."""
    check_allowed(path, allowed_roots)
    for folder, folders, files in os.walk(path):
        for child in folders + files:
            check_allowed(Path(folder, child), allowed_roots)


def check_checksums(path: Path) -> None:
    """Compares a version's files with the sha256 sums in `assets.extra/model.json` (`files`), where there are any.

    Raises:
      StatusError: DATA_LOSS if the list cannot be read, a file is missing, differs, or lies outside the folder.
    """
    files = _listed_files(path)
    for relative, expected in files.items():
        file = path / relative
        if not Path(os.path.normpath(file)).is_relative_to(path):
            raise StatusError(Code.DATA_LOSS, f"{_MANIFEST}: expected paths inside the version folder, got {relative}")
        try:
            actual = _sha256(file)
        except OSError as error:
            raise StatusError(Code.DATA_LOSS, f"{relative}: listed in {_MANIFEST}, but {error.strerror}") from error
        if actual != expected:
            raise StatusError(Code.DATA_LOSS, f"{relative}: expected sha256 {expected} by {_MANIFEST}, got {actual}")


def give_memory_back() -> None:
    """Frees what an unloaded model leaves behind, and returns the free pages to the system where the C library can."""
    gc.collect()
    trim = getattr(ctypes.CDLL(None), "malloc_trim", None)
    if trim is not None:
        trim(0)


def _listed_files(path: Path) -> Mapping[str, str]:
    try:
        text = (path / _MANIFEST).read_bytes()
    except FileNotFoundError:
        return {}
    except OSError as error:
        raise StatusError(Code.DATA_LOSS, f"{_MANIFEST}: {error.strerror}") from error
    try:
        manifest = json.loads(text)
    except ValueError as error:
        raise StatusError(Code.DATA_LOSS, f"{_MANIFEST}: expected JSON: {error}") from error
    files = manifest.get("files", {}) if isinstance(manifest, dict) else None
    if not isinstance(files, dict) or not all(isinstance(value, str) for value in files.values()):
        raise StatusError(Code.DATA_LOSS, f"{_MANIFEST}: expected $.files to map paths to sha256 sums")
    return files


def _sha256(file: Path) -> str:
    digest = hashlib.sha256()
    with file.open("rb") as stream:
        while chunk := stream.read(_CHUNK_BYTES):
            digest.update(chunk)
    return digest.hexdigest()
