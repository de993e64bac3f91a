"""Arrays: one member of an event that many features come from, read alike wherever it comes in."""

from __future__ import annotations

import csv
import json
from pathlib import Path
from typing import Any

import numpy as np
import orjson
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from flows.history import History
from schemas.errors import SpecError
from schemas.event import BadEvent, EventReader
from schemas.spec import Spec, parse_spec
from tests.specs import tiny_spec

ARRAY = [
    {"name": "load", "role": "target"},
    {"name": "pixel", "role": "past", "field": "image", "length": 3, "fill": "zero"},
]
NAMED = [ARRAY[0], *({"name": f"pixel_{n}", "role": "past", "fill": "zero"} for n in range(3))]
NUMBERS = st.one_of(st.none(), st.floats(-1e6, 1e6, width=32), st.integers(-1000, 1000))
IMAGES = st.one_of(st.none(), st.lists(NUMBERS, min_size=3, max_size=3), st.sampled_from([[], [1], [1, 2, 3, 4]]))


def spec_of(features: list[Any] = ARRAY) -> Spec:
    return tiny_spec(stream={"features": features})


def test_it_stands_for_features_of_the_same_windows() -> None:
    spec, named = spec_of(), spec_of(NAMED)
    assert [feature.name for feature in spec.stream.features] == ["load", "pixel_0", "pixel_1", "pixel_2"]
    assert spec.window_fingerprint == named.window_fingerprint
    assert parse_spec(spec.model_dump(mode="json", exclude_defaults=True)) == spec


@pytest.mark.parametrize(
    ("feature", "what"),
    [
        ({"name": "a", "role": "past", "index": 1}, "an 'index' is one of the places"),
        ({"name": "a", "role": "past", "length": 2, "index": 2}, "below its 'length'"),
        ({"name": "a", "role": "past", "length": 2, "type": "category", "categories": ["x"]}, "an array of numbers"),
        ({"name": "pixel_1", "role": "past"}, "pixel_1 is there twice"),
        ({"name": "a", "role": "past", "field": "image", "length": 4}, "the same type, categories and length"),
    ],
)
def test_what_is_no_array(feature: dict[str, Any], what: str) -> None:
    with pytest.raises(SpecError, match=what):
        spec_of([*ARRAY, feature])


@given(NUMBERS, st.lists(NUMBERS, min_size=3, max_size=3))
def test_an_event_is_that_of_named_members(load: float | None, image: list[float | None]) -> None:
    head = {"key": "a", "time": 5, "load": load}
    found = EventReader(spec_of()).read_json(orjson.dumps(head | {"image": image}))
    named = EventReader(spec_of(NAMED)).read_json(
        orjson.dumps(head | {f"pixel_{n}": number for n, number in enumerate(image)})
    )
    assert found[:2] == named[:2]
    np.testing.assert_array_equal(list(found.values), named.values)


@pytest.mark.parametrize(
    ("image", "reason"),
    [([1, 2], "type"), ([1, True, 3], "type"), ([1, "2", 3], "type"), ("x", "type"), ([1, 1e300, 3], "range"),
     ([1, [2], 3], "type"), ({"0": 1}, "type"), (5, "type")],
)  # fmt: skip
def test_what_is_no_array_of_the_event(image: Any, reason: str) -> None:
    text = json.dumps({"key": "a", "time": 5, "load": 1, "image": image}).encode()
    with pytest.raises(BadEvent) as raised:
        EventReader(spec_of()).read_json(text)
    assert raised.value.reason == reason


def test_places_in_an_order_of_their_own() -> None:
    picked = {"name": "last", "role": "past", "field": "image", "length": 3, "index": 2}
    event = EventReader(spec_of([picked, *ARRAY])).read_json(b'{"key":"a","time":5,"load":9,"image":[1,2,3]}')
    assert list(event.values) == [3, 9, 1, 2, 3]


def test_one_place_of_an_array() -> None:
    spec = spec_of([{"name": "centre", "role": "target", "field": "image", "length": 3, "index": 1}])
    event = EventReader(spec).read_json(b'{"key": "a", "time": 5, "image": [1, 2, 3]}')
    assert list(event.values) == [2.0]
    assert list(History(*_columns([2.0]), ()).payloads(spec)) == [b'{"key":"a","time":5,"image":[null,2.0,null]}']


def _columns(values: list[float]) -> tuple[Any, ...]:
    return np.array(["a"], object), np.array([5]), np.array([0]), np.array([values])


@settings(max_examples=30, deadline=None)
@given(st.lists(IMAGES, min_size=1, max_size=12))
def test_files_read_what_single_events_read(
    tmp_path_factory: pytest.TempPathFactory, images: list[list[float | None] | None]
) -> None:
    folder, spec = tmp_path_factory.mktemp("arrays"), spec_of()
    rows = [{"key": "a", "time": n, "load": 1.0, "image": image} for n, image in enumerate(images)]
    reader, expected = EventReader(spec), []
    for row in rows:
        try:
            expected.append((row["time"], [repr(float(value)) for value in reader.read_json(orjson.dumps(row)).values]))
        except BadEvent:
            continue
    lines, table, parquet = folder / "x.jsonl", folder / "x.csv", folder / "x.parquet"
    lines.write_bytes(b"\n".join(orjson.dumps(row) for row in rows) + b"\n")
    with table.open("w", newline="") as opened:
        writer = csv.DictWriter(opened, list(rows[0]))
        writer.writeheader()
        writer.writerows(row | {"image": "NA" if row["image"] is None else json.dumps(row["image"])} for row in rows)
    pq.write_table(pa.Table.from_pylist(rows, pa.schema(SCHEMA)), parquet)
    for path in (lines, table, parquet):
        assert _read(spec, path) == expected, path.suffix


SCHEMA = (("key", pa.string()), ("time", pa.int64()), ("load", pa.float64()), ("image", pa.list_(pa.float64())))


def _read(spec: Spec, path: Path) -> list[tuple[int, list[str]]]:
    history = History.read(spec, [str(path)])
    return [
        (time, [repr(float(value)) for value in values])
        for time, values in zip(history.time_ms.tolist(), history.values.tolist(), strict=True)
    ]
