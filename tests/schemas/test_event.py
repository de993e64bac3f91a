"""Single values: JSON and the texts of files read the same numbers, and refuse the same."""

from __future__ import annotations

import json
import math
from typing import Any
from zoneinfo import ZoneInfo

import pytest
from hypothesis import given
from hypothesis import strategies as st

from schemas.event import BadEvent, Event, EventReader
from schemas.units import iso_to_ms, ms_to_iso
from tests.specs import tiny_spec

FEATURES: list[dict[str, Any]] = [
    {"name": "load", "role": "target"},
    {"name": "count", "role": "past", "type": "integer"},
    {"name": "kind", "role": "past", "type": "category", "categories": ["red", "7", "true", "é"]},
    {"name": "size", "role": "static", "type": "category", "categories": ["small", "large"],
     "table": {"a": "large", "b": "small", "c": "huge"}},
]  # fmt: skip


@pytest.fixture(scope="module")
def reader() -> EventReader:
    return EventReader(tiny_spec(stream={"features": FEATURES}))


def from_json(reader: EventReader, **values: Any) -> Event:
    return reader.read_json(json.dumps({"key": "a", "time": 5, "load": 1} | values).encode())


def from_texts(reader: EventReader, **texts: str) -> Event:
    return reader.read_row({"key": "a", "time": "5", "load": "1", "count": "", "kind": ""} | texts)


@pytest.mark.parametrize(
    ("value", "text", "index"),
    [
        ("red", "red", 0),
        (7, "7", 1),
        ("7", "7", 1),
        (True, "true", 2),
        ("é", "é", 3),
        ("Red", "Red", 4),
        (False, "false", 4),
        (" red", " red", 4),
    ],
)
def test_a_category_is_its_index_and_an_unknown_one_has_its_own(
    reader: EventReader, value: Any, text: str, index: int
) -> None:
    assert from_json(reader, kind=value).values[2] == from_texts(reader, kind=text).values[2] == index


@pytest.mark.parametrize(("value", "text"), [(None, ""), ("NA", "NA"), ("", "")])
def test_a_missing_category_is_none(reader: EventReader, value: Any, text: str) -> None:
    assert math.isnan(from_json(reader, kind=value).values[2])
    assert math.isnan(from_texts(reader, kind=text).values[2])


@pytest.mark.parametrize("value", [1.5, [], {}])
def test_what_is_no_text_is_no_category(reader: EventReader, value: Any) -> None:
    with pytest.raises(BadEvent, match="kind: expected a text") as caught:
        from_json(reader, kind=value)
    assert caught.value.reason == "type"


@pytest.mark.parametrize(("value", "text"), [(3, "3"), (3.0, "3.0"), (-(2**24), "-16777216"), (300, "3e2")])
def test_an_integer_is_a_whole_number(reader: EventReader, value: Any, text: str) -> None:
    assert from_json(reader, count=value).values[1] == from_texts(reader, count=text).values[1] == value


@pytest.mark.parametrize(
    ("value", "text", "reason"), [(1.5, "1.5", "type"), (2**24 + 1, "16777217", "range"), (1e300, "1e300", "range")]
)
def test_what_is_no_integer_is_refused_alike(reader: EventReader, value: Any, text: str, reason: str) -> None:
    for read in (lambda: from_json(reader, count=value), lambda: from_texts(reader, count=text)):
        with pytest.raises(BadEvent) as caught:
            read()
        assert caught.value.reason == reason


@pytest.mark.parametrize(("key", "index"), [("a", 1), ("b", 0), ("c", 2)])
def test_a_table_tells_of_the_key(reader: EventReader, key: str, index: int) -> None:
    assert from_json(reader, key=key).values[3] == from_texts(reader, key=key).values[3] == index
    assert reader.columns == ("load", "count", "kind")


def test_a_key_that_the_table_has_not_is_missing(reader: EventReader) -> None:
    assert math.isnan(from_json(reader, key="d").values[3])


@given(st.integers(0, 4) | st.none())
def test_what_is_written_is_read_as_it_was(index: int | None) -> None:
    field = EventReader(tiny_spec(stream={"features": FEATURES})).fields[2]
    value = math.nan if index is None else float(index)
    again = field.read_json(json.loads(json.dumps(field.write_json(value))))
    assert again == value or (math.isnan(again) and math.isnan(value))


# --- local times ---


@pytest.mark.parametrize(
    ("local", "utc"),
    [
        ("2021-03-28 01:59", "2021-03-28T00:59:00Z"),
        ("2021-03-28 02:30", "2021-03-28T01:30:00Z"),  # does not exist: as far after the last that did, 03:30
        ("2021-03-28 03:00", "2021-03-28T01:00:00Z"),
        ("2021-10-31 02:30", "2021-10-31T00:30:00Z"),  # is there twice: the first
        ("2021-10-31 03:00", "2021-10-31T02:00:00Z"),
        ("2021-10-31T02:30+01:00", "2021-10-31T01:30:00Z"),  # the second, which an offset names
    ],
)
def test_a_local_time_is_the_same_moment_in_both_planes(local: str, utc: str) -> None:
    time = {"field": "time", "format": "iso8601", "zone": "Europe/Berlin"}
    reader = EventReader(tiny_spec(stream={"features": FEATURES, "time": time}))
    assert ms_to_iso(iso_to_ms(local, ZoneInfo("Europe/Berlin"))) == utc
    assert ms_to_iso(from_json(reader, time=local).time_ms) == utc
    assert ms_to_iso(from_texts(reader, time=local).time_ms) == utc
