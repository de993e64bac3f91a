"""The registry of a model's versions: `<base>/<name>/<version>/`, as TF Serving watches it, and why each is there.

    <base>/<name>/
      1/ 2/ ...                        versions: SavedModels, whole from the moment that they appear
      registry/000001-pushed.json      `schemas.registry_record.Record`s, in the order of events

The newest version is the champion: it is what every server and client that follows the latest version uses. So nothing
is ever taken back by going to a lower number: a rollback publishes the files of an earlier version as the next one,
and a tombstone (`Record.condemned`) keeps what was rolled back from coming back. No number is used twice.
"""

from __future__ import annotations

import errno
import fcntl
import json
import os
import re
import shutil
import time
import uuid
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Literal

from pydantic import ValidationError

from models.layout import EXPORT_FOLDER, MODEL_FILE
from models.version_files import check_files, flush, flush_one, identity_of, record_of
from schemas.errors import ModelError
from schemas.registry_record import Lineage, Record
from schemas.units import ms_to_iso

REGISTRY_FOLDER = "registry"

_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,99}")
_RECORD = re.compile(r"(\d{6,})-([a-z_]+)\.json")


def push(run: str | os.PathLike[str], to: str | os.PathLike[str], name: str) -> int:
    """Publishes a run's export as the next version, by hand; see `Registry.publish`."""
    return Registry(to, name).publish(run, reason="pushed by hand")


class Registry:
    """The versions of one model.

    Args:
      base: the base folder of models.
      name: the served model's name.
    Raises:
      ModelError: the name is none.
    """

    def __init__(self, base: str | os.PathLike[str], name: str) -> None:
        if not _NAME.fullmatch(name):
            raise ModelError(f"expected a model name of letters, digits and '._-', got '{name}'")
        self.name = name
        self.folder = Path(base) / name

    def path(self, version: int) -> Path:
        """The folder of a version."""
        return self.folder / str(version)

    def versions(self) -> list[int]:
        """The versions that are there, oldest first."""
        if not self.folder.is_dir():
            return []
        return sorted(int(path.name) for path in self.folder.iterdir() if path.name.isdecimal())

    def champion(self) -> int | None:
        """The newest version; None where there is none."""
        return max(self.versions(), default=None)

    def records(self) -> list[Record]:
        """All records, oldest first.

        Raises:
          ModelError: one cannot be read.
        """
        found = []
        for _, path in self._record_files():
            try:
                found.append(Record.model_validate_json(path.read_bytes()))
            except (OSError, ValidationError) as exc:
                raise ModelError(f"{path}: expected a record of the registry: {exc}") from exc
        return found

    def holds(self, version: int | None, export: Path) -> bool:
        """Whether a version was published from an export, and from no other one, even of the same model."""
        try:
            return (self.path(version or 0) / MODEL_FILE).read_bytes() == (export / MODEL_FILE).read_bytes()
        except OSError:
            return False

    def record_of(self, version: int) -> Record | None:
        """The record of how a version came to be; None where there is none."""
        made = ("pushed", "promoted", "rolled_back")
        return next((one for one in reversed(self.records()) if one.version == version and one.event in made), None)

    def condemned(self) -> dict[str, Record]:
        """The tombstones: what must not be served again, by identity, with the record that says why."""
        found: dict[str, Record] = {}
        for record in self.records():
            if record.event == "rolled_back" and record.identity:
                found.pop(record.identity, None)  # it was restored by hand
            if record.condemned:
                found[record.condemned] = record
        return found

    def last_good(self) -> int | None:
        """The newest version before the champion that is another model and not condemned; None where there is none."""
        *earlier, champion = self.versions() or [0]
        refused = self.condemned()
        bad = identity_of(self.path(champion)) if champion else ""
        return next(
            (
                version
                for version in reversed(earlier)
                if (identity := identity_of(self.path(version))) != bad and identity not in refused
            ),
            None,
        )

    def publish(
        self,
        run: str | os.PathLike[str],
        *,
        reason: str,
        event: Literal["pushed", "promoted"] = "pushed",
        instead_of: int | Literal["any"] | None = "any",
        about: Callable[[Record], Record] = lambda record: record,
    ) -> int:
        """Publishes a run's export as the next version, whole or not at all, and records it.

        The files are copied beside the versions, under a name that is no number and so is none to a model server, and
        appear by one rename. Of several pushes at once each gets a version of its own.

        Args:
          run: what `models.train.train` wrote.
          reason: why, for people.
          event: what it is recorded as. A promotion that was killed goes on: what it has published is not published
            again.
          instead_of: the version that must still be the champion (None: there is none yet).
          about: adds to the record.
        Returns:
          The version: higher than any that there is or ever was.
        Raises:
          ModelError: the run has no whole export, it was condemned, another version has become the champion, or the
            base cannot be written.
        """
        export = Path(run) / EXPORT_FOLDER
        check_files(export)
        identity = identity_of(export)
        with self._locked(run):
            if (tombstone := self.condemned().get(identity)) is not None:
                raise ModelError(
                    f"{run}: is the model of version {tombstone.rollback_of or tombstone.version} of '{self.name}', "
                    f"which was taken back: {tombstone.reason}"
                )
            champion = self.champion()
            if event == "promoted" and champion is not None and self.holds(champion, export):
                version, champion = champion, max(self.versions()[:-1], default=None)
                if self.record_of(version) is not None:
                    return version
            else:
                if instead_of not in ("any", champion):
                    raise ModelError(
                        f"{self.folder}: expected version {instead_of or 'none'} to be the champion still, "
                        f"got {champion or 'none'}"
                    )
                version = self._copy(export)
            self._append(
                about(
                    Record(
                        event=event,
                        time=_now(),
                        reason=reason,
                        version=version,
                        champion=champion,
                        identity=identity,
                        run=str(Path(run).absolute()),
                        lineage=lineage_of(export),
                        metrics=metrics_of(export),
                    )
                )
            )
        return version

    def restore(self, version: int | None, *, reason: str, bad: int | None = None) -> Record:
        """Publishes the files of an earlier version as the next one, in place of the champion, which is condemned.

        Args:
          version: the earlier one; `last_good` when left out. One that was condemned is so no more.
          reason: why, for people.
          bad: the version that is taken back; the champion when left out. If it has been rolled back already, that
            rollback is what is returned.
        Returns:
          The record.
        Raises:
          ModelError: there is no such version, none to go back to, it is not whole, or `bad` is not the champion.
        """
        with self._locked(f"a version of {self.folder}"):
            champion = self.champion()
            if champion is None:
                raise ModelError(f"{self.folder}: expected a version to roll back, got none")
            made = record_of(self.path(champion)).get("rollback")
            found = self.record_of(champion)
            if made is not None and found is None:  # killed between the two: the version is there, its record is not
                return self._record_rollback(champion, made["restored"], made["rollback_of"], made["reason"])
            if bad is not None and found is not None and found.rollback_of == bad:
                return found
            if bad not in (None, champion):
                raise ModelError(f"{self.folder}: expected to roll back the champion, {champion}, got {bad}")
            if version is None and (version := self.last_good()) is None:
                raise ModelError(f"{self.folder}: expected a version before {champion} to go back to, got none")
            if version not in self.versions() or version == champion:
                raise ModelError(
                    f"{self.folder}: expected a version of {self.versions()[:-1]} to go back to, got {version}"
                )
            check_files(self.path(version))
            told = {"rollback_of": champion, "restored": version, "reason": reason}
            restored = self._copy(self.path(version), lambda record: {**record, "rollback": told})
            return self._record_rollback(restored, version, champion, reason)

    def withdraw(self, version: int, *, reason: str) -> Record:
        """Takes the champion away, which no server has been able to load, and condemns it.

        Raises:
          ModelError: it is not the champion, or the base cannot be written.
        """
        with self._locked(f"the end of version {version}"):
            found = next((one for one in self.records() if (one.event, one.version) == ("withdrawn", version)), None)
            if version not in self.versions() and found is not None:
                return found
            if version != self.champion():
                raise ModelError(f"{self.folder}: expected to withdraw the champion, got {version}")
            record = found or Record(
                event="withdrawn",
                time=_now(),
                reason=reason,
                version=version,
                champion=max(self.versions()[:-1], default=None),
                condemned=identity_of(self.path(version)),
            )
            if found is None:
                self._append(record)
            self._remove(version)
        return record

    def note(self, record: Record) -> None:
        """Writes a record that makes no version."""
        with self._locked("a record"):
            self._append(record)

    def prune(self, versions: list[int], *, reason: str) -> None:
        """Deletes versions, and records it.

        Raises:
          ModelError: the champion is among them, or the base cannot be written.
        """
        with self._locked("what is left"):
            for version in versions:
                if version == self.champion():
                    raise ModelError(f"{self.folder}: expected to keep the champion, {version}")
                self._append(
                    Record(
                        event="pruned",
                        time=_now(),
                        reason=reason,
                        version=version,
                        identity=identity_of(self.path(version)),
                    )
                )
                self._remove(version)

    def _record_rollback(self, version: int, restored: int, rollback_of: int, reason: str) -> Record:
        before = self.record_of(restored)
        record = Record(
            event="rolled_back",
            time=_now(),
            reason=reason,
            version=version,
            champion=rollback_of,
            rollback_of=rollback_of,
            restored=restored,
            identity=identity_of(self.path(version)),
            condemned=identity_of(self.path(rollback_of)),
            run=before.run if before else None,
            lineage=lineage_of(self.path(version)),
            metrics=before.metrics if before else metrics_of(self.path(version)),
        )
        self._append(record)
        return record

    def _copy(self, source: Path, change: Callable[[dict[str, Any]], dict[str, Any]] | None = None) -> int:
        """Copies a model to the next version."""
        arriving = self.folder / f".arriving-{uuid.uuid4().hex}"
        try:
            shutil.copytree(source, arriving)
            if change is not None:
                text = json.dumps(change(record_of(arriving)), indent=2)
                (arriving / MODEL_FILE).write_text(text + "\n", encoding="utf-8")
            flush(arriving)
            version = self._claim(arriving)
        finally:
            shutil.rmtree(arriving, ignore_errors=True)
        flush_one(self.folder)
        return version

    def _claim(self, arriving: Path) -> int:
        """Renames a whole copy to the next free version."""
        while True:
            used = (record.version for record in self.records() if record.version is not None)
            version = max([0, *self.versions(), *used]) + 1
            try:
                os.rename(arriving, self.path(version))
            except OSError as exc:
                # Somebody else's version: a folder that is not empty cannot be renamed over.
                if exc.errno not in (errno.ENOTEMPTY, errno.EEXIST):
                    raise
            else:
                return version

    def _remove(self, version: int) -> None:
        # By a rename first: a server never sees half a version.
        going = self.folder / f".going-{uuid.uuid4().hex}"
        self.path(version).rename(going)
        shutil.rmtree(going)

    def _append(self, record: Record) -> None:
        folder = self.folder / REGISTRY_FOLDER
        folder.mkdir(exist_ok=True)
        number = max((number for number, _ in self._record_files()), default=0) + 1
        unfinished = folder / f".unfinished-{uuid.uuid4().hex}"
        unfinished.write_text(record.model_dump_json(indent=2, exclude_defaults=True) + "\n", encoding="utf-8")
        flush_one(unfinished)
        os.replace(unfinished, folder / f"{number:06d}-{record.event}.json")
        flush_one(folder)

    def _record_files(self) -> list[tuple[int, Path]]:
        folder = self.folder / REGISTRY_FOLDER
        matches = ((_RECORD.fullmatch(path.name), path) for path in (folder.iterdir() if folder.is_dir() else ()))
        return sorted((int(match[1]), path) for match, path in matches if match)

    @contextmanager
    def _locked(self, what: object) -> Iterator[None]:
        """One change at a time; foreign errors as ours."""
        try:
            self.folder.mkdir(parents=True, exist_ok=True)
            descriptor = os.open(self.folder, os.O_RDONLY)
            try:
                fcntl.flock(descriptor, fcntl.LOCK_EX)
                yield
            finally:
                os.close(descriptor)
        except OSError as exc:
            raise ModelError(f"{self.folder}: cannot publish {what}: {exc.strerror or exc}") from exc


def lineage_of(export: Path) -> Lineage:
    """What an exported model was made of, as far as it says so itself."""
    record = record_of(export)
    return Lineage(
        spec=str(record.get("fingerprint", "")),
        windows=str(record.get("window_fingerprint", "")),
        dataset=str(record.get("lineage", {}).get("dataset_manifest_sha256", "")),
        code=str(record.get("environment", {}).get("tidegauge", "")),
    )


def metrics_of(export: Path) -> dict[str, Any]:
    """How good an exported model was on its test split, all targets together: the numbers alone, by name."""
    scores = record_of(export).get("metrics", {}).get("standardised", {})
    return {name: value for name, value in scores.items() if isinstance(value, float)}


def _now() -> str:
    return ms_to_iso(time.time_ns() // 1_000_000)
