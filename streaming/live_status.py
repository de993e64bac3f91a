"""What a running loop is doing, as plain numbers: written by its loop, read by the threads that serve metrics.

A reader sees each number whole; the loop never waits for one.
"""

from __future__ import annotations

import time
from bisect import bisect_left
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, fields, is_dataclass
from itertools import islice
from typing import Any

import numpy as np

from pipelines.kernels.windowing import KeyState
from streaming.circuit_breaker import CircuitBreaker

HEALTHY_S = 300.0
"""A loop that has not turned for so long is stuck; the group has given its partitions away by then."""

SAMPLE_KEYS = 32

SECONDS = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0)
SIZES = tuple(float(1 << power) for power in range(0, 15, 2))


class Distribution:
    """How many values there were up to each bound, and beyond the last."""

    def __init__(self, bounds: Sequence[float]) -> None:
        self.bounds = tuple(bounds)
        self.counts = [0] * (len(self.bounds) + 1)
        self.sum = 0.0

    def add(self, value: float) -> None:
        """Counts a value."""
        self.counts[bisect_left(self.bounds, value)] += 1
        self.sum += value


@dataclass(frozen=True, slots=True)
class PartitionStatus:
    """Where a partition stands; `clock_ms` is its greatest event time, None before any event."""

    lag: int
    clock_ms: int | None
    keys: int
    state_bytes: int


@dataclass(slots=True)
class LoopStatus:
    """The numbers of a loop since its start.

    `counts` are the summary's; `partitions` by number, of those that are live; `restored` how many offsets of how many
    have been read to restore others; `setback` why the last turn did not come to its end.
    """

    counts: Counter[str] = field(default_factory=Counter)
    partitions: Mapping[int, PartitionStatus] = field(default_factory=dict)
    joined: bool = False
    setback: str = ""
    restoring: int = 0
    restored: tuple[int, int] = (0, 0)
    committed_at: float | None = None
    turned_at: float = field(default_factory=time.monotonic)
    batch_events: Distribution = field(default_factory=lambda: Distribution(SIZES))

    def health(self) -> tuple[bool, str]:
        """Whether the loop still turns, and a sentence."""
        idle_s = time.monotonic() - self.turned_at
        return idle_s < HEALTHY_S, f"the loop turned {idle_s:.1f} s ago"

    def readiness(self) -> tuple[bool, str]:
        """Whether records are worked on as they come, and a sentence: why not, if not."""
        if self.setback:
            return False, f"going back to the last commit: {self.setback}"
        if not self.joined:
            return False, "joining the consumer group"
        if self.restoring:
            done, total = self.restored
            return False, f"restoring {self.restoring} partitions: {done} of {total} offsets"
        return True, f"{len(self.partitions)} partitions are live"


@dataclass(slots=True)
class LiveStatus(LoopStatus):
    """The consumer's numbers since its start."""

    breaker: CircuitBreaker = field(default_factory=CircuitBreaker)
    model_version: int | None = None
    request_windows: Distribution = field(default_factory=lambda: Distribution(SIZES))
    request_seconds: Distribution = field(default_factory=lambda: Distribution(SECONDS))

    def answered(self, windows: int, latency_ms: float) -> None:
        """A request to the model server was answered."""
        self.request_windows.add(windows)
        self.request_seconds.add(latency_ms / 1_000)

    def readiness(self) -> tuple[bool, str]:
        """Whether events are being predicted as they come, and a sentence: why not, if not."""
        if self.breaker.state != "closed":
            return False, f"waiting for the model server: {self.breaker.reason}"
        return LoopStatus.readiness(self)


def state_bytes(keys: Mapping[str, KeyState]) -> int:
    """What the arrays of some keys take, by the first `SAMPLE_KEYS` of them."""
    sample = [_nbytes(state) for state in islice(keys.values(), SAMPLE_KEYS)]
    return sum(sample) * len(keys) // max(len(sample), 1)


def _nbytes(part: Any) -> int:
    if isinstance(part, np.ndarray):
        return part.nbytes
    return sum(_nbytes(getattr(part, field.name)) for field in fields(part)) if is_dataclass(part) else 0
