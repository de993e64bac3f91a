"""CSV files as batches of events.

Blocks of records are parsed column-wise by Arrow. A block that Arrow cannot take whole is halved until the records that
spoil it are few; those are read one by one, and what is no event there is a dead row.
"""

from __future__ import annotations

import csv
from collections.abc import Iterator
from typing import BinaryIO

import numpy as np
import pyarrow as pa
import pyarrow.csv as arrow_csv

from pipelines.sources.csv_records import MAX_RECORD, Oversized, Records, read_records
from pipelines.sources.event_batch import (
    ColumnChecker,
    DeadRow,
    EventBatch,
    Int64,
    SourceBatch,
    merge,
    read_single,
)
from schemas.errors import InputError, SpecError
from schemas.event import BadEvent, Event, EventReader
from schemas.spec import Spec

_ONE_BY_ONE = 16
"""So few records are read one by one."""

csv.field_size_limit(MAX_RECORD)  # the default refuses fields that Arrow takes


class CsvSource:
    """Reads CSV files (UTF-8, comma, a header line) of one spec."""

    def __init__(self, spec: Spec) -> None:
        self._reader = EventReader(spec)
        self._checker = ColumnChecker(spec)
        self._missing = list(spec.stream.missing)
        self._number_fields = [field.name for field in self._reader.fields]
        self._texts = [self._reader.key_field, self._reader.time_field]
        if shared := set(self._texts) & set(self._number_fields):
            raise SpecError(f"$.stream.features: expected fields other than the key and time, got '{min(shared)}'")
        self._needed = list(dict.fromkeys([*self._texts, *self._number_fields]))

    def read(self, file: BinaryIO, path: str) -> Iterator[SourceBatch]:
        """Reads an open file.

        Raises:
          InputError: it is no CSV file with the spec's fields, or cannot be read to its end.
        """
        header: list[str] = []
        row = 0
        for records in read_records(file, path):
            if isinstance(records, Oversized):
                self._require_header(header, path, records.head)
                yield SourceBatch(1, self._empty(), ((row, _oversized(records, path)),))
                row += 1
                continue
            if not header and len(records):
                header = self._read_header(records[0], path)
                records = records.part(1, len(records))
            if len(records):
                yield self._read_block(records, row, header, path)
                row += len(records)
        self._require_header(header, path, b"")

    def _read_header(self, record: bytes, path: str) -> list[str]:
        try:
            [header] = csv.reader([record.removeprefix(b"\xef\xbb\xbf").decode()])
        except (UnicodeDecodeError, csv.Error, ValueError):
            header = []
        missing = [name for name in self._needed if name not in header]
        if missing:
            self._require_header([], path, record, missing)
        if doubled := sorted({name for name in self._needed if header.count(name) > 1}):
            count = header.count(doubled[0])
            raise InputError(f"{path}:1: expected the column '{doubled[0]}' once, got it {count} times")
        return header

    def _require_header(self, header: list[str], path: str, head: bytes, missing: list[str] | None = None) -> None:
        if header:
            return
        wanted = ", ".join(f"'{name}'" for name in dict.fromkeys(missing or self._needed))
        got = repr(head[:200].decode(errors="backslashreplace")) if head else "an empty file"
        raise InputError(f"{path}:1: expected a CSV header with the column{'s' * (',' in wanted)} {wanted}, got {got}")

    def _read_block(self, records: Records, first_row: int, header: list[str], path: str) -> SourceBatch:
        batches: list[EventBatch] = []
        singles: list[int] = []
        # Depth first and left to right, so that batches come in file order.
        stack = [(0, len(records))]
        while stack:
            first, last = stack.pop()
            if last - first <= _ONE_BY_ONE:
                singles.extend(range(first, last))
            elif columns := self._parse(records.part(first, last), header):
                batch, unsure = self._check(columns, first_row + first)
                batches.append(batch)
                singles.extend((unsure - first_row).tolist())
            else:
                middle = (first + last) // 2
                stack += [(middle, last), (first, middle)]
        extra: list[tuple[int, Event]] = []
        dead: list[tuple[int, DeadRow]] = []
        for index in singles:
            try:
                extra.append((first_row + index, self._read_one(records[index], header)))
            except BadEvent as exc:
                source = f"{path}:{records.line[index]}"
                dead.append((first_row + index, DeadRow.of(source, exc, records[index])))
        return SourceBatch(len(records), merge(_join(batches, self._empty()), extra), tuple(dead))

    def _parse(self, records: Records, header: list[str]) -> pa.RecordBatch | None:
        """The needed columns, or None where a record is not whole, or a cell not of its column's type."""
        try:
            _cells(records[len(records) - 1])  # the one record whose open quote Arrow would let pass
            table = arrow_csv.read_csv(
                pa.BufferReader(records.text()),
                read_options=arrow_csv.ReadOptions(column_names=header, block_size=len(records.text()) + 1),
                parse_options=arrow_csv.ParseOptions(newlines_in_values=True),
                convert_options=arrow_csv.ConvertOptions(
                    include_columns=self._needed,
                    column_types={name: pa.string() if name in self._texts else pa.float64() for name in self._needed},
                    null_values=self._missing,
                ),
            )
        except (pa.ArrowInvalid, BadEvent):
            return None
        if table.num_rows != len(records):
            return None
        return table.combine_chunks().to_batches()[0]

    def _check(self, columns: pa.RecordBatch, first_row: int) -> tuple[EventBatch, Int64]:
        """The events that are sure, and the rows that are not."""
        time_ms, sure = self._checker.times(columns.column(self._reader.time_field))
        keys = columns.column(self._reader.key_field).dictionary_encode()
        values = np.empty((len(keys), len(self._number_fields)))
        for index, name in enumerate(self._number_fields):
            values[:, index], fine = self._checker.numbers(columns.column(name))
            sure &= fine
        named = np.array([bool(key) for key in keys.dictionary.to_pylist()])
        sure &= named[keys.indices.to_numpy()]
        row = np.arange(first_row, first_row + len(keys))
        if sure.all():
            return EventBatch(keys, time_ms, row, values), row[:0]
        return EventBatch(keys.filter(pa.array(sure)), time_ms[sure], row[sure], values[sure]), row[~sure]

    def _read_one(self, record: bytes, header: list[str]) -> Event:
        cells = _cells(record)
        if len(cells) != len(header):
            raise BadEvent("decode", f"expected {len(header)} columns, got {len(cells)}")
        return read_single(self._reader, dict(zip(header, cells, strict=True)))

    def _empty(self) -> EventBatch:
        none = np.empty(0, np.int64)
        keys = pa.array([], pa.string()).dictionary_encode()
        return EventBatch(keys, none, none, np.empty((0, len(self._number_fields))))


def _cells(record: bytes) -> list[str]:
    """The cells of one record, as Arrow cuts them; bytes that are no UTF-8 become lone surrogates."""
    text = record.decode(errors="surrogateescape")
    try:
        cells, *following = csv.reader([f"{text}\n", "following"])
    except csv.Error as exc:
        raise BadEvent("decode", f"expected a CSV row, got {exc}") from exc
    if not following:
        raise BadEvent("decode", "expected a CSV row, got a quote that is not closed")
    return cells


def _oversized(record: Oversized, path: str) -> DeadRow:
    detail = f"expected a row of at most {MAX_RECORD} bytes, got {record.size}"
    return DeadRow(f"{path}:{record.line}", "decode", detail, record.head, record.size, record.sha256)


def _join(batches: list[EventBatch], empty: EventBatch) -> EventBatch:
    if len(batches) <= 1:
        return batches[0] if batches else empty
    return EventBatch(
        pa.chunked_array([batch.keys for batch in batches]).unify_dictionaries().combine_chunks(),
        np.concatenate([batch.time_ms for batch in batches]),
        np.concatenate([batch.row for batch in batches]),
        np.concatenate([batch.values for batch in batches]),
    )
