"""The times of a cron expression: which are due, and by how much each is put off."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from datetime import UTC, datetime
from itertools import takewhile
from zoneinfo import ZoneInfo

from cronsim import CronSim

from schemas.schedule_spec import Schedule
from schemas.units import datetime_to_ms

LONGEST_MS = 366 * 86_400_000
"""A time that is longer ago is never made up for."""


def times_after(schedule: Schedule, after_ms: int) -> Iterator[int]:
    """The schedule's times after one, epoch milliseconds, in order; none without a cron expression."""
    if schedule.cron is not None:
        begin = datetime.fromtimestamp(after_ms / 1_000, UTC).astimezone(ZoneInfo(schedule.zone))
        for moment in CronSim(schedule.cron, begin):
            yield datetime_to_ms(moment)


def due_times(schedule: Schedule, stream: str, after_ms: int, now_ms: int) -> list[int]:
    """The times after one that are due now: those whose delay is over as well.

    They are in order: a time whose delay is shorter waits for those before it.
    """
    times = times_after(schedule, max(after_ms, now_ms - LONGEST_MS))
    return list(takewhile(lambda time_ms: time_ms + delay_ms(schedule, stream, time_ms) <= now_ms, times))


def next_due_ms(schedule: Schedule, stream: str, after_ms: int) -> int | None:
    """When the first time after one is due; None where there is none."""
    first = next(times_after(schedule, after_ms), None)
    return None if first is None else first + delay_ms(schedule, stream, first)


def delay_ms(schedule: Schedule, stream: str, time_ms: int) -> int:
    """By how much a time is put off: by its hash, so that a restart changes nothing, and streams differ."""
    if not schedule.jitter:
        return 0
    digest = hashlib.blake2b(f"{stream}@{time_ms}".encode(), digest_size=8).digest()
    return int.from_bytes(digest) % (schedule.jitter + 1)
