"""CSV files as batches of events."""

from __future__ import annotations

import csv
from collections.abc import Iterator, Mapping
from typing import Any, BinaryIO

import pyarrow as pa
import pyarrow.csv as arrow_csv

from pipelines.sources.column_reader import ColumnReader
from pipelines.sources.event_batch import SourceBatch, require_utf8
from pipelines.sources.files import InputFile
from pipelines.sources.records import MAX_RECORD, Oversized, Records, read_records
from pipelines.sources.text_rows import TextReader
from schemas.event import BadEvent, Event
from schemas.spec import Spec

csv.field_size_limit(MAX_RECORD)  # the default refuses fields that Arrow takes


class CsvSource:
    """Reads CSV files (UTF-8, comma, a header line) of one spec."""

    def __init__(self, spec: Spec) -> None:
        self._spec = spec
        self._reader = ColumnReader(spec)

    def read(self, opened: BinaryIO, file: InputFile) -> Iterator[SourceBatch]:
        """Reads an open file.

        Raises:
          InputError: it is no CSV file with the spec's fields, or cannot be read to its end.
        """
        text: TextReader | None = None
        for records in read_records(opened, file.path, quotes=True):
            if text is None:
                if isinstance(records, Oversized):
                    text = self._begin(records.head, file)  # which is an error
                elif len(records):
                    text = self._begin(records[0], file)
                    records = records.part(1, len(records))
                else:
                    continue
            if isinstance(records, Oversized):
                yield text.oversized(records)
            elif len(records):
                yield text.block(records)
        if text is None:
            self._begin(b"", file)

    def _begin(self, header: bytes, file: InputFile) -> TextReader:
        return TextReader(self._reader, _CsvParser(self._spec, self._reader, header, file), file)


class _CsvParser:
    """Parses the records under one header."""

    def __init__(self, spec: Spec, reader: ColumnReader, header: bytes, file: InputFile) -> None:
        self._reader = reader
        self._missing = list(spec.stream.missing)
        try:
            [self._header] = csv.reader([header.removeprefix(b"\xef\xbb\xbf").decode()])
        except (UnicodeDecodeError, csv.Error, ValueError):
            self._header = []
        got = repr(header[:200].decode(errors="backslashreplace")) if header else "an empty file"
        self._needed = reader.needed(self._header, file, "a CSV header", where=f"{file.path}:1", got=got)
        self._constants = {} if reader.wide else reader.constants(file)
        self.width = len(self._needed) - 1 if reader.wide else 1
        self._types = {name: reader.text_type(name) for name in self._needed}

    def columns(self, records: Records) -> pa.RecordBatch | None:
        """See `RowParser`."""
        try:
            _cells(records[len(records) - 1])  # the one record whose open quote Arrow would let pass
            table = arrow_csv.read_csv(
                pa.BufferReader(records.text()),
                read_options=arrow_csv.ReadOptions(column_names=self._header, block_size=len(records.text()) + 1),
                parse_options=arrow_csv.ParseOptions(newlines_in_values=True),
                convert_options=arrow_csv.ConvertOptions(
                    include_columns=self._needed, column_types=self._types, null_values=self._missing
                ),
            )
        except (pa.ArrowInvalid, BadEvent):
            return None
        if table.num_rows != len(records):
            return None
        return table.combine_chunks().to_batches()[0]

    def events(self, record: bytes) -> Iterator[tuple[Event | BadEvent, Mapping[str, Any]]]:
        """See `RowParser`."""
        cells = _cells(record)
        if len(cells) != len(self._header):
            raise BadEvent("decode", f"expected {len(self._header)} columns, got {len(cells)}")
        row = dict(zip(self._header, cells, strict=True))
        needed = {name: require_utf8(row[name], name) for name in self._needed}
        return self._reader.events(needed | self._constants, self._reader.reader.read_row)


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
