"""Prune: deletes versions, runs and spans that nothing needs any more, by `retrain.retain`.

Always kept: the champion, the version before it and the one that a rollback would go back to; the training runs of all
versions that are kept, since a warm start and a person look there; spans that the next run trains on. Records stay for
ever, so a model that was taken back is known even when its files are gone.
"""

from __future__ import annotations

import shutil
import uuid
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from flows.retrain_folders import locked, run_folders, span_store
from models.registry import Registry
from schemas.dataset import DatasetFolder, span_folders
from schemas.errors import DatasetError, ModelError
from schemas.spec import Spec


@dataclass(frozen=True, slots=True)
class Pruned:
    """What was deleted, or in a dry run would be."""

    versions: tuple[int, ...]
    runs: tuple[str, ...]
    spans: tuple[str, ...]
    dry_run: bool

    def document(self) -> dict[str, Any]:
        """The result for machines."""
        return asdict(self)

    def lines(self) -> list[str]:
        """The result in words."""
        what = "would delete" if self.dry_run else "deleted"
        groups = {"version": [str(version) for version in self.versions], "run": self.runs, "span": self.spans}
        lines = [f"{what} {kind} {name}" for kind, names in groups.items() for name in names]
        return lines or ["nothing to delete"]


def prune(spec: Spec, *, dry_run: bool = False) -> Pruned:
    """Deletes what `retrain.retain` does not keep.

    Args:
      spec: the stream.
      dry_run: only says what.
    Raises:
      ModelError: a retraining run is under way, or something cannot be read or deleted.
    """
    registry, retain = Registry(spec.paths.models, spec.model_name), spec.retrain.retain
    with locked(spec) as free:
        if not free:
            raise ModelError(f"{spec.stream.name}: expected no retraining run while pruning, got one under way")
        there = registry.versions()
        kept = {*there[-max(retain.versions, 2) :], registry.last_good()}
        versions = [version for version in there if version not in kept]
        runs = _runs(spec, [record.run for version in kept if version and (record := registry.record_of(version))])
        spans = _spans(spec)
        if not dry_run:
            if versions:
                registry.prune(versions, reason=f"retrain.retain.versions: {retain.versions}")
            for path in (*runs, *spans):
                _delete(path)
    return Pruned(tuple(versions), tuple(path.name for path in runs), tuple(path.name for path in spans), dry_run)


def _runs(spec: Spec, needed: list[str | None]) -> list[Path]:
    """The folders of runs that go: but for the newest, and those of versions that stay."""
    folders = run_folders(spec)[: -spec.retrain.retain.runs]
    parents = {parent for run in needed if run for parent in Path(run).absolute().parents}
    return [folder for folder in folders if folder.absolute() not in parents]


def _spans(spec: Spec) -> list[Path]:
    """The spans that end before all that the next run trains on."""
    ends: dict[Path, int] = {}
    for path in span_folders(span_store(spec)):
        try:
            interval = DatasetFolder(path).manifest.interval_ms
        except DatasetError:
            continue  # a damaged one is for a person to look at
        if interval is not None:
            ends[path] = interval[1]
    settings, step = spec.retrain, spec.grid.step
    gap_ms = (spec.window.past + spec.window.horizon) * step
    needed_ms = max(ends.values(), default=0) - gap_ms - settings.validation_ms - settings.range
    return sorted(path for path, end_ms in ends.items() if end_ms <= needed_ms - settings.retain.spans)


def _delete(path: Path) -> None:
    """Deletes a folder that others may look for: first its name, then its files."""
    going = path.with_name(f"{path.name}.old-{uuid.uuid4().hex[:12]}")
    try:
        path.rename(going)
        shutil.rmtree(going)
    except OSError as exc:
        raise ModelError(f"{path}: cannot be deleted: {exc.strerror or exc}") from exc
