"""Which versions of a model lie in its base path, and which of them should be served.

A version is a child folder with a number for a name. One that is still being copied is passed over until nothing in it
has changed for a while, so that a version is never loaded half; a publisher that renames a finished folder into place
waits no longer than that either.
"""

from __future__ import annotations

import hashlib
import logging
import os
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TypeAlias

from streaming.serving_protos import FileSystemStoragePathSourceConfig

_log = logging.getLogger(__name__)

_MAX_VERSION = 2**63 - 1

VersionPolicy: TypeAlias = FileSystemStoragePathSourceConfig.ServableVersionPolicy


@dataclass(frozen=True, slots=True)
class VersionPath:
    """A version found on disk.

    Attributes:
      path: its folder.
      fingerprint: of the names, sizes and times of its files: changes when any of them does.
    """

    path: Path
    fingerprint: str


class FileSystemStoragePathSource:
    """Looks for versions below base paths, remembering which folders were still changing."""

    def __init__(self, settle_s: float, clock: Callable[[], float] = time.time) -> None:
        self._settle_s = settle_s
        self._clock = clock
        self._seen: dict[Path, tuple[str, float]] = {}
        self._warned: set[str] = set()

    def versions(self, name: str, base_path: Path, policy: VersionPolicy) -> tuple[dict[int, VersionPath], bool] | None:
        """Looks once.

        Args:
          name: of the model, for the log.
          base_path: whose children are looked at.
          policy: which versions are wanted.

        Returns:
          The wanted versions that have settled, and whether some folder has not; None if the base path cannot be read,
          so that what is served stays as it is.
        """
        try:
            children = _numeric_children(base_path)
        except OSError as error:
            self._warn_once(name, f"Could not find base path {base_path} for servable {name}: {error.strerror}")
            return None
        if not children:
            self._warn_once(name, f"No versions of servable {name} found under base path {base_path}")
        else:
            self._warned.discard(name)
        settled: dict[int, VersionPath] = {}
        unsettled = False
        for version, path in sorted(children.items(), reverse=True):
            if not _candidate(version, policy, len(settled)):
                continue
            fingerprint = self._settled_fingerprint(path)
            if fingerprint is None:
                unsettled = True
            else:
                settled[version] = VersionPath(path, fingerprint)
        return settled, unsettled

    def _settled_fingerprint(self, path: Path) -> str | None:
        """The fingerprint of a folder that has been left alone for `settle_s`, else None."""
        now = self._clock()
        try:
            fingerprint, changed = _look(path)
        except OSError:  # a file went away while we looked: it is changing
            return None
        seen, since = self._seen.get(path, ("", now))
        if seen != fingerprint:
            since = now
            self._seen[path] = fingerprint, since
        # The inode change time cannot be set by whoever copies, but the clock of a remote file system may be ahead.
        quiet = changed <= now - self._settle_s or now - since >= self._settle_s
        return fingerprint if quiet else None

    def _warn_once(self, name: str, message: str) -> None:
        if name not in self._warned:
            self._warned.add(name)
            _log.warning(message)


def _candidate(version: int, policy: VersionPolicy, taken: int) -> bool:
    """Whether a version is wanted, when the `taken` highest ones that were are chosen."""
    choice = policy.WhichOneof("policy_choice")
    if choice == "all":
        return True
    if choice == "specific":
        return version in policy.specific.versions
    return taken < (policy.latest.num_versions or 1)


def _numeric_children(base_path: Path) -> Mapping[int, Path]:
    children: dict[int, Path] = {}
    with os.scandir(base_path) as entries:
        for entry in entries:
            if not (entry.name.isascii() and entry.name.isdigit() and entry.is_dir()):
                continue
            version = int(entry.name)
            if version > _MAX_VERSION:
                continue
            if version in children:
                _log.warning("Duplicate version %d of base path %s: %s is ignored", version, base_path, entry.name)
                continue
            children[version] = Path(entry.path)
    return children


def _look(path: Path) -> tuple[str, float]:
    """A fingerprint of everything below `path`, and when any of it last changed (seconds since the epoch)."""
    digest = hashlib.blake2b(digest_size=16)
    changed = 0.0
    for folder, folders, files in os.walk(path):
        folders.sort()
        for name in sorted(files):
            file = os.path.join(folder, name)
            stat = os.stat(file)
            changed = max(changed, stat.st_ctime)
            digest.update(f"{file}\0{stat.st_size}\0{stat.st_mtime_ns}\0{stat.st_ctime_ns}\0".encode())
        if folder != str(path):
            changed = max(changed, os.stat(folder).st_ctime)
    return digest.hexdigest(), changed
