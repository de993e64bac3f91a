"""Avro files as batches of events."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import islice
from typing import Any, BinaryIO

import fastavro

from pipelines.sources.column_reader import ColumnReader
from pipelines.sources.event_batch import SourceBatch
from pipelines.sources.files import InputFile
from schemas.errors import InputError
from schemas.spec import Spec

_BATCH_ROWS = 1 << 14


class AvroSource:
    """Reads Avro object container files of one spec."""

    def __init__(self, spec: Spec) -> None:
        self._reader = ColumnReader(spec)

    def read(self, opened: BinaryIO, file: InputFile) -> Iterator[SourceBatch]:
        """Reads an open file.

        Raises:
          InputError: it is no Avro file with the spec's fields, or cannot be read to its end.
        """
        try:
            records: Any = fastavro.reader(opened)
            schema = records.writer_schema
        except Exception as exc:  # of a file that is something else the decoder may say anything
            raise _damaged(file, exc) from exc
        names = [field["name"] for field in schema.get("fields", ())] if isinstance(schema, dict) else []
        columns = self._reader.needed(names, file, "an Avro file")
        row = 0
        while True:
            try:
                rows = [{name: record[name] for name in columns} for record in islice(records, _BATCH_ROWS)]
            except Exception as exc:
                raise _damaged(file, exc) from exc
            if not rows:
                return
            yield self._reader.read_rows(rows, row, file)
            row += len(rows)


def _damaged(file: InputFile, exc: Exception) -> InputError:
    return InputError(f"{file.path}: expected an Avro file, got {str(exc) or type(exc).__name__}")
