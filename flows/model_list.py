"""The versions of a model, and why each is there or is not."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any

from models.registry import Registry
from models.version_files import identity_of
from schemas.registry_record import Record
from schemas.spec import Spec
from schemas.text_spec import TextSpec

_MADE = ("pushed", "promoted", "rolled_back")


@dataclass(frozen=True, slots=True)
class ModelVersion:
    """A version that there is or was. `state` is `champion`, `kept`, `taken back` (it is on disk), or `gone`."""

    version: int
    state: str
    event: str
    """How it came to be; `-` where no record says so."""
    time: str
    reason: str
    interval: tuple[str, str] | None
    """That it was promoted for."""
    mae: float | None
    """On its test split, all targets together, in standardised units."""
    skill: float | None
    """Against persistence."""
    probation: str | None = None
    """What its probation has come to, if it was on any."""


@dataclass(frozen=True, slots=True)
class ModelList:
    """All versions of a model, oldest first, and its refused candidates."""

    model: str
    champion: int | None
    versions: tuple[ModelVersion, ...]
    refused: tuple[Record, ...]

    def document(self) -> dict[str, Any]:
        """The list for machines."""
        refused = [record.model_dump(mode="json", exclude_defaults=True) for record in self.refused]
        return {
            "model": self.model,
            "champion": self.champion,
            "versions": [asdict(one) for one in self.versions],
            "refused": refused,
        }

    def lines(self) -> list[str]:
        """The list in words: versions, and the last refusals."""
        if not self.versions and not self.refused:
            return [f"{self.model}: no versions"]
        lines = []
        for one in self.versions:
            scores = "" if one.mae is None else f", MAE {one.mae:.4g}"
            scores += "" if one.skill is None else f", skill {one.skill:+.1%}"
            what = "" if one.interval is None else f" for {one.interval[0]} to {one.interval[1]}"
            lines.append(f"{one.version:>5}  {one.state:<10}  {one.time:<20}  {one.event}{what}{scores}: {one.reason}")
            lines += [f"       {one.probation}"] if one.probation else []
        for record in self.refused[-5:]:
            what = "" if record.interval is None else f" for {record.interval[0]} to {record.interval[1]}"
            lines.append(f"    -  refused     {record.time:<20}  refused{what}: {record.reason}")
        return lines


def list_models(spec: Spec | TextSpec) -> ModelList:
    """The versions of a spec's model.

    Raises:
      ModelError: a record or a version cannot be read.
    """
    registry = Registry(spec.paths.models, spec.model_name)
    records, there, champion = registry.records(), registry.versions(), registry.champion()
    condemned = registry.condemned()
    made = {one.version: one for one in records if one.event in _MADE}
    probations = {one.version: one for one in records if one.event in ("on_probation", "confirmed")}
    found = []
    for version in sorted({*there, *(version for version in made if version is not None)}):
        state = "gone"
        if version in there:
            bad = identity_of(registry.path(version)) in condemned
            state = "champion" if version == champion else "taken back" if bad else "kept"
        record = made.get(version)
        metrics = {} if record is None else record.metrics
        found.append(
            ModelVersion(
                version=version,
                state=state,
                event="-" if record is None else record.event.replace("_", " "),
                time="-" if record is None else record.time,
                reason="there is no record of it" if record is None else record.reason,
                interval=None if record is None else record.interval,
                mae=metrics.get("mae"),
                skill=metrics.get("skill"),
                probation=_in_words(probations.get(version)),
            )
        )
    refused = tuple(one for one in records if one.event in ("refused", "withdrawn"))
    return ModelList(spec.model_name, champion, tuple(found), refused)


def _in_words(probation: Record | None) -> str | None:
    if probation is None:
        return None
    return f"{probation.event.replace('_', ' ')} since {probation.time}: {probation.reason}"
