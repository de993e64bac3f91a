"""CSV files: what columns read is what single rows read, and nothing is lost."""

from __future__ import annotations

import csv
import gzip
import io
import math
from pathlib import Path
from typing import Any
from zoneinfo import ZoneInfo

import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pipelines.sources import iso_times
from pipelines.sources import records as text_records
from pipelines.sources.csv_source import CsvSource
from pipelines.sources.event_batch import DeadRow, SourceBatch
from pipelines.sources.files import InputFile, open_input
from schemas.errors import InputError
from schemas.event import BadEvent, Event, EventReader
from schemas.spec import Spec
from schemas.units import iso_to_ms
from tests.specs import tiny_spec

HEADER = "time,key,load,heat,note\n"


def read(source: CsvSource, data: bytes) -> list[SourceBatch]:
    return list(source.read(io.BytesIO(data), InputFile(0, "events.csv")))


def rows_of(batches: list[SourceBatch]) -> dict[int, tuple[str, int, list[str]] | str]:
    """Each row's event (numbers as text, so that NaN equals NaN), or the reason why it is none."""
    rows: dict[int, tuple[str, int, list[str]] | str] = {}
    for batch in batches:
        events = batch.events
        columns = (events.row, events.keys.to_pylist(), events.time_ms, events.values)
        for row, key, time_ms, values in zip(*columns, strict=True):
            assert row not in rows
            rows[int(row)] = (key, int(time_ms), [repr(float(value)) for value in values])
        for row, dead in batch.dead:
            assert row not in rows
            rows[row] = dead.reason
    assert sorted(rows) == list(range(sum(batch.rows for batch in batches)))
    return rows


def dead_of(batches: list[SourceBatch]) -> list[DeadRow]:
    return [dead for batch in batches for _, dead in batch.dead]


def naive_rows(spec: Spec, text: str) -> dict[int, tuple[str, int, list[str]] | str]:
    """Python's csv module and the event reader, a row at a time."""
    reader, header = EventReader(spec), HEADER.strip().split(",")
    rows: dict[int, tuple[str, int, list[str]] | str] = {}
    for cells in csv.reader(io.StringIO(text, newline="")):
        try:
            if len(cells) != len(header):
                raise BadEvent("decode", "")
            event: Event = reader.read_row(dict(zip(header, cells, strict=True)))
            rows[len(rows)] = (event.key, event.time_ms, [repr(value) for value in event.values])
        except BadEvent as exc:
            rows[len(rows)] = exc.reason
    return rows


NUMBERS = st.one_of(
    st.floats(width=64).map(repr),
    st.sampled_from(["", "NA", "nan", "-nan", "inf", "1e400", "1_0", " 1 ", "\t2", "+.5e+3", "1.", ".", "0x1p3", "1e",
                     "nan(x)", "NaN", " NA", "10.357019999999999", "3.4028235e38", "3.5e38", "-0", "00012", "١", "5d",
                     "0.1000000000000000055511151231257827021181583404541015625", "true", "1\x00"]),
    st.text(max_size=3),
)  # fmt: skip
KEYS = st.one_of(st.sampled_from(["a", "b", "NA", "", " ", "é", "a\x00b", "1"]), st.text(max_size=2))
EPOCHS = st.one_of(
    st.integers(-10, 5 * 10**12).map(str),
    st.sampled_from(["", "NA", "1.5", "1e3", " 5 ", "+5", "1_000", "9007199254740993", "-0", "99999999999999999999",
                     "-99999999999999999999", "0005", "5\n", "inf", "nan", "1e400"]),
)  # fmt: skip
ISO_TIMES = st.one_of(
    st.datetimes().map(str),
    st.datetimes(timezones=st.timezones()).map(str),
    st.builds(
        lambda at, mark, zone: at.isoformat(sep=mark, timespec="milliseconds") + zone,
        st.datetimes(),
        st.sampled_from("T t_"),
        st.sampled_from(["", "Z", "z", "+05:30", "-00:30", "+24:00", "+23:59:59", "+0530"]),
    ),
    st.sampled_from(["2013-01-01", "2013-02-29", "2012-02-29", "2013-13-01", "2013-01-01T24:00", "20130101",
                     "0000-01-01", "2013-W01-1", "2013-01-01T06", "2013-01-01T06:00:00.1234567Z",
                     "2013-01-01T06:00:60Z", "9999-12-31", "0001-01-01T00:00+05:00", "9999-12-31T23:59:59-05:00", "",
                     "2013-03-10 02:30", "2013-11-03 01:30", "1900-02-29", "2000-02-29T00:00", "２０１３-01-01"]),
    st.text(max_size=12),
)  # fmt: skip


def quoted(cells: tuple[str, ...]) -> str:
    line = io.StringIO()
    csv.writer(line, lineterminator="\n").writerow(cells)
    return line.getvalue()


@pytest.mark.parametrize("one_by_one", [1, 16])
@pytest.mark.parametrize("block", [16, 1 << 20])
@pytest.mark.parametrize("time_format", ["epoch_ms", "epoch_s", "iso8601"])
def test_columns_read_what_single_rows_read(
    monkeypatch: pytest.MonkeyPatch, time_format: str, block: int, one_by_one: int
) -> None:
    monkeypatch.setattr("pipelines.sources.text_rows._ONE_BY_ONE", one_by_one)
    monkeypatch.setattr("pipelines.sources.records.BLOCK_BYTES", block)
    spec = tiny_spec(stream={"time": {"field": "time", "format": time_format, "zone": "America/New_York"}})
    source = CsvSource(spec)
    times = ISO_TIMES if time_format == "iso8601" else EPOCHS
    rows = st.tuples(times, KEYS, NUMBERS, NUMBERS, st.text(max_size=3))

    @settings(max_examples=60, deadline=None)
    @given(st.lists(st.one_of(rows.map(quoted), rows.map(quoted).map(lambda row: row[1:])), max_size=30))
    def check(lines: list[str]) -> None:
        text = "".join(lines)
        if not _is_ambiguous(text):
            assert rows_of(read(source, (HEADER + text).encode())) == naive_rows(spec, text)

    check()


def _is_ambiguous(text: str) -> bool:
    """Whether readers differ: carriage returns, stray quotes and empty lines have tests of their own."""
    try:
        return "\r" in text or not all(csv.reader(io.StringIO(text, newline=""), strict=True))
    except csv.Error:
        return True


@given(
    st.lists(ISO_TIMES, max_size=20), st.sampled_from(["UTC", "America/New_York", "Africa/Monrovia", "Asia/Kolkata"])
)
def test_iso_times_are_read_as_one_by_one_or_not_at_all(texts: list[str], name: str) -> None:
    zone = ZoneInfo(name)
    column = pa.array(["2013-01-01", *texts], pa.string()).slice(1)
    time_ms, read_ = iso_times.parse(column, zone)
    for text, value, was_read in zip(texts, time_ms, read_, strict=True):
        if was_read:
            assert value == iso_to_ms(text, zone)


@pytest.mark.parametrize(
    "text", ["2013-01-01", "2013-01-01 06:00", "2013-01-01T06:00:00Z", "2013-01-01T06:00:00.123456+05:30"]
)
def test_common_iso_times_are_read_by_columns(text: str) -> None:
    [time_ms], [was_read] = iso_times.parse(pa.array([text]), ZoneInfo("UTC"))
    assert was_read
    assert time_ms == iso_to_ms(text)


def test_a_day_of_a_clock_change_is_left_to_the_reader() -> None:
    column = pa.array(["2013-03-10 12:00", "2013-03-11 12:00"])
    _, was_read = iso_times.parse(column, ZoneInfo("America/New_York"))
    assert was_read.tolist() == [False, True]


def test_a_number_is_the_float64_of_its_text() -> None:
    batches = read(CsvSource(tiny_spec()), (HEADER + "5,a,10.357019999999999,NA,\n" * 40).encode())
    values = batches[0].events.values
    assert values[:, 0].tolist() == [10.357019999999999] * 40
    assert all(map(math.isnan, values[:, 1]))


@pytest.mark.parametrize(
    ("line", "reason", "detail"),
    [
        ("5,a,1", "decode", "expected 5 columns, got 3"),
        ("5,a,1,2,3,4", "decode", "expected 5 columns, got 6"),
        ("5,a,warm,2,", "type", "load: expected a number, got 'warm'"),
        ("5,a,inf,2,", "range", "load: expected a finite float32, got inf"),
        ("5,,1,2,", "missing", "key: expected a key, got none"),
        (",a,1,2,", "missing", "time: expected an event time, got none"),
        ("NA,a,1,2,", "missing", "time: expected an event time, got none"),
        ("noon,a,1,2,", "time", "time: expected epoch_ms, got 'noon'"),
        ("253370764800000,a,1,2,", "time_range", "time: '253370764800000' is outside stream.time_range"),
        ("5,a\r,1,2,", "decode", "expected a CSV row, got new-line character seen in unquoted field"),
        ('5,a,1,2,"open', "decode", "expected a CSV row, got a quote that is not closed"),
        (b"5,\xff,1,2,", "decode", "key: expected UTF-8, got '\\udcff'"),
    ],
)
@pytest.mark.parametrize("around", [0, 40])
def test_a_bad_row_is_a_dead_letter_with_its_line(line: str | bytes, reason: str, detail: str, around: int) -> None:
    bad = line if isinstance(line, bytes) else line.encode()
    good = b"5,a,1,2,\n" * around
    batches = read(CsvSource(tiny_spec()), HEADER.encode() + good + bad + b"\n" + good)
    [dead] = dead_of(batches)
    assert (dead.source, dead.reason, dead.payload) == (f"events.csv:{around + 2}", reason, bad)
    assert dead.detail.startswith(detail)
    assert sum(len(batch.events) for batch in batches) == 2 * around


def test_bytes_that_are_no_utf8_in_other_columns_do_no_harm() -> None:
    for count in (1, 40):
        batches = read(CsvSource(tiny_spec()), HEADER.encode() + b"5,a,1,2,\xff\n" * count)
        assert len(batches[0].events) == count


def test_a_quoted_field_holds_commas_quotes_and_lines() -> None:
    row = b'5,"a,""b""\n\nc",1,2,\n'
    [batch] = read(CsvSource(tiny_spec()), HEADER.encode() + b"\r\n" + row * 20 + b"noon,a,1,2,\r\n\n")
    assert set(batch.events.keys.to_pylist()) == {'a,"b"\n\nc'}
    [(row_number, dead)] = batch.dead
    assert (row_number, dead.source) == (20, "events.csv:63")


def test_a_stray_quote_costs_its_neighbourhood_only(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("pipelines.sources.records.BLOCK_BYTES", 1000)
    good = b"5,a,1,2,\n" * (1 << 18)
    batches = read(CsvSource(tiny_spec()), HEADER.encode() + b'5,a,1,2,"\n' + good)
    [dead] = dead_of(batches)
    assert dead.detail == "expected a CSV row, got a quote that is not closed"
    assert sum(len(batch.events) for batch in batches) == 1 << 18


@pytest.mark.parametrize("block", [1, 7, 64])
def test_records_do_not_depend_on_how_the_file_is_read(monkeypatch: pytest.MonkeyPatch, block: int) -> None:
    text = b'h,"x\ny",z\n\n1,"2""\n3",4\r\n5,6"7,8\n9,"10",11'
    expected = [b'h,"x\ny",z', b'1,"2""\n3",4', b'5,6"7,8', b'9,"10",11']
    monkeypatch.setattr(text_records, "BLOCK_BYTES", block)
    found, lines = [], []
    for records in text_records.read_records(io.BytesIO(text), "x.csv", quotes=True):
        assert isinstance(records, text_records.Records)
        found += [records[index] for index in range(len(records))]
        lines += records.line.tolist()
    assert found == expected
    assert lines == [1, 4, 6, 7]


def test_a_huge_line_is_cut_into_a_dead_letter(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(text_records, "BLOCK_BYTES", 1000)
    monkeypatch.setattr(text_records, "MAX_RECORD", 5000)
    huge = b"5,a,1,2," + b"x" * 100_000
    batches = read(CsvSource(tiny_spec()), HEADER.encode() + b"5,a,1,2,\n" + huge + b"\nnoon,a,1,2,\n6,a,1,2,\n")
    large, small = dead_of(batches)
    assert (large.source, large.size, large.payload) == ("events.csv:3", len(huge), huge[: len(large.payload)])
    assert large.sha256 is not None
    assert small.source == "events.csv:4"
    assert sum(len(batch.events) for batch in batches) == 2


ALL_FIELDS = "events.csv:1: expected a CSV header with the columns 'key', 'time', 'load', 'heat', got "


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (b"", ALL_FIELDS + "an empty file"),
        (b"\n\n", ALL_FIELDS + "an empty file"),
        (b"time,key,load\n1,a,2\n", "events.csv:1: expected a CSV header with the column 'heat', got 'time,key,load'"),
        (b"time,key,load,heat,key\n", "events.csv:1: expected the column 'key' once, got it 2 times"),
        (b"PAR1\x15\x04\xff", ALL_FIELDS + r"'PAR1\x15\x04\\xff'"),
        ("time,key,load,heat".encode("utf-16"), ALL_FIELDS),
    ],
)
def test_a_file_that_is_no_csv_is_one_clear_line(data: bytes, message: str) -> None:
    with pytest.raises(InputError) as caught:
        read(CsvSource(tiny_spec()), data)
    assert str(caught.value).startswith(message)
    assert "\n" not in str(caught.value)


def test_a_header_with_a_byte_order_mark_is_read() -> None:
    [batch] = read(CsvSource(tiny_spec()), b"\xef\xbb\xbfkey,time,load,heat\na,5,1,2\n")
    assert batch.events.keys.to_pylist() == ["a"]


@pytest.mark.parametrize("damage", ["cut", "flip"])
def test_damaged_gzip_is_one_clear_line(tmp_path: Path, damage: str) -> None:
    packed = bytearray(gzip.compress((HEADER + "5,a,1,2,\n" * 1000).encode()))
    if damage == "cut":
        del packed[len(packed) // 2 :]
    else:
        packed[len(packed) // 2] ^= 0xFF
    path = tmp_path / "events.csv.gz"
    path.write_bytes(packed)
    with (
        pytest.raises(InputError, match=r"events\.csv\.gz: expected (whole )?gzip data, got "),
        open_input(str(path)) as file,
    ):
        list(CsvSource(tiny_spec()).read(file, InputFile(0, str(path))))


def test_a_field_shared_with_the_key_is_refused() -> None:
    features: list[dict[str, Any]] = [{"name": "load", "role": "target", "field": "key"}]
    with pytest.raises(Exception, match="expected fields other than the key and time, got 'key'"):
        CsvSource(tiny_spec(stream={"features": features}))
