"""Durations and instants as the spec writes them, and as the code counts them: int64 milliseconds, UTC."""

from __future__ import annotations

import re
from datetime import UTC, date, datetime, timedelta, tzinfo
from typing import Annotated, Any

from pydantic import BeforeValidator, PlainSerializer, WithJsonSchema

_UNITS_MS = {"ms": 1, "s": 1_000, "m": 60_000, "min": 60_000, "h": 3_600_000, "d": 86_400_000, "w": 604_800_000}
_DURATION = re.compile(r"(\d+)\s*(ms|s|min|m|h|d|w)")
DURATION_PATTERN = r"^\d+\s*(ms|s|min|m|h|d|w)$"
_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)


def parse_duration_ms(value: Any) -> int:
    """Reads a duration such as `15min`, `1h` or `0s` as milliseconds.

    Raises:
      ValueError: not a whole number followed by ms, s, min (or m), h, d or w.
    """
    if isinstance(value, str) and (match := _DURATION.fullmatch(value.strip())):
        return int(match[1]) * _UNITS_MS[match[2]]
    raise ValueError("expected a duration such as '15min', '1h' or '0s'")


def format_duration(duration_ms: int) -> str:
    """The shortest spelling of a duration that `parse_duration_ms` reads back."""
    for unit in ("w", "d", "h", "min", "s"):
        if duration_ms and duration_ms % _UNITS_MS[unit] == 0:
            return f"{duration_ms // _UNITS_MS[unit]}{unit}"
    return f"{duration_ms}ms" if duration_ms else "0s"


def datetime_to_ms(moment: datetime) -> int:
    """Milliseconds since 1970-01-01T00:00Z of an aware datetime, rounded down; exact for every year."""
    delta = moment - _EPOCH
    return (delta.days * 86_400 + delta.seconds) * 1_000 + delta.microseconds // 1_000


def iso_to_ms(text: str, zone: tzinfo = UTC) -> int:
    """Reads an ISO 8601 date or time; one without an offset is taken to be in `zone`.

    Raises:
      ValueError: not ISO 8601.
    """
    moment = datetime.fromisoformat(text)
    return datetime_to_ms(moment if moment.tzinfo else moment.replace(tzinfo=zone))


def ms_to_iso(time_ms: int) -> str:
    """`2013-01-01T06:00:00Z`, with milliseconds only where there are any."""
    seconds, millis = divmod(time_ms, 1_000)
    text = (_EPOCH + timedelta(seconds=seconds)).isoformat().removesuffix("+00:00")
    return f"{text}.{millis:03d}Z" if millis else f"{text}Z"


def _parse_instant_ms(value: Any) -> int:
    # YAML reads an unquoted 2013-01-01 as a date and 2013-01-01T00:00:00Z as a datetime.
    if isinstance(value, datetime):
        return datetime_to_ms(value if value.tzinfo else value.replace(tzinfo=UTC))
    if isinstance(value, date):
        return datetime_to_ms(datetime(value.year, value.month, value.day, tzinfo=UTC))
    if isinstance(value, str):
        try:
            return iso_to_ms(value)
        except ValueError:
            pass
    raise ValueError("expected an ISO 8601 date or time such as 2013-09-01 or 2013-09-01T06:00:00Z")


DurationMs = Annotated[
    int,
    BeforeValidator(parse_duration_ms),
    PlainSerializer(format_duration, when_used="json"),
    WithJsonSchema({"type": "string", "pattern": DURATION_PATTERN, "examples": ["15min", "1h"]}),
]
"""A duration: written `1h` in YAML, an int of milliseconds in code."""

InstantMs = Annotated[
    int,
    BeforeValidator(_parse_instant_ms),
    PlainSerializer(ms_to_iso, when_used="json"),
    WithJsonSchema({"type": "string", "format": "date-time", "examples": ["2013-09-01"]}),
]
"""A moment: written as ISO 8601 in YAML (UTC unless it says otherwise), an int of epoch milliseconds in code."""
