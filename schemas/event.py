"""Events: what one is, and how one becomes a dead letter.

An event is a JSON object (Kafka) or a row (files) with the fields that the spec names. Both planes read times and
numbers with the functions here, so that a value is the same float wherever it came in.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, NamedTuple
from zoneinfo import ZoneInfo

import numpy as np
import orjson

from schemas.spec import Spec
from schemas.units import iso_to_ms

_FLOAT32_MAX = float(np.finfo(np.float32).max)
_MISSING = float("nan")


class BadEvent(Exception):
    """Why a record is no event. `reason` is a short code to count by, the message says what was expected and came.

    Reasons: `decode` (not an object), `missing` (a field), `type`, `range` (a number beyond float32, or not finite),
    `time` (does not parse), `time_range` (outside `stream.time_range`), `future` (beyond `grid.max_skew`, live only).
    """

    def __init__(self, reason: str, detail: str) -> None:
        super().__init__(detail)
        self.reason = reason


class Event(NamedTuple):
    """One valid event; `values` has a number for each feature that events carry, NaN where missing."""

    key: str
    time_ms: int
    values: list[float]


@dataclass(frozen=True, slots=True)
class Field:
    """A number that events carry: the feature's name, and the event's field that it comes from."""

    feature: str
    name: str


class EventReader:
    """Reads and checks single events of one spec."""

    def __init__(self, spec: Spec) -> None:
        stream = spec.stream
        self.key_field = stream.key
        self.time_field = stream.time.field
        self.fields = tuple(
            Field(feature.name, feature.field or feature.name)
            for feature in stream.features
            if feature.calendar is None
        )
        self._names = tuple(field.name for field in self.fields)
        self._zone = ZoneInfo(stream.time.zone)
        self._format = stream.time.format
        self._missing = frozenset(stream.missing)
        self._start_ms, self._end_ms = stream.time_range

    def read_json(self, payload: bytes | None) -> Event:
        """Reads an event from the bytes of a JSON object.

        Raises:
          BadEvent: it is none; the caller makes a dead letter of it.
        """
        if payload is None:
            raise BadEvent("decode", "expected a JSON object, got a null value (a tombstone)")
        try:
            document = orjson.loads(payload)
        except orjson.JSONDecodeError as exc:
            raise BadEvent("decode", f"expected a JSON object: {exc}") from exc
        if not isinstance(document, dict):
            raise BadEvent("decode", f"expected a JSON object, got {type(document).__name__}")
        key = self.read_key(document.get(self.key_field))
        time_ms = self.read_time(document.get(self.time_field))
        return Event(key, time_ms, [self.read_number(document.get(name), name) for name in self._names])

    def read_row(self, row: Mapping[str, str]) -> Event:
        """Reads an event from the texts of a file's row; `stream.missing` spells a missing number or time.

        Raises:
          BadEvent: it is none.
        """
        key = self.read_key(row.get(self.key_field))
        time_text = row.get(self.time_field)
        time_ms = self.read_time(None if time_text in self._missing else time_text)
        return Event(key, time_ms, [self.read_number_text(row.get(name, ""), name) for name in self._names])

    def read_key(self, value: Any) -> str:
        """The key as text; an integer is taken as its digits."""
        if isinstance(value, str) and value:
            return value
        if isinstance(value, int) and not isinstance(value, bool):
            return str(value)
        if value is None or value == "":
            raise BadEvent("missing", f"{self.key_field}: expected a key, got none")
        raise BadEvent("type", f"{self.key_field}: expected a text, got {type(value).__name__}")

    def read_time(self, value: Any) -> int:
        """The event time in epoch milliseconds, within `stream.time_range`."""
        if value is None or value == "":
            raise BadEvent("missing", f"{self.time_field}: expected an event time, got none")
        try:
            time_ms = self._parse_time(value)
        except (ValueError, OverflowError, TypeError) as exc:
            raise BadEvent("time", f"{self.time_field}: expected {self._format}, got {value!r:.60}") from exc
        if not self._start_ms <= time_ms < self._end_ms:
            raise BadEvent("time_range", f"{self.time_field}: {value!r:.60} is outside stream.time_range")
        return time_ms

    def _parse_time(self, value: Any) -> int:
        if self._format == "iso8601":
            if not isinstance(value, str):
                raise TypeError
            return iso_to_ms(value, self._zone)
        if isinstance(value, bool):
            raise TypeError
        if self._format == "epoch_ms":
            number = int(value)  # a text such as "1.5", or a fraction, is no whole number of milliseconds
            if number != float(value):
                raise ValueError
            return number
        return math.floor(float(value) * 1_000)

    def read_number_text(self, text: str, name: str) -> float:
        """A number as files write it, or NaN for a spelling of missing; the same float64 as of the JSON number."""
        if text in self._missing:
            return _MISSING
        try:
            if "_" in text or not text.isascii():  # Python's own extras; no other reader takes them
                raise ValueError
            value = float(text)
        except ValueError as exc:
            raise BadEvent("type", f"{name}: expected a number, got {text!r:.60}") from exc
        return self.read_number(value, name)

    @staticmethod
    def read_number(value: Any, name: str) -> float:
        """A JSON number (or null, which is missing: NaN) as float64 that float32 can hold."""
        if value is None:
            return _MISSING
        if isinstance(value, bool) or not isinstance(value, int | float):
            raise BadEvent("type", f"{name}: expected a number, got {type(value).__name__} {value!r:.60}")
        if not -_FLOAT32_MAX <= value <= _FLOAT32_MAX:
            raise BadEvent("range", f"{name}: expected a finite float32, got {value!r:.60}")
        return float(value)
