"""What the workers of a job tell its launcher, as JSON lines, from which the manifest and the statistics are made."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Annotated, Literal

from pydantic import Field, TypeAdapter

from schemas.dataset import KeyProfile, Moments, Shard, SketchCounts
from schemas.section import Section

REPORTS = "reports"
"""The output of a stage that encoded reports go to."""


class FileReport(Section):
    """A piece of a file that was read to its end: its rows, and how many of them are no events."""

    kind: Literal["file"] = "file"
    rows: int
    dead_by_reason: dict[str, int]


class FailureReport(Section):
    """A file that cannot be used. It is told and not raised: a worker's exception is a traceback in somebody's log."""

    kind: Literal["failure"] = "failure"
    file: int
    message: str


class KeySplit(Section):
    """One key's windows in one split; origins are steps, both ends included."""

    windows: int
    first_origin_step: int
    last_origin_step: int


class KeyReport(Section):
    """One key: its profile, its windows by split, and moments of its train rows by feature."""

    kind: Literal["key"] = "key"
    key: str
    profile: KeyProfile
    splits: dict[str, KeySplit]
    moments: dict[str, Moments]


class SketchReport(Section):
    """The distribution of each feature over some of the keys."""

    kind: Literal["sketches"] = "sketches"
    sketches: dict[str, SketchCounts]


class ShardReport(Section):
    """One written file."""

    kind: Literal["shard"] = "shard"
    shard: Shard


Report = Annotated[FileReport | FailureReport | KeyReport | SketchReport | ShardReport, Field(discriminator="kind")]

_LINE: TypeAdapter[Report] = TypeAdapter(Report)


def encode_report(report: Report) -> bytes:
    """One JSON line, without its line break."""
    return _LINE.dump_json(report)


def decode_reports(lines: Iterable[bytes]) -> list[Report]:
    """Reads what `encode_report` wrote."""
    return [_LINE.validate_json(line) for line in lines]
