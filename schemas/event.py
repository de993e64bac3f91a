"""Events: what one is, and how one becomes a dead letter.

An event is a JSON object (Kafka) or a row (files) with the fields that the spec names. Both planes read times and
numbers with the functions here, so that a value is the same float wherever it came in.
"""

from __future__ import annotations

import math
from array import array
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import lru_cache
from typing import Any, NamedTuple
from zoneinfo import ZoneInfo

import numpy as np
import orjson

from schemas.spec import Spec
from schemas.stream_spec import Feature
from schemas.units import iso_to_ms

_FLOAT32_MAX = float(np.finfo(np.float32).max)
_MISSING = float("nan")
_NUMBERS = {float, int}

MAX_WHOLE = 1 << 24
"""Up to here every integer is a float32."""


class BadEvent(Exception):
    """Why a record is no event. `reason` is a short code to count by, the message says what was expected and came.

    Reasons: `decode` (not an object), `missing` (a field), `type`, `range` (a number beyond float32, or not finite),
    `time` (does not parse), `time_range` (outside `stream.time_range`), `future` (beyond `grid.max_skew`, live only),
    `size` (of a document, live only).
    """

    def __init__(self, reason: str, detail: str) -> None:
        super().__init__(detail)
        self.reason = reason


class Event(NamedTuple):
    """One valid event; `values` has a number for each feature without a calendar, NaN where missing."""

    key: str
    time_ms: int
    values: Sequence[float]


@dataclass(frozen=True, slots=True)
class Field:
    """A number that events carry: the feature, and the event's field that it comes from.

    `categories` are the indices of a category's texts, None of other types; `table` has the number for each key, where
    it comes from the spec and not from the event. `index` is the place in an array of `length` numbers, both None where
    the field holds one number.
    """

    feature: str
    name: str
    whole: bool = False
    categories: Mapping[str, int] | None = None
    missing: frozenset[str] = frozenset()
    table: Mapping[str, float] | None = None
    index: int | None = None
    length: int | None = None

    @classmethod
    def of(cls, feature: Feature, missing: frozenset[str]) -> Field:
        """The field of a feature that events carry."""
        categories = {text: index for index, text in enumerate(feature.categories)} or None
        field = cls(
            feature.name,
            feature.field or feature.name,
            feature.type == "integer",
            categories,
            missing,
            index=feature.index,
            length=feature.length,
        )
        if feature.table is None:
            return field
        return replace(field, table={key: field.read_json(value) for key, value in feature.table.items()})

    def read_json(self, value: Any) -> float:
        """A JSON value as float64 that float32 can hold; null is missing: NaN. Of an array it is one number.

        Raises:
          BadEvent: it is not of the feature's type.
        """
        if self.categories is not None:
            return self._category(value)
        if value is not None and self.index is not None:
            if not isinstance(value, list) or len(value) != self.length:
                what = f"{len(value)} numbers" if isinstance(value, list) else type(value).__name__
                raise BadEvent("type", f"{self.name}: expected an array of {self.length} numbers, got {what}")
            value = value[self.index]
        if value is None:
            return _MISSING
        if isinstance(value, bool) or not isinstance(value, int | float):
            raise BadEvent("type", f"{self.name}: expected a number, got {type(value).__name__} {value!r:.60}")
        if not -_FLOAT32_MAX <= value <= _FLOAT32_MAX:
            raise BadEvent("range", f"{self.name}: expected a finite float32, got {value!r:.60}")
        if self.whole and value != math.floor(value):
            raise BadEvent("type", f"{self.name}: expected a whole number, got {value!r:.60}")
        if self.whole and abs(value) > MAX_WHOLE:
            raise BadEvent("range", f"{self.name}: expected at most {MAX_WHOLE}, got {value!r:.60}")
        return float(value)

    def read_text(self, text: str) -> float:
        """A value as files write it; the same float64 as of the JSON value, NaN for a spelling of missing.

        Raises:
          BadEvent: it is not of the feature's type.
        """
        if text in self.missing:
            return _MISSING
        if self.categories is not None:
            return self._category(text)
        if self.index is not None:
            return self.read_json(parse_array(text))
        try:
            if "_" in text or not text.isascii():  # Python's own extras; no other reader takes them
                raise ValueError
            value = float(text)
        except ValueError as exc:
            raise BadEvent("type", f"{self.name}: expected a number, got {text!r:.60}") from exc
        return self.read_json(value)

    def write_json(self, value: float) -> Any:
        """A JSON value that `read_json` reads as `value`."""
        if math.isnan(value):
            return None
        if self.categories is None:
            return value
        texts = list(self.categories)
        return texts[int(value)] if value < len(texts) else self._unknown()

    def _category(self, value: Any) -> float:
        if isinstance(value, bool):
            value = "true" if value else "false"
        elif isinstance(value, int):
            value = str(value)
        if value is None:
            return _MISSING
        if not isinstance(value, str):
            raise BadEvent("type", f"{self.name}: expected a text, got {type(value).__name__} {value!r:.60}")
        if value in self.missing:
            return _MISSING
        categories = self.categories or {}
        return float(categories.get(value, len(categories)))

    def _unknown(self) -> str:
        text = "?"
        while text in self.missing or text in (self.categories or {}):
            text += "?"
        return text


@lru_cache(maxsize=1)  # the places of one array come one after the other
def parse_array(text: str) -> Any:
    """What a text that should be a JSON array stands for; the text itself where it is no JSON."""
    try:
        return orjson.loads(text)
    except orjson.JSONDecodeError:
        return text


class EventReader:
    """Reads and checks single events of one spec."""

    def __init__(self, spec: Spec) -> None:
        stream = spec.stream
        self.key_field = stream.key
        self.time_field = stream.time.field
        self._missing = frozenset(stream.missing)
        self.fields = tuple(Field.of(feature, self._missing) for feature in stream.features if feature.calendar is None)
        self.columns = tuple(dict.fromkeys(field.name for field in self.fields if field.table is None))
        """The event's fields that features come from."""
        plain = all(field.table is None and field.categories is None and not field.whole for field in self.fields)
        self._plain = [field.name for field in self.fields] if plain else None
        has_arrays = any(field.index is not None for field in self.fields)
        self._members = _Members(self.fields) if plain and has_arrays else None
        self._zone = ZoneInfo(stream.time.zone)
        self._format = stream.time.format
        self._is_ms = self._format == "epoch_ms"
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
        truths = self._members is not None and (b"true" in payload or b"false" in payload)
        return self.read_document(document, truths=truths)

    def read_document(self, document: Any, *, truths: bool = True) -> Event:
        """Reads an event from what a JSON text stands for.

        Args:
          document: any value.
          truths: whether a boolean may be in an array of it; to Python it is a number, to us it is none.
        Raises:
          BadEvent: it is none.
        """
        if not isinstance(document, dict):
            raise BadEvent("decode", f"expected a JSON object, got {type(document).__name__}")
        # What most events have is let through here; the functions look at all else.
        key = document.get(self.key_field)
        if type(key) is not str or not key:
            key = self.read_key(key)
        time_ms = document.get(self.time_field)
        if type(time_ms) is not int or not self._is_ms or not self._start_ms <= time_ms < self._end_ms:
            time_ms = self.read_time(time_ms)
        if self._members is not None:
            if not truths and (many := self._members.numbers(document)):
                return Event(key, time_ms, many)
        elif self._plain and (numbers := _numbers(document, self._plain)):
            return Event(key, time_ms, numbers)
        return Event(
            key,
            time_ms,
            [
                field.read_json(document.get(field.name)) if field.table is None else field.table.get(key, _MISSING)
                for field in self.fields
            ],
        )

    def read_row(self, row: Mapping[str, str]) -> Event:
        """Reads an event from the texts of a file's row; `stream.missing` spells a missing number or time.

        Raises:
          BadEvent: it is none.
        """
        key = self.read_key(row.get(self.key_field))
        time_text = row.get(self.time_field)
        time_ms = self.read_time(None if time_text in self._missing else time_text)
        return Event(
            key,
            time_ms,
            [
                field.read_text(row.get(field.name, "")) if field.table is None else field.table.get(key, _MISSING)
                for field in self.fields
            ],
        )

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


def _numbers(document: Mapping[str, Any], names: Sequence[str]) -> list[float] | None:
    """The numbers of all fields at once; None where one of them has to be looked at by itself."""
    try:
        values = [document[name] for name in names]
        kinds = set(map(type, values))
        if not kinds <= _NUMBERS or not sum(map(abs, values)) <= _FLOAT32_MAX:  # so also where one is NaN
            return None
        return list(map(float, values)) if int in kinds else values
    except (KeyError, OverflowError):
        return None


class _Members:
    """The members of an event of plain numbers and arrays, all read at once.

    Args:
      fields: what they are read for.
    """

    def __init__(self, fields: Sequence[Field]) -> None:
        self._lengths = {field.name: field.length for field in fields}
        first, start = 0, {}
        for name, length in self._lengths.items():
            start[name], first = first, first + (length or 1)
        places = [start[field.name] + (field.index or 0) for field in fields]
        self._places = None if places == list(range(first)) else np.array(places)

    def numbers(self, document: Mapping[str, Any]) -> array[float] | None:
        """The fields' numbers, of an event without booleans; None where one has to be looked at by itself."""
        found: array[float] = array("d")
        try:
            for name, length in self._lengths.items():
                value = document[name]
                if length is None:
                    found.append(value)
                elif type(value) is list and len(value) == length:
                    found.extend(array("d", value))  # several times as fast as the list itself
                else:
                    return None
        except (KeyError, TypeError, OverflowError):
            return None
        numbers = np.frombuffer(found)
        if not np.abs(numbers).max() <= _FLOAT32_MAX:  # so also where one is NaN
            return None
        return found if self._places is None else array("d", numbers[self._places].tobytes())
