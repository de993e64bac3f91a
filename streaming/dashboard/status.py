"""How the stream does, in one word and one sentence: what the page says first."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Literal, NamedTuple

from streaming.dashboard.endpoints import Scrape

FAR_BEHIND = 10_000
"""So many records behind is the alarm's limit too (deploy/prometheus/rules.yml)."""
QUIET_MS = 60_000

Level = Literal["good", "idle", "warn", "bad"]


class Status(NamedTuple):
    """`level` is for the colour and a word, `sentence` for a person."""

    level: Level
    sentence: str


def status_of(
    *,
    problem: str,
    scrapes: Sequence[Scrape],
    lag_records: int | None,
    measures: Sequence[Mapping[str, Any]],
    predicted: bool,
    silent_ms: int | None,
) -> Status:
    """What matters most.

    Args:
      problem: why the broker does not answer; empty where it does.
      scrapes: what the endpoints said.
      lag_records: how far `tidegauge stream` is behind.
      measures: what was measured of drift.
      predicted: whether there are predictions at all.
      silent_ms: since the last new prediction; None where none has come since the start.
    """
    if problem:
        return Status("bad", f"The broker does not answer: {problem}")
    for scrape in scrapes:
        if scrape.unready:
            return Status("bad", f"The {scrape.kind} is not ready: {scrape.unready}")
    if silent := [scrape for scrape in scrapes if scrape.problem]:
        return Status("warn", f"{len(silent)} of {len(scrapes)} metrics endpoints: {silent[0].url} {silent[0].problem}")
    if lag_records is not None and lag_records > FAR_BEHIND:
        return Status("warn", f"Predictions are {lag_records:,} events behind")
    if above := [one for one in measures if one["value"] > one["threshold"]]:
        return Status("warn", f"Drift: {', '.join(one['feature'] or 'errors' for one in above)}")
    if not predicted:
        return Status("idle", "No predictions yet")
    if silent_ms is None:
        return Status("idle", "No new predictions")
    if silent_ms > QUIET_MS:
        return Status("idle", f"No new predictions for {silent_ms // 60_000} min")
    return Status("good", "Events are predicted as they come")
