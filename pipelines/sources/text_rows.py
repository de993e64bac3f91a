"""Text files as batches of events: what CSV and JSON lines have in common.

Blocks of records are parsed column-wise by Arrow. A block that Arrow cannot take whole is halved until the records that
spoil it are few; those are read one by one, and what is no event there is a dead row.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from typing import Any, Protocol

import pyarrow as pa

from pipelines.sources.column_reader import ColumnReader, json_row
from pipelines.sources.event_batch import DeadRow, EventBatch, SourceBatch, concatenate_events, merge
from pipelines.sources.files import InputFile
from pipelines.sources.records import MAX_RECORD, Oversized, Records
from schemas.event import BadEvent, Event

_ONE_BY_ONE = 16
"""So few records are read one by one."""


class RowParser(Protocol):
    """How the records of one file are parsed."""

    width: int
    """How many events a record holds."""

    def columns(self, records: Records) -> pa.RecordBatch | None:
        """The needed columns; None where a record is not whole, or a cell not of its column's type."""

    def events(self, record: bytes) -> Iterable[tuple[Event | BadEvent, Mapping[str, Any]]]:
        """One record's events, each with its cells (`ColumnReader.events`).

        Raises:
          BadEvent: the record has no cells.
        """


class TextReader:
    """Reads blocks of records of one file, in its order.

    Args:
      reader: checks what is parsed.
      parser: parses records.
      file: the file.
      mark: stands between the file and a record's line where a dead row says where it was.
    """

    def __init__(self, reader: ColumnReader, parser: RowParser, file: InputFile, *, mark: str = ":") -> None:
        self._reader, self._parser, self._file, self._mark = reader, parser, file, mark
        self._row = 0

    def block(self, records: Records) -> SourceBatch:
        """Reads the file's next records."""
        batches: list[EventBatch] = []
        singles: list[int] = []
        # Depth first and left to right, so that batches come in file order.
        stack = [(0, len(records))]
        while stack:
            first, last = stack.pop()
            if last - first <= _ONE_BY_ONE:
                singles.extend(range(first, last))
            elif columns := self._parser.columns(records.part(first, last)):
                batch, unsure = self._reader.check(columns, self._row + first, self._file)
                batches.append(batch)
                singles.extend((unsure - self._row).tolist())
            else:
                middle = (first + last) // 2
                stack += [(middle, last), (first, middle)]
        extra: list[tuple[int, Event]] = []
        dead: list[tuple[int, DeadRow]] = []
        for index in singles:
            for read in self._single(records[index], int(records.line[index])):
                if isinstance(read, Event):
                    extra.append((self._row + index, read))
                else:
                    dead.append((self._row + index, read))
        self._row += len(records)
        events = concatenate_events(batches or [self._reader.no_events()])
        return SourceBatch(len(records) * self._parser.width, merge(events, extra), tuple(dead))

    def oversized(self, record: Oversized) -> SourceBatch:
        """The file's next record, which was too long to be kept."""
        detail = f"expected a row of at most {MAX_RECORD} bytes, got {record.size}"
        source = f"{self._file.path}{self._mark}{record.line}"
        dead = DeadRow(source, "decode", detail, record.head, record.size, record.sha256)
        self._row += 1
        return SourceBatch(self._parser.width, self._reader.no_events(), ((self._row - 1, dead),) * self._parser.width)

    def _single(self, record: bytes, line: int) -> Iterator[Event | DeadRow]:
        source = f"{self._file.path}{self._mark}{line}"
        try:
            for read, cells in self._parser.events(record):
                if isinstance(read, Event):
                    yield read
                else:
                    yield DeadRow.of(source, read, json_row(cells) if self._reader.wide else record)
        except BadEvent as exc:
            yield from [DeadRow.of(source, exc, record)] * self._parser.width
