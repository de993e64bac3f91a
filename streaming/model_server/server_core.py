"""The state of the server: which models it is to serve, where their versions come from, and how a request finds one."""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from pathlib import Path

from streaming.model_server.aspired_versions_manager import AspiredVersionsManager, Loader, VersionStatus
from streaming.model_server.file_system_storage_path_source import FileSystemStoragePathSource
from streaming.model_server.model_config import ServedModel, read_model_config_file, served_models
from streaming.model_server.servable import Servable
from streaming.model_server.status import Code, StatusError, failed_precondition, invalid_argument, not_found
from streaming.serving_protos import ModelServerConfig, ModelSpec

_log = logging.getLogger(__name__)

_UNSETTLED_POLL_S = 0.1


@dataclass(frozen=True, slots=True)
class ServerCoreOptions:
    """How models are found and kept.

    Attributes:
      poll_wait_s: between looks at the base paths; 0 looks until all is settled, once; less never looks.
      config_file: re-read every `config_poll_wait_s`; none or 0 never.
      settle_s: for which a version folder must be unchanged before it is loaded.
      allowed_roots: resolved; base paths and version folders must lie in them; none allows all.
      allow_labels_for_unavailable: new labels may be given to versions that are not available.
    """

    poll_wait_s: float = 1.0
    config_file: Path | None = None
    config_poll_wait_s: float = 0.0
    settle_s: float = 1.0
    allowed_roots: Sequence[Path] = ()
    allow_labels_for_unavailable: bool = False
    max_load_retries: int = 5
    load_retry_interval_s: float = 60.0
    load_threads: int = 1


class ServerCore:
    """Serves models by a ModelServerConfig that can be replaced while requests run."""

    def __init__(self, config: ModelServerConfig, load: Loader, options: ServerCoreOptions) -> None:
        """Checks the config and starts to look for versions; returns before any is loaded.

        Raises:
          StatusError: the config is wrong.
        """
        self._options = options
        self._models = served_models(config, options.allowed_roots) or {}
        self._labels: Mapping[str, Mapping[str, int]] = {name: model.labels for name, model in self._models.items()}
        self._source = FileSystemStoragePathSource(options.settle_s)
        self._manager = AspiredVersionsManager(
            load,
            max_load_retries=options.max_load_retries,
            load_retry_interval_s=options.load_retry_interval_s,
            load_threads=options.load_threads,
        )
        self._reloading = threading.Lock()
        self._polling = threading.Lock()
        self._unsettled: set[str] = set()
        self._without_versions: set[str] = set()
        self._stopped = threading.Event()
        self._threads = [threading.Thread(target=self._watch_versions, name="versions", daemon=True)]
        if options.config_file and options.config_poll_wait_s > 0:
            self._threads.append(threading.Thread(target=self._watch_config_file, name="config", daemon=True))
        for thread in self._threads:
            thread.start()

    def servable(self, spec: ModelSpec) -> AbstractContextManager[Servable]:
        """The servable that a request asks for, kept loaded until the context ends.

        Raises:
          StatusError: INVALID_ARGUMENT for a spec without name or with an unknown label, NOT_FOUND if no such version
            is available.
        """
        return self._acquire(spec)

    def statuses(self, name: str, version: int | None) -> list[VersionStatus]:
        """The versions of a model, or one of them.

        Raises:
          StatusError: NOT_FOUND.
        """
        statuses = self._manager.statuses(name)
        if not statuses:
            raise not_found(f"Could not find any versions of model {name}")
        if version is None:
            return statuses
        chosen = [status for status in statuses if status.version == version]
        if not chosen:
            raise not_found(f"Could not find version {version} of model {name}")
        return chosen

    def model_names(self) -> list[str]:
        """The models of the config, in alphabetical order."""
        return sorted(self._models)

    def labels(self, name: str) -> Mapping[str, int]:
        """The labels of a model."""
        return self._labels.get(name, {})

    def knows(self, name: str) -> bool:
        """Whether the config has a model of that name."""
        return name in self._models

    def versions(self, name: str) -> list[VersionStatus]:
        """The versions of a model, possibly none."""
        return self._manager.statuses(name)

    def version_of_label(self, name: str, label: str) -> int:
        """The version that a label names.

        Raises:
          StatusError: INVALID_ARGUMENT for an unknown label.
        """
        version = self._labels.get(name, {}).get(label)
        if version is None:
            raise invalid_argument(f"Unrecognized servable version label: {label}")
        return version

    def is_ready(self) -> bool:
        """Whether every model of the config has a version that answers."""
        available = self._manager.available()
        return all(available.get(name) for name in self._models)

    def wait_until_ready(self, timeout_s: float) -> bool:
        """Waits for `is_ready`. False if the time is over first."""
        return self._manager.wait_for(self.is_ready, timeout_s)

    def reload_config(self, config: ModelServerConfig, timeout_s: float = float("inf")) -> None:
        """Replaces the config, and waits until the models that are new in it answer.

        Raises:
          StatusError: the config is wrong and nothing has changed; or it is in force, but a new model does not load, or
            a label points at a version that is not available.
        """
        models = served_models(config, self._options.allowed_roots)
        if models is None:
            _log.info("Taking no action for empty config.")
            return
        give_up_s = time.monotonic() + timeout_s
        with self._reloading:
            new = {
                name
                for name, model in models.items()
                if name not in self._models or self._models[name].base_path != model.base_path
            }
            removed = set(self._models) - set(models)
            with self._polling:
                self._models = models
                self._poll(list(models.values()))
                for name in removed:
                    self._manager.set_aspired(name, {})
            self._wait_until_loaded(new, give_up_s)
            self._set_labels(models)

    def close(self) -> None:
        """Stops looking for versions and unloads everything, waiting for running requests."""
        self._stopped.set()
        for thread in self._threads:
            thread.join()
        self._manager.close()

    def _acquire(self, spec: ModelSpec) -> Servable:
        name = spec.name
        if not name:
            raise invalid_argument("ModelSpec has no name specified.")
        choice = spec.WhichOneof("version_choice")
        version: int | None = None
        if choice == "version":
            version = spec.version.value
        elif choice == "version_label":
            version = self.version_of_label(name, spec.version_label)
        while True:
            found = self._manager.find(name, version)
            if found is None:
                request = f"Latest({name})" if version is None else f"Specific({name}, {version})"
                raise not_found(f"Servable not found for request: {request}")
            if found.acquire():
                return found
            # It began to unload between the two lines; by now it is not to be found any more.

    def _wait_until_loaded(self, names: set[str], give_up_s: float) -> None:
        """Waits for the first attempt at each version of these models.

        Raises:
          StatusError: UNKNOWN, as TensorFlow Serving, if some do not load; DEADLINE_EXCEEDED.
        """
        while True:
            pending = [(n, s) for n, s in self._manager.unready(names) if s.error is None]
            if not pending and not names & self._unsettled:
                break
            if time.monotonic() >= give_up_s or self._stopped.is_set():
                raise StatusError(Code.DEADLINE_EXCEEDED, "Deadline exceeded before the new models were available")
            self._manager.wait_for(lambda: False, _UNSETTLED_POLL_S)
            with self._polling:
                self._poll([self._models[name] for name in names & self._unsettled])
        failed = [
            f"{{name: {name} version: {status.version}}} due to error: {status.error}"
            for name, status in self._manager.unready(names)
        ]
        failed += [
            f"{{name: {name}}} due to error: No versions found under base path"
            for name in sorted(names & self._without_versions)
        ]
        if failed:
            raise StatusError(
                Code.UNKNOWN, f"{len(failed)} servable(s) did not become available: {{{', '.join(failed)}}}"
            )

    def _set_labels(self, models: Mapping[str, ServedModel]) -> None:
        """Takes over the labels of a config.

        Raises:
          StatusError: FAILED_PRECONDITION for a label to a version that is not available; the others are in force.
        """
        refused: str | None = None
        labels: dict[str, Mapping[str, int]] = {}
        for name, model in models.items():
            old = self._labels.get(name, {})
            kept: dict[str, int] = {}
            for label, version in model.labels.items():
                available = self._manager.find(name, version) is not None
                unchanged = old.get(label) == version
                if available or unchanged or (self._options.allow_labels_for_unavailable and label not in old):
                    kept[label] = version
                    continue
                refused = refused or (
                    f"Request to assign label to version {version} of model {name}, "
                    "which is not currently available for inference"
                )
                if label in old:
                    kept[label] = old[label]
            labels[name] = kept
        self._labels = labels
        if refused:
            raise failed_precondition(refused)

    def _watch_versions(self) -> None:
        if self._options.poll_wait_s < 0:
            return
        while not self._stopped.is_set():
            with self._polling:
                self._poll(list(self._models.values()))
            if self._options.poll_wait_s > 0:
                wait_s = self._options.poll_wait_s
            elif not self._unsettled:
                return
            else:
                wait_s = _UNSETTLED_POLL_S
            self._stopped.wait(min(wait_s, _UNSETTLED_POLL_S) if self._unsettled else wait_s)

    def _poll(self, models: Sequence[ServedModel]) -> None:
        for model in models:
            looked = self._source.versions(model.name, model.base_path, model.policy)
            if looked is None:
                self._without_versions.add(model.name)
                continue
            versions, unsettled = looked
            (self._unsettled.add if unsettled else self._unsettled.discard)(model.name)
            (self._without_versions.discard if versions else self._without_versions.add)(model.name)
            if versions or not unsettled:
                self._manager.set_aspired(model.name, versions)

    def _watch_config_file(self) -> None:
        file = self._options.config_file
        if file is None:
            return
        last = None
        while not self._stopped.wait(self._options.config_poll_wait_s):
            try:
                config = read_model_config_file(file)
                if config != last:
                    self.reload_config(config)
                    last = config
            except StatusError as error:
                _log.error("The config file is not taken over as it is: %s", error)
