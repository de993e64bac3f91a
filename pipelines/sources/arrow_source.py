"""Parquet and Arrow (Feather) files as batches of events: only the needed columns, row groups apart."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import BinaryIO

import pyarrow as pa
import pyarrow.parquet as pq

from pipelines.sources.column_reader import ColumnReader
from pipelines.sources.event_batch import SourceBatch
from pipelines.sources.files import InputFile
from schemas.errors import InputError
from schemas.spec import Spec

_BATCH_ROWS = 1 << 17


class ParquetSource:
    """Reads Parquet files of one spec; a part is a row group."""

    def __init__(self, spec: Spec) -> None:
        self._reader = ColumnReader(spec)

    def parts(self, opened: BinaryIO, file: InputFile) -> int:
        """How many parts of the file can be read apart.

        Raises:
          InputError: it is no Parquet file with the spec's fields.
        """
        with _arrow_errors(file, "a Parquet file"):
            parquet = pq.ParquetFile(opened)
            self._reader.needed(parquet.schema_arrow.names, file, "a Parquet file")
            return int(parquet.num_row_groups)

    def read(self, opened: BinaryIO, file: InputFile, first: int, last: int) -> Iterator[SourceBatch]:
        """Reads parts `first` to `last` (exclusive).

        Raises:
          InputError: it is no Parquet file with the spec's fields, or cannot be read to its end.
        """
        with _arrow_errors(file, "a Parquet file"):
            # A long table's keys lie in the file as a dictionary already.
            keys = [] if self._reader.wide else [self._reader.key_field]
            parquet = pq.ParquetFile(opened, read_dictionary=keys)
            columns = self._reader.needed(parquet.schema_arrow.names, file, "a Parquet file")
            groups = [parquet.metadata.row_group(index).num_rows for index in range(last)]
            row = sum(groups[:first])
            for batch in parquet.iter_batches(_BATCH_ROWS, row_groups=range(first, last), columns=columns):
                yield self._reader.read(_checked(batch.select(columns)), row, file)
                row += len(batch)


class ArrowSource:
    """Reads Arrow IPC files (Feather version 2) of one spec; a part is a record batch."""

    def __init__(self, spec: Spec) -> None:
        self._reader = ColumnReader(spec)

    def parts(self, opened: BinaryIO, file: InputFile) -> int:
        """How many parts of the file can be read apart.

        Raises:
          InputError: it is no Arrow file with the spec's fields.
        """
        with _arrow_errors(file, "an Arrow file"):
            arrow = pa.ipc.open_file(opened)
            self._reader.needed(arrow.schema.names, file, "an Arrow file")
            return int(arrow.num_record_batches)

    def read(self, opened: BinaryIO, file: InputFile, first: int, last: int) -> Iterator[SourceBatch]:
        """Reads parts `first` to `last` (exclusive).

        Raises:
          InputError: it is no Arrow file with the spec's fields, or cannot be read to its end.
        """
        with _arrow_errors(file, "an Arrow file"):
            schema = pa.ipc.open_file(opened).schema
            columns = self._reader.needed(schema.names, file, "an Arrow file")
            options = pa.ipc.IpcReadOptions(included_fields=[schema.get_field_index(name) for name in columns])
            arrow = pa.ipc.open_file(opened, options=options)
            row = 0
            for index in range(last):
                batch = _checked(arrow.get_batch(index).select(columns))
                if index >= first:
                    for start in range(0, len(batch), _BATCH_ROWS):
                        yield self._reader.read(batch.slice(start, _BATCH_ROWS), row + start, file)
                row += len(batch)


def _checked(batch: pa.RecordBatch) -> pa.RecordBatch:
    """The batch, if its offsets and texts are sound: Arrow does not look, and reads where damaged ones point."""
    batch.validate(full=True)
    return batch


@contextmanager
def _arrow_errors(file: InputFile, kind: str) -> Iterator[None]:
    try:
        yield
    except (pa.ArrowException, OSError, UnicodeDecodeError) as exc:
        raise InputError(f"{file.path}: expected {kind}, got {' '.join(str(exc).split())}") from exc
