"""Brings the loaded versions of each model towards the ones that are aspired to, without a gap in between.

The policy is TensorFlow Serving's availability-preserving one: a new version is loaded, and warm, before the old one is
unloaded; the last version that works stays until another one does. A version that does not load is tried again, and at
once when its files change; meanwhile its state shows the error.
"""

from __future__ import annotations

import enum
import logging
import threading
import time
from collections.abc import Callable, Iterable, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field, replace
from pathlib import Path

from streaming.model_server.file_system_storage_path_source import VersionPath
from streaming.model_server.servable import Servable
from streaming.model_server.status import StatusError, status_of

_log = logging.getLogger(__name__)

_ENDED_VERSIONS_LISTED = 16

Loader = Callable[[str, int, Path], Servable]
"""Loads and warms version `int` of model `str`."""


class State(enum.IntEnum):
    """The states of a version, numbered as in `ModelVersionStatus.State`."""

    START = 10
    LOADING = 20
    AVAILABLE = 30
    UNLOADING = 40
    END = 50


@dataclass(frozen=True, slots=True)
class VersionStatus:
    """What is known of one version: its number, its state, and what went wrong last."""

    version: int
    state: State
    error: StatusError | None = None


@dataclass(slots=True)
class _Harness:
    """One version on its way from START to END."""

    status: VersionStatus
    source: VersionPath
    servable: Servable | None = None
    attempts: int = 0
    retry_at_s: float = 0.0
    aspired: bool = True


@dataclass(slots=True)
class _Model:
    harnesses: dict[int, _Harness] = field(default_factory=dict)


class AspiredVersionsManager:
    """Owns all servables. Its threads load and unload; requests only look up what is available."""

    def __init__(self, load: Loader, *, max_load_retries: int, load_retry_interval_s: float, load_threads: int) -> None:
        self._load = load
        self._max_load_retries = max_load_retries
        self._load_retry_interval_s = load_retry_interval_s
        self._models: dict[str, _Model] = {}
        # Replaced as a whole, never changed, so that requests read it without a lock.
        self._available: Mapping[str, Mapping[int, Servable]] = {}
        self._changed = threading.Condition()
        self._stopped = False
        self._loaders = ThreadPoolExecutor(load_threads, thread_name_prefix="load")
        self._unloaders = ThreadPoolExecutor(4, thread_name_prefix="unload")
        self._thread = threading.Thread(target=self._run, name="manager", daemon=True)
        self._thread.start()

    def set_aspired(self, name: str, versions: Mapping[int, VersionPath]) -> None:
        """Says which versions of a model should be served from now on; none means to unload it."""
        with self._changed:
            model = self._models.setdefault(name, _Model())
            for version, source in versions.items():
                harness = model.harnesses.get(version)
                if harness is None or (harness.status.state is State.END and not harness.aspired):
                    # Placed anew, so that the order of the harnesses is the order of their lives.
                    model.harnesses.pop(version, None)
                    model.harnesses[version] = _Harness(VersionStatus(version, State.START), source)
                    continue
                harness.aspired = True
                if harness.servable is not None and harness.source.path != source.path:
                    # The same number from another base path: what it served so far serves until that is loaded.
                    harness.status = VersionStatus(version, State.START)
                    harness.attempts, harness.retry_at_s = 0, 0.0
                elif harness.status.error and harness.source.fingerprint != source.fingerprint:
                    harness.attempts, harness.retry_at_s = 0, 0.0
                    if harness.status.state is State.END:
                        harness.status = VersionStatus(version, State.START)
                harness.source = source
            for version, harness in model.harnesses.items():
                harness.aspired = version in versions
            self._changed.notify_all()

    def find(self, name: str, version: int | None) -> Servable | None:
        """The available servable of that version, or of the highest one."""
        versions = self._available.get(name)
        if not versions:
            return None
        return versions.get(max(versions) if version is None else version)

    def available(self) -> Mapping[str, Mapping[int, Servable]]:
        """All servables that requests can reach, by model and version."""
        return self._available

    def statuses(self, name: str) -> list[VersionStatus]:
        """The versions of a model that are or were managed, the newest number first."""
        with self._changed:
            model = self._models.get(name)
            if model is None:
                return []
            return [model.harnesses[version].status for version in sorted(model.harnesses, reverse=True)]

    def wait_for(self, done: Callable[[], bool], timeout_s: float) -> bool:
        """Waits until `done()`, which is asked after each change of a state. False if the time is over first."""
        with self._changed:
            return self._changed.wait_for(done, timeout_s)

    def unready(self, names: Iterable[str]) -> list[tuple[str, VersionStatus]]:
        """The aspired versions of these models that are not available."""
        with self._changed:
            return [
                (name, harness.status)
                for name in names
                for harness in self._models.get(name, _Model()).harnesses.values()
                if harness.aspired and (harness.status.state is not State.AVAILABLE or harness.status.error)
            ]

    def close(self) -> None:
        """Unloads everything, waiting for running requests."""
        with self._changed:
            self._stopped = True
            self._changed.notify_all()
        self._thread.join()
        self._loaders.shutdown(cancel_futures=True)
        with self._changed:
            for name, model in self._models.items():
                for harness in model.harnesses.values():
                    if harness.status.state is State.AVAILABLE:
                        self._begin_unload(name, harness)
        self._unloaders.shutdown()

    def _run(self) -> None:
        with self._changed:
            while not self._stopped:
                for name, model in self._models.items():
                    self._step(name, model)
                self._changed.wait(self._until_next_retry_s())

    def _step(self, name: str, model: _Model) -> None:
        """Starts every load and unload that is due for one model."""
        now = time.monotonic()
        some_aspired_available = any(h.aspired and h.status.state is State.AVAILABLE for h in model.harnesses.values())
        none_aspired = not any(h.aspired for h in model.harnesses.values())
        for version in sorted(model.harnesses, reverse=True):
            harness = model.harnesses[version]
            state = harness.status.state
            if harness.aspired and state is State.START and harness.retry_at_s <= now:
                harness.status = VersionStatus(version, State.LOADING, harness.status.error)
                self._loaders.submit(self._load_one, name, harness)
            elif not harness.aspired and state is State.AVAILABLE and (some_aspired_available or none_aspired):
                self._begin_unload(name, harness)
            elif not harness.aspired and state is State.START:
                harness.status = replace(harness.status, state=State.END)
        ended = [v for v, h in model.harnesses.items() if h.status.state is State.END and not h.aspired]
        for version in ended[:-_ENDED_VERSIONS_LISTED]:
            del model.harnesses[version]

    def _until_next_retry_s(self) -> float | None:
        waiting = [
            harness.retry_at_s
            for model in self._models.values()
            for harness in model.harnesses.values()
            if harness.aspired and harness.status.state is State.START
        ]
        return max(0.0, min(waiting) - time.monotonic()) if waiting else None

    def _load_one(self, name: str, harness: _Harness) -> None:
        version = harness.status.version
        started = time.monotonic()
        servable: Servable | None = None
        error: StatusError | None = None
        try:
            servable = self._load(name, version, harness.source.path)
        except BaseException as exc:  # a loader thread must live on, whatever a model does
            error = status_of(exc)
        with self._changed:
            harness.attempts += 1
            if servable is not None:
                if harness.servable is not None:
                    self._unloaders.submit(harness.servable.unload)
                harness.servable = servable
                harness.status = VersionStatus(version, State.AVAILABLE)
                self._available = {
                    **self._available,
                    name: {**self._available.get(name, {}), version: servable},
                }
                _log.info(
                    "Successfully loaded servable version {name: %s version: %d} in %.2f s",
                    name,
                    version,
                    time.monotonic() - started,
                )
            elif harness.servable is not None:
                harness.status = VersionStatus(version, State.AVAILABLE, error)
                _log.error("Loading servable {name: %s version: %d} anew failed: %s", name, version, error)
            else:
                last = harness.attempts > self._max_load_retries
                harness.status = VersionStatus(version, State.END if last else State.START, error)
                harness.retry_at_s = time.monotonic() + self._load_retry_interval_s
                _log.error(
                    "Loading servable {name: %s version: %d} failed, attempt %d of %d: %s",
                    name,
                    version,
                    harness.attempts,
                    self._max_load_retries + 1,
                    error,
                )
            self._changed.notify_all()

    def _begin_unload(self, name: str, harness: _Harness) -> None:
        version = harness.status.version
        harness.status = VersionStatus(version, State.UNLOADING)
        rest = {v: servable for v, servable in self._available[name].items() if v != version}
        self._available = {**self._available, name: rest}
        self._unloaders.submit(self._unload_one, name, harness)

    def _unload_one(self, name: str, harness: _Harness) -> None:
        version = harness.status.version
        servable, harness.servable = harness.servable, None
        error: StatusError | None = None
        try:
            if servable is not None:
                servable.unload()
        except Exception as exc:
            error = status_of(exc)
        with self._changed:
            harness.status = VersionStatus(version, State.END, error)
            self._changed.notify_all()
        _log.info("Done unloading servable version {name: %s version: %d}", name, version)
