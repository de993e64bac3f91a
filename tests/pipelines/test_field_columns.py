"""Whole numbers, categories and tables: a column of any format reads what single values read."""

from __future__ import annotations

import csv
import io
import json
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.feather
import pyarrow.parquet as pq
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from flows.history import History
from pipelines.sources.field_columns import field_numbers, table_numbers
from schemas.event import BadEvent, EventReader, Field
from schemas.spec import Spec
from tests.specs import tiny_spec

FEATURES: list[dict[str, Any]] = [
    {"name": "load", "role": "target"},
    {"name": "count", "role": "past", "type": "integer"},
    {"name": "kind", "role": "past", "type": "category", "categories": ["red", "7", "true"]},
    {"name": "size", "role": "static", "table": {"a": 1.5, "c": 2}},
    {"name": "kinds", "role": "past", "field": "kind", "type": "category", "categories": ["red", "7", "true"],
     "aggregate": "count"},
]  # fmt: skip
COUNTS = st.sampled_from(["", "NA", "3", "-4", "5.0", "16777216", "16777217", "1.5", "1e3", "inf", "x"])
KINDS = st.sampled_from(["", "NA", "red", "Red", "7", "7.0", "true", "é", " red"])
ROWS = st.lists(st.tuples(st.sampled_from("abc"), COUNTS, KINDS), min_size=1, max_size=40)


def spec_of() -> Spec:
    return tiny_spec(stream={"features": FEATURES})


def read(path: Path) -> list[tuple[str, int, list[str]]]:
    history = History.read(spec_of(), [str(path)])
    rows = zip(history.key, history.time_ms.tolist(), history.values.tolist(), strict=True)
    return [(key, time, [repr(value) for value in values]) for key, time, values in rows]


@settings(max_examples=60, deadline=None)
@given(ROWS)
def test_a_csv_column_reads_what_single_texts_read(
    tmp_path_factory: pytest.TempPathFactory, rows: list[tuple[str, str, str]]
) -> None:
    path = tmp_path_factory.mktemp("csv") / "x.csv"
    text, expected, reader = io.StringIO(), [], EventReader(spec_of())
    table = [
        {"key": key, "time": str(n), "load": "1", "count": c, "kind": kind} for n, (key, c, kind) in enumerate(rows)
    ]
    writer = csv.DictWriter(text, list(table[0]))
    writer.writeheader()
    writer.writerows(table)
    path.write_text(text.getvalue())
    for row in table:
        try:
            event = reader.read_row(row)
        except BadEvent:
            continue
        expected.append((event.key, event.time_ms, [repr(value) for value in event.values]))
    if expected:
        assert read(path) == expected


DOCUMENTS: list[dict[str, Any]] = [
    {"key": key, "time": number, "load": 1.0, "count": count, "kind": kind}
    for number, (key, count, kind) in enumerate(
        [("a", 3, "red"), ("b", None, "7"), ("c", -4, None), ("a", 2**24, "blue"), ("b", 0, "NA")] * 8
    )
]


@pytest.mark.parametrize("name", ["x.jsonl", "x.parquet", "x.feather", "coded.parquet"])
def test_every_format_reads_what_json_reads(name: str, tmp_path: Path) -> None:
    path, reader = tmp_path / name, EventReader(spec_of())
    table = pa.Table.from_pylist(DOCUMENTS)
    if name == "coded.parquet":
        table = table.set_column(4, "kind", table["kind"].dictionary_encode())
    if name == "x.jsonl":
        path.write_text("".join(f"{json.dumps(document)}\n" for document in DOCUMENTS))
    elif name == "x.feather":
        pa.feather.write_feather(table, str(path))
    else:
        pq.write_table(table, path)
    events = [reader.read_json(json.dumps(document).encode()) for document in DOCUMENTS]
    assert read(path) == [(event.key, event.time_ms, [repr(value) for value in event.values]) for event in events]


def kind_field() -> Field:
    return EventReader(spec_of()).fields[2]


@pytest.mark.parametrize("values", [[True, None, False], [7, None, 8], ["red", None, "blue"]])
def test_booleans_and_integers_are_their_texts(values: list[Any]) -> None:
    field = kind_field()
    found, sure = field_numbers(field, pa.array(values), lambda column: pytest.fail("no number"))
    assert sure.all()
    np.testing.assert_array_equal(found, [field.read_json(value) for value in values])


def test_a_column_that_holds_no_texts_is_left_to_single_values() -> None:
    _, sure = field_numbers(kind_field(), pa.array([1.5, 2.5]), lambda column: pytest.fail("no number"))
    assert not sure.any()


def test_a_table_is_looked_up_by_key() -> None:
    field = EventReader(spec_of()).fields[3]
    keys = pa.array(["c", "b", "a", "c"]).dictionary_encode()
    np.testing.assert_array_equal(table_numbers(field, keys), [2, np.nan, 1.5, 2])
