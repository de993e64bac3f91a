"""Files as documents: CSV and JSON lines, one document a record."""

from __future__ import annotations

import csv
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, BinaryIO, NamedTuple

from pipelines.sources.event_batch import DeadRow
from pipelines.sources.records import MAX_RECORD, Oversized, read_records
from schemas.errors import InputError
from schemas.event import BadEvent
from schemas.split_spec import SPLITS, FieldSplit
from schemas.text_event import json_object, text_member
from schemas.text_spec import TextSpec

_JSON_SUFFIXES = (".jsonl", ".ndjson", ".json")

csv.field_size_limit(MAX_RECORD)


class Document(NamedTuple):
    """One document.

    `row` is its number in the file, `key` what its split is drawn by; `split` is named by a field where the spec says
    so, and else empty.
    """

    row: int
    source: str
    key: str
    label: str
    text: str
    split: str = ""


class TextSource:
    """Reads the documents of one spec.

    Args:
      spec: the stream.
      labelled: a document must have a label, and a split where a field names it; else it may have a label.
    """

    def __init__(self, spec: TextSpec, *, labelled: bool = True) -> None:
        stream = spec.stream
        self._text, self._label, self._key = stream.text, stream.label, stream.key
        self._labelled = labelled
        self._split = spec.split.field if labelled and isinstance(spec.split, FieldSplit) else None
        self._columns = stream.columns
        named = (stream.text, stream.label, stream.key, self._split) if labelled else (stream.text,)
        self._needed = list(dict.fromkeys(name for name in named if name))

    def read(self, file: BinaryIO, path: str) -> Iterator[Document | tuple[int, DeadRow]]:
        """Reads an open file: its documents, and (row, dead row) for what is none.

        Raises:
          InputError: it has not the spec's fields, or cannot be read to its end.
        """
        is_json = path.removesuffix(".gz").endswith(_JSON_SUFFIXES)
        parse: Callable[[bytes], Mapping[str, Any]] | None = json_object if is_json else self._rows_of(self._columns)
        row = 0
        for records in read_records(file, path, quotes=not is_json):
            if isinstance(records, Oversized):
                detail = f"expected a row of at most {MAX_RECORD} bytes, got {records.size}"
                source = f"{path}:{records.line}"
                yield row, DeadRow(source, "decode", detail, records.head, records.size, records.sha256)
                row += 1
                continue
            for index in range(len(records)):
                record = records[index]
                if parse is None:
                    parse = self._rows_of(self._header(record, path))
                    continue
                source = f"{path}:{records.line[index]}"
                try:
                    yield self._document(parse(record), row, source)
                except BadEvent as exc:
                    yield row, DeadRow.of(source, exc, record)
                row += 1
        if parse is None:
            raise InputError(f"{path}: expected a CSV header with the columns {self._needed}, got an empty file")

    def _document(self, fields: Mapping[str, Any], row: int, source: str) -> Document:
        text = text_member(fields, self._text, empty=True)
        if not self._labelled:
            key, label = (
                text_member(fields, name) if name and fields.get(name) not in (None, "") else ""
                for name in (self._key, self._label)
            )
            return Document(row, source, key, label, text)
        label = text_member(fields, self._label)
        # Without a key, equal texts must not be in two splits.
        key = text_member(fields, self._key) if self._key else text
        return Document(row, source, key, label, text, self._split_of(fields))

    def _split_of(self, fields: Mapping[str, Any]) -> str:
        if self._split is None:
            return ""
        named = text_member(fields, self._split)
        if named not in SPLITS:
            raise BadEvent("split", f"{self._split}: expected one of {', '.join(SPLITS)}, got '{named}'")
        return named

    def _header(self, record: bytes, path: str) -> Sequence[str]:
        try:
            header = _cells(record.removeprefix(b"\xef\xbb\xbf"))
        except BadEvent:
            header = []
        if missing := [name for name in self._needed if header.count(name) != 1]:
            got = record[:200].decode(errors="backslashreplace")
            raise InputError(f"{path}:1: expected a CSV header with the columns {missing} once, got {got!r}")
        return header

    @staticmethod
    def _rows_of(columns: Sequence[str]) -> Callable[[bytes], Mapping[str, Any]] | None:
        if not columns:
            return None

        def parse(record: bytes) -> Mapping[str, Any]:
            cells = _cells(record)
            if len(cells) != len(columns):
                raise BadEvent("decode", f"expected {len(columns)} columns, got {len(cells)}")
            return dict(zip(columns, cells, strict=True))

        return parse


def _cells(record: bytes) -> Sequence[str]:
    try:
        cells, *following = csv.reader([f"{record.decode()}\n", "following"])
    except (UnicodeDecodeError, csv.Error, ValueError) as exc:
        raise BadEvent("decode", f"expected a CSV row in UTF-8, got {exc}") from exc
    if not following:
        raise BadEvent("decode", "expected a CSV row, got a quote that is not closed")
    return cells
