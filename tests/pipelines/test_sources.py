"""Sources: whatever the format, the same rows give the same dataset; bad rows are dead letters in all of them."""

from __future__ import annotations

import gzip
import json
import math
from collections.abc import Callable
from datetime import UTC, datetime
from decimal import Decimal
from pathlib import Path
from typing import Any

import fastavro
import numpy as np
import pyarrow as pa
import pyarrow.feather as feather
import pyarrow.parquet as pq
import pytest
from tensorflow.core.example.example_pb2 import Example

from flows.history import History
from pipelines.ingest import ingest
from pipelines.sources.files import InputFile, match_files
from pipelines.sources.inputs import Inputs
from pipelines.tfrecord import frame
from schemas.errors import InputError, SpecError
from schemas.spec import Spec
from tests.specs import tiny_spec

Row = dict[str, Any]
SPLIT = {
    "by": "dates",
    "train": ["1970-01-01", "1970-01-01T00:00:02Z"],
    "validation": ["1970-01-01T00:00:02Z", "1970-01-01T00:00:03Z"],
    "test": ["1970-01-01T00:00:03Z", "1970-01-01T00:00:05Z"],
}


def spec_of(**sections: Any) -> Spec:
    return tiny_spec(**{"split": SPLIT} | sections)


def random_rows(count: int = 900) -> list[Row]:
    rng = np.random.default_rng(3)
    return [
        {
            "time": int(rng.integers(0, 4400)),
            "key": ("a", "é", "b/c")[int(rng.integers(3))],
            "note": "unused",
            "load": round(float(rng.normal()), 3),
            "heat": None if rng.random() < 0.2 else float(np.float32(rng.normal())),
        }
        for _ in range(count)
    ]


def write_csv(path: Path, rows: list[Row]) -> None:
    cells = (["" if value is None else str(value) for value in row.values()] for row in rows)
    path.write_text("\n".join([",".join(rows[0]), *map(",".join, cells)]) + "\n")


def write_json(path: Path, rows: list[Row]) -> None:
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))


def write_parquet(path: Path, rows: list[Row]) -> None:
    pq.write_table(pa.Table.from_pylist(rows), path, row_group_size=200)


def write_arrow(path: Path, rows: list[Row]) -> None:
    feather.write_feather(pa.Table.from_pylist(rows), str(path), chunksize=200)


def write_avro(path: Path, rows: list[Row]) -> None:
    types = {"time": "long", "key": "string", "note": "string", "load": "double", "heat": ["null", "double"]}
    fields = [{"name": name, "type": kind} for name, kind in types.items()]
    with path.open("wb") as file:
        fastavro.writer(file, {"type": "record", "name": "row", "fields": fields}, rows)


def example(row: Row) -> bytes:
    """Doubles do not fit a float list; a text does not lose them."""
    message = Example()
    for name, value in row.items():
        feature = message.features.feature[name]
        if isinstance(value, int):
            feature.int64_list.value.append(value)
        elif value is not None:
            feature.bytes_list.value.append(str(value).encode())
    return message.SerializeToString()


def write_tfrecord(path: Path, rows: list[Row]) -> None:
    path.write_bytes(b"".join(frame(example(row)) for row in rows))


def compressed(write: Callable[[Path, list[Row]], None], compress: Callable[[bytes], bytes]) -> Any:
    def write_compressed(path: Path, rows: list[Row]) -> None:
        write(path, rows)
        path.write_bytes(compress(path.read_bytes()))

    return write_compressed


def zstd(data: bytes) -> bytes:
    half = len(data) // 2
    return b"".join(pa.compress(part, "zstd", asbytes=True) for part in (data[:half], data[half:]))


FORMATS: dict[str, Callable[[Path, list[Row]], None]] = {
    "events.csv": write_csv,
    "events.csv.gz": compressed(write_csv, gzip.compress),
    "events.csv.zst": compressed(write_csv, zstd),
    "events.jsonl": write_json,
    "events.ndjson.gz": compressed(write_json, gzip.compress),
    "events.parquet": write_parquet,
    "events.feather": write_arrow,
    "events.avro": write_avro,
    "events.tfrecord": write_tfrecord,
    "events.tfrecord.gz": compressed(write_tfrecord, gzip.compress),
}


def shards(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in folder.glob("*.tfrecord")}


@pytest.fixture(scope="module")
def rows() -> list[Row]:
    return random_rows()


@pytest.fixture(scope="module")
def expected(rows: list[Row], tmp_path_factory: pytest.TempPathFactory) -> dict[str, bytes]:
    folder = tmp_path_factory.mktemp("expected")
    write_csv(folder / "x.csv", rows)
    ingest(spec_of(), inputs=[str(folder / "x.csv")], output=str(folder / "dataset"))
    found = shards(folder / "dataset")
    assert all(found.values())
    return found


@pytest.mark.parametrize("name", FORMATS)
def test_every_format_gives_the_same_dataset(
    name: str, rows: list[Row], expected: dict[str, bytes], tmp_path: Path
) -> None:
    FORMATS[name](tmp_path / name, rows)
    manifest = ingest(spec_of(), inputs=[str(tmp_path / name)], output=str(tmp_path / "dataset"))
    assert manifest.events.rows == len(rows)
    assert shards(tmp_path / "dataset") == expected


def test_the_spec_names_the_format_where_the_suffix_does_not(
    rows: list[Row], expected: dict[str, bytes], tmp_path: Path
) -> None:
    write_parquet(tmp_path / "part-0", rows)
    spec = spec_of(source={"format": "parquet"})
    assert spec.fingerprint == spec_of().fingerprint
    ingest(spec, inputs=[str(tmp_path / "part-0")], output=str(tmp_path / "dataset"))
    assert shards(tmp_path / "dataset") == expected


@pytest.mark.parametrize("write", [write_csv, write_json, write_parquet, write_avro])
def test_folders_give_columns(write: Callable[[Path, list[Row]], None], rows: list[Row], tmp_path: Path) -> None:
    """The rows of each key in a folder of its own, without a key column; hidden files are left alone."""
    suffix = {write_csv: "csv", write_json: "jsonl", write_parquet: "parquet", write_avro: "avro"}[write]
    for key, name in (("a", "a"), ("é", "é"), ("b/c", "b%2Fc")):
        folder = tmp_path / "table" / f"key={name}"
        folder.mkdir(parents=True)
        mine = [row for row in rows if row["key"] == key]
        for part, some in enumerate((mine[:100], mine[100:])):
            write(folder / f"part-{part}.{suffix}", [{**row, "key": "not this one"} for row in some])
        (folder / "_SUCCESS").write_text("")
    spec = spec_of()
    history = History.read(spec, [str(tmp_path / "table")])
    found = sorted(zip(history.key, history.time_ms.tolist(), history.values[:, 0].tolist(), strict=True))
    assert found == sorted((row["key"], row["time"], row["load"]) for row in rows)
    assert len(match_files([str(tmp_path / "table")])) == 6


def test_columns_of_the_spec_stand_in_for_ones_that_are_not_there(tmp_path: Path) -> None:
    (tmp_path / "one.csv").write_text("time,load,heat\n5,1,2\n15,3,4\n")
    history = History.read(spec_of(source={"columns": {"key": "only"}}), [str(tmp_path / "one.csv")])
    assert history.key.tolist() == ["only", "only"]


# --- types of columns ---


def parquet_history(tmp_path: Path, spec: Spec, **columns: pa.Array) -> History:
    pq.write_table(pa.table(columns), tmp_path / "x.parquet")
    return History.read(spec, [str(tmp_path / "x.parquet")])


MOMENTS = [datetime.fromisoformat("2024-03-01T12:30:15.250"), None, datetime.fromisoformat("1969-12-30")]


@pytest.mark.parametrize(
    ("kind", "zone", "expected_ms"),
    [
        (pa.timestamp("ms"), "UTC", 1_709_296_215_250),
        (pa.timestamp("ns"), "UTC", 1_709_296_215_250),
        (pa.timestamp("us", "UTC"), "America/New_York", 1_709_296_215_250),
        (pa.timestamp("us"), "America/New_York", 1_709_296_215_250 + 5 * 3_600_000),
        (pa.date32(), "UTC", 1_709_251_200_000),
    ],
)
def test_times_with_a_type(kind: pa.DataType, zone: str, expected_ms: int, tmp_path: Path) -> None:
    spec = spec_of(stream={"time": {"field": "time", "format": "iso8601", "zone": zone}})
    moments = pa.array(MOMENTS, pa.timestamp("us")).cast(kind, safe=False)
    numbers = pa.array([1.0, 2.0, 3.0])
    history = parquet_history(tmp_path, spec, time=moments, key=pa.array(["a"] * 3), load=numbers, heat=numbers)
    assert history.time_ms.tolist() == [expected_ms]
    reasons = {row.source.rpartition(":")[2]: row.reason for row in history.dead}
    assert reasons == {"2": "missing", "3": "time_range"}


def test_an_hour_that_is_there_twice_is_the_same_in_every_format(tmp_path: Path) -> None:
    spec = spec_of(stream={"time": {"field": "time", "format": "iso8601", "zone": "America/New_York"}})
    texts = ["2013-11-03 01:30:00", "2013-03-10 02:30:00", "2013-11-03 12:00:00"]
    write_csv(tmp_path / "x.csv", [{"time": text, "key": "a", "load": 1, "heat": 1} for text in texts])
    numbers = pa.array([1.0] * 3)
    local = pa.array([datetime.fromisoformat(text) for text in texts])
    typed = parquet_history(tmp_path, spec, time=local, key=pa.array(["a"] * 3), load=numbers, heat=numbers)
    written = History.read(spec, [str(tmp_path / "x.csv")])
    assert typed.time_ms.tolist() == written.time_ms.tolist()


@pytest.mark.parametrize(
    ("column", "read"),
    [
        (pa.array([1, -2, None], pa.int16()), [1.0, -2.0, math.nan]),
        (pa.array([0.1, math.nan, None], pa.float64()), [0.1, math.nan, math.nan]),
        (pa.array([0.1, 2.0, None], pa.float32()), [float(np.float32(0.1)), 2.0, math.nan]),
        (pa.array([Decimal("0.1"), Decimal("-7.25"), None]), [0.1, -7.25, math.nan]),
        (pa.array(["0.1", "NA", "-3"]), [0.1, math.nan, -3.0]),
        (pa.array(["0.1", "0.1", "5"]).dictionary_encode(), [0.1, 0.1, 5.0]),
        (pa.nulls(3), [math.nan] * 3),
        (pa.array([2**53 + 1, 0, 1], pa.int64()), [float(2**53 + 1), 0.0, 1.0]),
    ],
)
def test_numbers_of_any_type(column: pa.Array, read: list[float], tmp_path: Path) -> None:
    history = parquet_history(
        tmp_path, spec_of(), time=pa.array([1, 2, 3]), key=pa.array([7] * 3), load=column, heat=column
    )
    np.testing.assert_array_equal(history.values[:, 0], read)
    assert history.key.tolist() == ["7"] * 3
    assert not history.dead


def test_what_is_no_event_is_a_dead_letter_with_its_row(tmp_path: Path) -> None:
    columns = {
        "time": pa.array([1, None, 3, 4, 5, 10**17]),
        "key": pa.array(["a", "a", None, "", "a", "a"]),
        "load": pa.array([math.inf, 1.0, 1.0, 1.0, 1.0, 1.0]),
        "heat": pa.array([1.0, 1.0, 1.0, 1.0, 1e39, 1.0]),
    }
    history = parquet_history(tmp_path, spec_of(), **columns)
    assert [(row.source, row.reason) for row in history.dead] == [
        (f"{tmp_path}/x.parquet:{number}", reason)
        for number, reason in enumerate(["range", "missing", "missing", "missing", "range", "time_range"], start=1)
    ]
    assert json.loads(history.dead[1].payload) == {"key": "a", "time": None, "load": 1.0, "heat": 1.0}


@pytest.mark.parametrize("kind", [pa.bool_(), pa.list_(pa.float64())])
def test_a_column_that_holds_no_numbers(kind: pa.DataType, tmp_path: Path) -> None:
    value = True if pa.types.is_boolean(kind) else [1.0]
    column, numbers = pa.array([value] * 2, kind), pa.array([1.0, 2.0])
    history = parquet_history(
        tmp_path, spec_of(), time=pa.array([1, 2]), key=pa.array(["a"] * 2), load=column, heat=numbers
    )
    assert [row.reason for row in history.dead] == ["type", "type"]


# --- JSON lines ---


def test_json_lines_are_read_as_the_live_path_reads_values(tmp_path: Path) -> None:
    good = {"time": 5, "key": "a", "load": 1.5, "heat": None, "more": [1]}
    lines = [json.dumps(good).encode()] * 40
    bad = {
        b'{"time": 5, "key": "a", "load": "1.5", "heat": 1}': "type",
        b'{"time": 5, "key": "a", "load": true, "heat": 1}': "type",
        b'{"time": 5, "key": "a", "load": NaN, "heat": 1}': "decode",
        b'{"time": 5, "key": "\xff", "load": 1, "heat": 1}': "decode",
        b'{"time": 5, "load": 1, "heat": 1}': "missing",
        b'{"time": "5x", "key": "a", "load": 1}': "time",
        b'{} {"time": 5, "key": "a", "load": 1}': "decode",
        b'{"time": 5, "key": "a",': "decode",
        b'"load": 1}': "decode",
        b"[1, 2]": "decode",
        b"\0": "decode",
        b"  ": "decode",
    }
    odd = [b'{"time": 5, "key": 12, "load": 1e2, "heat": 1}', b'{"time": 5.0, "key": "a"}']
    for at, line in enumerate([*bad, *odd]):
        lines.insert(3 * at, line)
    path = tmp_path / "x.jsonl"
    path.write_bytes(b"\r\n".join(lines))
    history = History.read(spec_of(), [str(path)])
    assert [row.payload for row in history.dead] == list(bad)
    assert [row.reason for row in history.dead] == list(bad.values())
    assert [row.source for row in history.dead] == [f"{path}:{3 * at + 1}" for at in range(len(bad))]
    assert len(history) == 40 + len(odd)
    assert "12" in history.key


# --- wide tables ---


def test_a_wide_table_is_the_long_one_turned(tmp_path: Path) -> None:
    features = [{"name": "flow", "role": "target"}]
    spec = spec_of(stream={"features": features}, source={"layout": "wide"})
    table = "time,north,south\n5,1,2\n15,,4\n25,x,6\nnoon,7,8\n35,9\n45,10,11\n"
    (tmp_path / "x.csv").write_text(table)
    history = History.read(spec, [str(tmp_path / "x.csv")])
    found = [
        (key, time_ms, None if math.isnan(value) else value)
        for key, time_ms, value in zip(
            history.key, history.time_ms.tolist(), history.values[:, 0].tolist(), strict=True
        )
    ]
    assert sorted(found, key=lambda event: (event[1], event[0])) == [
        ("north", 5, 1.0), ("south", 5, 2.0), ("north", 15, None), ("south", 15, 4.0), ("south", 25, 6.0),
        ("north", 45, 10.0), ("south", 45, 11.0),
    ]  # fmt: skip
    assert [(row.source.rpartition(":")[2], row.reason) for row in history.dead] == [
        ("4", "type"), ("5", "time"), ("5", "time"), ("6", "decode"), ("6", "decode"),
    ]  # fmt: skip
    assert json.loads(history.dead[0].payload) == {"key": "north", "time": "25", "flow": "x"}


def test_wide_tables_of_every_format_are_the_same(tmp_path: Path) -> None:
    features = [{"name": "flow", "role": "target"}]
    source = {"layout": "wide", "series": ["s", "n"]}
    spec = spec_of(stream={"features": features}, source=source)
    rows = [
        {"time": 10 * step, "n": step * 0.1, "s": None if step % 3 else float(step), "w": 0.0} for step in range(60)
    ]
    found = []
    for name, write in (
        ("x.csv", write_csv),
        ("x.jsonl", write_json),
        ("x.parquet", write_parquet),
        ("x.feather", write_arrow),
    ):
        write(tmp_path / name, rows)
        history = History.read(spec, [str(tmp_path / name)])
        found.append(
            sorted(zip(history.key, history.time_ms.tolist(), map(repr, history.values[:, 0].tolist()), strict=True))
        )
        assert not history.dead
    assert found[0] == found[1] == found[2] == found[3]
    assert len(found[0]) == 2 * len(rows)


def test_a_wide_table_of_a_stream_with_several_numbers_is_refused() -> None:
    with pytest.raises(SpecError, match=r"\$\.source\.layout: a wide table gives each event one number"):
        Inputs(spec_of(source={"layout": "wide"}))


# --- pieces, and files that are none ---


@pytest.mark.parametrize("name", ["events.parquet", "events.feather"])
def test_a_file_is_read_in_pieces(name: str, rows: list[Row], tmp_path: Path) -> None:
    FORMATS[name](tmp_path / name, rows)
    inputs = Inputs(spec_of())
    pieces = list(inputs.pieces(InputFile(0, str(tmp_path / name))))
    assert [piece.parts for piece in pieces] == [(index, index + 1) for index in range(5)]
    numbers = [batch.events.row for piece in pieces for batch in inputs.read(piece)]
    assert np.concatenate(numbers).tolist() == list(range(len(rows)))


@pytest.mark.parametrize("name", sorted(FORMATS))
@pytest.mark.parametrize("damage", ["empty", "cut", "other"])
def test_a_damaged_file_is_one_clear_line(name: str, damage: str, rows: list[Row], tmp_path: Path) -> None:
    path = tmp_path / name
    FORMATS[name](path, rows)
    whole = path.read_bytes()
    path.write_bytes({"empty": b"", "cut": whole[: len(whole) // 2], "other": bytes(range(256)) * 9}[damage])
    is_text = name in ("events.csv", "events.jsonl") or (damage == "other" and ".tfrecord" not in name)
    if damage == "empty" and name not in ("events.parquet", "events.feather", "events.avro") and "csv" not in name:
        assert not len(History.read(spec_of(), [str(path)]))
    elif is_text and damage == "cut":  # what is left is still rows
        assert 0 < len(History.read(spec_of(), [str(path)])) < len(rows)
    elif is_text and "json" in name:
        history = History.read(spec_of(), [str(path)])
        assert not len(history)
        assert {row.reason for row in history.dead} == {"decode"}
    else:
        with pytest.raises(InputError) as caught:
            History.read(spec_of(), [str(path)])
        assert str(caught.value).startswith(str(path))
        assert "\n" not in str(caught.value)


@pytest.mark.parametrize("name", ["events.parquet", "events.feather", "events.avro"])
def test_a_missing_column_is_named(name: str, rows: list[Row], tmp_path: Path) -> None:
    FORMATS[name](tmp_path / name, rows)
    features = [{"name": "wind", "role": "target"}]
    with pytest.raises(InputError, match=r"with the column 'wind', got 'time', 'key', 'note', 'load', 'heat'"):
        ingest(spec_of(stream={"features": features}), inputs=[str(tmp_path / name)], output=str(tmp_path / "dataset"))


def test_too_many_dead_rows_fail_the_job(rows: list[Row], tmp_path: Path) -> None:
    write_csv(tmp_path / "x.csv", [*rows, rows[0] | {"load": "broken"}])
    inputs = [str(tmp_path / "x.csv")]
    with pytest.raises(
        InputError, match=rf"got 1 of {len(rows) + 1} \(1 'type'\); the first: .*x.csv:{len(rows) + 2}: load"
    ):
        ingest(spec_of(source={"max_dead": 0.001}), inputs=inputs, output=str(tmp_path / "dataset"))
    assert not (tmp_path / "dataset").exists()
    ingest(spec_of(source={"max_dead": 0.01}), inputs=inputs, output=str(tmp_path / "dataset"))


def test_epoch_seconds_with_a_fraction_are_read_by_themselves(tmp_path: Path) -> None:
    spec = spec_of(stream={"time": {"field": "time", "format": "epoch_s"}})
    moment = datetime(2024, 3, 1, tzinfo=UTC).timestamp()
    numbers = pa.array([1.0, 2.0])
    times = pa.array([moment, moment + 0.25])
    history = parquet_history(tmp_path, spec, time=times, key=pa.array(["a"] * 2), load=numbers, heat=numbers)
    assert history.time_ms.tolist() == [int(moment) * 1000, int(moment) * 1000 + 250]
