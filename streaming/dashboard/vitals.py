"""How the stream does: lag, throughput, latency and what became of events, now and over the last minutes."""

from __future__ import annotations

from collections import deque
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from streaming.dashboard.endpoints import Scrape

SAMPLES = 400
"""So many looks are kept."""
_OUTCOMES = ("used", "duplicate", "late", "dead")
_HISTORY = ("events_per_s", "predictions_per_s", "lag_records", "latency_ms", "latency_high_ms")


@dataclass(frozen=True, slots=True)
class Look:
    """What was seen of the topics at one moment.

    `time_s` is monotonic; `events` and `predictions` are how many there have been so far, counted from wherever, the
    predictions None while old ones are still being read; `lag_records` how many events the group of `tidegauge stream`
    is behind, None where that is not known.
    """

    time_s: float
    time_ms: int
    events: int
    predictions: int | None
    lag_records: int | None


class Vitals:
    """The figures of the last looks."""

    def __init__(self) -> None:
        self._last: Look | None = None
        self._counts: dict[str, float] = {}
        self._history: deque[dict[str, Any]] = deque(maxlen=SAMPLES)
        self.now: dict[str, Any] = {}

    def add(self, look: Look, latency_ms: tuple[float, float] | None, scrapes: Sequence[Scrape]) -> None:
        """Takes a look, the median and the 99th percentile of latencies, and what the processes said at that time."""
        consumers = [scrape for scrape in scrapes if scrape.kind == "consumer"]
        median_ms, high_ms = latency_ms or (None, None)
        self.now = {
            "time_ms": look.time_ms,
            "events_per_s": self._rate(look, "events"),
            "predictions_per_s": self._rate(look, "predictions"),
            "lag_records": look.lag_records,
            "lag_s": _highest(consumers, "tidegauge_lag_seconds"),
            "latency_ms": median_ms,
            "latency_high_ms": high_ms,
            "outcomes": _outcomes(consumers),
        }
        self._last = look
        self._history.append({name: self.now[name] for name in ("time_ms", *_HISTORY)})

    def _rate(self, look: Look, name: str) -> float | None:
        """Of a count, a second; None before the second look, and where it went back: the topic is another one."""
        if self._last is None or look.time_s <= self._last.time_s:
            return None
        count, before = getattr(look, name), getattr(self._last, name)
        if count is None or before is None or count < before:
            return None
        return float((count - before) / (look.time_s - self._last.time_s))

    def history(self) -> dict[str, list[Any]]:
        """The figures by name, the oldest first."""
        return {name: [look[name] for look in self._history] for name in ("time_ms", *_HISTORY)}


def _outcomes(consumers: Sequence[Scrape]) -> Mapping[str, float] | None:
    """What became of the events since the consumers were started: in = the sum of the others."""
    if not consumers:
        return None
    found = {name: sum(one.total("tidegauge_events_total", outcome=name) for one in consumers) for name in _OUTCOMES}
    return {"in": sum(one.total("tidegauge_events_in_total") for one in consumers), **found}


def _highest(scrapes: Sequence[Scrape], name: str) -> float | None:
    found = (scrape.highest(name) for scrape in scrapes)
    return max((value for value in found if value is not None), default=None)
