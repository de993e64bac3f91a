"""What every kind of stream shares: its records, its partitions, and what a batch yields before it is committed."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol

from pipelines.kernels.windowing import KeyState
from schemas.dead_letter import DeadLetter


class Record(Protocol):
    """What is read of a consumed Kafka record; times in epoch milliseconds."""

    offset: int
    timestamp: int
    key: bytes | None
    value: bytes | None
    headers: Sequence[tuple[str, bytes]]


@dataclass(slots=True, kw_only=True)
class Stage:
    """What a batch of one partition's records yields beside predictions, before it is committed."""

    next_offset: int
    late: list[Record] = field(default_factory=list)
    dead: list[tuple[Record, DeadLetter]] = field(default_factory=list)
    unpredicted: list[tuple[int, DeadLetter]] = field(default_factory=list)
    """Windows that the model does not take, with their origins in milliseconds."""
    counts: Counter[str] = field(default_factory=Counter)
    """in, used, duplicate, late and dead events; what was `refused` by the model, and `warming` windows: those that are
    not predicted, because events that they need may be missing."""


class LivePartition(Protocol):
    """One input partition. Nothing of it changes until `apply`, once what was staged is committed."""

    name: str
    """`topic[partition]`, for messages."""
    next_offset: int

    @property
    def clock_ms(self) -> int | None:
        """The greatest time seen, epoch milliseconds."""
        ...

    @property
    def keys(self) -> Mapping[str, KeyState]:
        """What is remembered of each key."""
        ...

    def stage(self, records: Sequence[Record], now_ms: int) -> Stage:
        """Works out what the partition's next records change and yield, by the wall clock `now_ms`."""
        ...

    def idle(self, position: int = 0) -> Stage:
        """A stage of no records; the offset moves to `position`, over what is none, such as a transaction's end."""
        ...

    def apply(self, stage: Any) -> None:
        """Makes one of its stages, which is committed by now, the partition's state."""
        ...


def valid_ms(record: Record, now_ms: int) -> int:
    """The record's own time where a topic is sure to take it: a broker refuses one that is far ahead of its clock."""
    return record.timestamp if 0 <= record.timestamp <= now_ms else now_ms
