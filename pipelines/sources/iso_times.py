"""ISO 8601 times, a column at a time.

`parse` reads the shapes that files are full of and leaves every other text, and every one that it is not sure of, to
`schemas.event.EventReader`; what it does read it reads to the same millisecond.
"""

from __future__ import annotations

from datetime import UTC, datetime, timedelta, tzinfo

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from schemas.units import datetime_to_ms

Int64 = NDArray[np.int64]
Bool = NDArray[np.bool_]
Octets = NDArray[np.uint8]

_DAY_MS = 86_400_000
_DATE = "dddd-dd-dd"
_CLOCKS = ("dd:dd", "dd:dd:dd", "dd:dd:dd.ddd", "dd:dd:dd.dddddd")
_ZONES = ("", "Z", "+dd:dd", "-dd:dd")
_SHAPES = [_DATE, *(f"{_DATE}{mark}{clock}{zone}" for mark in "T " for clock in _CLOCKS for zone in _ZONES)]
_MONTH_DAYS = np.array([31, 28, 31, 30, 31, 30, 31, 31, 30, 31, 30, 31])


def parse(texts: pa.StringArray, zone: tzinfo) -> tuple[Int64, Bool]:
    """Reads times.

    Args:
      texts: (row,), without nulls.
      zone: of the times that do not say one.
    Returns:
      Epoch milliseconds int64 (row,), rounded down, and bool (row,): which texts were read.
    """
    time_ms, read = np.zeros(len(texts), np.int64), np.zeros(len(texts), np.bool_)
    if not len(texts):
        return time_ms, read
    offsets = np.frombuffer(texts.buffers()[1], np.int32)[texts.offset : texts.offset + len(texts) + 1]
    octets = np.frombuffer(texts.buffers()[2] or b"", np.uint8)
    lengths = np.diff(offsets)
    for length in np.unique(lengths):
        shapes = [shape for shape in _SHAPES if len(shape) == length]
        rows = np.flatnonzero(lengths == length) if shapes else np.empty(0, np.int64)
        while shapes and len(rows):
            shape = shapes.pop()
            table = octets[offsets[rows, None] + np.arange(length)]
            fits = _fits(table, shape)
            time_ms[rows[fits]], read[rows[fits]] = _read(table[fits], shape, zone)
            rows = rows[~fits]
    return time_ms, read


def _fits(table: Octets, shape: str) -> Bool:
    fits = np.ones(len(table), np.bool_)
    for column, mark in enumerate(shape):
        octet = table[:, column]
        fits &= (octet - ord("0") < 10) if mark == "d" else (octet == ord(mark))
    return fits


def _read(table: Octets, shape: str, zone: tzinfo) -> tuple[Int64, Bool]:
    """Reads texts of one shape: octets (row, character)."""

    def number(first: int, last: int) -> Int64:
        value = np.zeros(len(table), np.int64)
        for column in range(first, last):
            value = value * 10 + (table[:, column] - ord("0"))
        return value

    clock = shape[len(_DATE) + 1 :]
    zone_at = next((at for at, mark in enumerate(clock) if mark in "Z+-"), len(clock))
    clock, written_zone = clock[:zone_at], clock[zone_at:]
    at = len(_DATE) + 1
    year, month, day = number(0, 4), number(5, 7), number(8, 10)
    nothing = np.zeros(len(table), np.int64)
    hour, minute = (number(at, at + 2), number(at + 3, at + 5)) if clock else (nothing, nothing)
    second = number(at + 6, at + 8) if len(clock) > 5 else nothing
    millis = number(at + 9, at + 12) if len(clock) > 8 else nothing

    leap = (year % 4 == 0) & ((year % 100 != 0) | (year % 400 == 0))
    valid = (year >= 2) & (year <= 9998) & (month >= 1) & (month <= 12)  # no offset leads out of datetime's years
    days_in_month = _MONTH_DAYS[np.clip(month, 1, 12) - 1] + (leap & (month == 2))
    valid &= (day >= 1) & (day <= days_in_month) & (hour < 24) & (minute < 60) & (second < 60)
    months = (np.where(valid, year, 1970) - 1970) * 12 + np.where(valid, month, 1) - 1
    date = months.astype("datetime64[M]").astype("datetime64[D]").astype(np.int64) + day - 1
    local_ms = date * _DAY_MS + ((hour * 60 + minute) * 60 + second) * 1_000 + millis

    if not written_zone:
        offset_ms, known = _zone_offset(date, valid, zone)
        return local_ms - offset_ms, known
    if written_zone == "Z":
        return local_ms, valid
    at += zone_at
    zone_hour, zone_minute = number(at + 1, at + 3), number(at + 4, at + 6)
    ahead = 60_000 if written_zone[0] == "+" else -60_000
    return local_ms - (zone_hour * 60 + zone_minute) * ahead, valid & (zone_hour < 24) & (zone_minute < 60)


def _zone_offset(date: Int64, valid: Bool, zone: tzinfo) -> tuple[Int64, Bool]:
    """The offset from UTC of local dates (days since 1970), and whether it holds for the whole day."""
    days, which = np.unique(np.where(valid, date, 0), return_inverse=True)
    midnights = [datetime(1970, 1, 1) + timedelta(days=int(day)) for day in days]  # noqa: DTZ001 - zoned in `_offset_ms`
    first = np.array([_offset_ms(midnight, zone) for midnight in midnights], np.int64)
    last = np.array([_offset_ms(midnight + timedelta(days=1), zone) for midnight in midnights], np.int64)
    return first[which], valid & (first == last)[which]


def _offset_ms(local: datetime, zone: tzinfo) -> int:
    return datetime_to_ms(local.replace(tzinfo=UTC)) - datetime_to_ms(local.replace(tzinfo=zone))
