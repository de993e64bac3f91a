"""The registry's records: why each version of a model is, was or never came to be served.

They lie in `<paths.models>/<name>/registry/`, one JSON file an event, numbered in the order they were written
(`000007-promoted.json`), beside the versions. A record is never changed.
"""

from __future__ import annotations

from typing import Any, Literal

from schemas.section import Section


class Lineage(Section):
    """What a version was made of."""

    spec: str
    """The spec's fingerprint."""
    windows: str
    """That of its window part."""
    dataset: str
    """The sha256 of the dataset's manifest."""
    spans: tuple[str, ...] = ()
    """The spans that the dataset was cut from, by their names, each with the sha256 of its manifest: `NAME@SHA256`."""
    started_from: int | None = None
    """The version whose weights training began with."""
    code: str
    """The version of Tidegauge."""


class Record(Section):
    """One event of a model."""

    schema_version: Literal[1] = 1
    event: Literal["pushed", "promoted", "refused", "on_probation", "confirmed", "rolled_back", "withdrawn", "pruned"]
    time: str
    """By the wall clock; ISO 8601, as all times here."""
    reason: str
    version: int | None = None
    """The version that the event made, took away or, `rolled_back`, put in the place of another; a refused candidate
    has none."""
    champion: int | None = None
    """Which version the newest was before."""
    rollback_of: int | None = None
    """The version that this one replaces ..."""
    restored: int | None = None
    """... by the files of this earlier one."""
    identity: str | None = None
    """Of the version's (or the candidate's) weights and vocabularies: see `models.registry.identity_of`."""
    condemned: str | None = None
    """The identity that must not be served again: a tombstone."""
    scored_from: dict[str, int] | None = None
    """Of a version that is on probation: where its scored predictions begin in the accuracy topic, by partition."""
    interval: tuple[str, str] | None = None
    """The retraining run's."""
    run: str | None = None
    """The folder of the training run."""
    lineage: Lineage | None = None
    metrics: dict[str, Any] = {}
    """How good it was on its test split, all targets together, by name; of a retraining run also the champion's scores
    on the same windows, as `champion`."""
