"""Parquet and Arrow (Feather) files as batches of events: only the needed columns, row groups apart."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from typing import BinaryIO

import pyarrow as pa
import pyarrow.parquet as pq

from pipelines.sources.column_reader import ColumnReader
from pipelines.sources.event_batch import SourceBatch
from pipelines.sources.files import InputFile
from schemas.errors import InputError
from schemas.spec import Spec
from schemas.units import datetime_to_ms

_BATCH_ROWS = 1 << 17
_DAY_MS = 86_400_000


class ParquetSource:
    """Reads Parquet files of one spec; a part is a row group.

    Args:
      spec: the stream.
      within_ms: the event times that matter, first and last (exclusive): a row group that by its own statistics has
        none of them is not read. None for all.
    """

    def __init__(self, spec: Spec, within_ms: tuple[int, int] | None = None) -> None:
        self._reader, self._within_ms = ColumnReader(spec), within_ms
        self._ms_per_unit = {"epoch_ms": 1, "epoch_s": 1_000}.get(spec.stream.time.format)

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
            for run in self._needed_groups(parquet.metadata, range(first, last)):
                row = sum(groups[: run.start])
                for batch in parquet.iter_batches(_BATCH_ROWS, row_groups=run, columns=columns):
                    yield self._reader.read(_checked(batch.select(columns)), row, file)
                    row += len(batch)

    def _needed_groups(self, metadata: pq.FileMetaData, groups: range) -> list[range]:
        """The runs of consecutive row groups that are read."""
        if self._within_ms is None:
            return [groups]
        needed: list[range] = []
        for index in groups:
            if self._is_beside(metadata.row_group(index), *self._within_ms):
                continue
            if needed and needed[-1].stop == index:
                needed[-1] = range(needed[-1].start, index + 1)
            else:
                needed.append(range(index, index + 1))
        return needed

    def _is_beside(self, group: pq.RowGroupMetaData, first_ms: int, last_ms: int) -> bool:
        """Whether a row group surely has no event from `first_ms` to `last_ms`."""
        columns = [group.column(index) for index in range(group.num_columns)]
        [time] = [column for column in columns if column.path_in_schema == self._reader.time_field]
        seen = time.statistics
        if seen is None or not seen.has_min_max or seen.null_count:
            return False
        bounds = [self._to_ms(value) for value in (seen.min, seen.max)]
        if bounds[0] is None or bounds[1] is None:
            return False
        # A local time is at most a day from UTC.
        return bounds[1] < first_ms - _DAY_MS or bounds[0] >= last_ms + _DAY_MS

    def _to_ms(self, value: object) -> int | None:
        """A time of a row group's statistics; None for what only the reader can tell, such as a text."""
        if isinstance(value, datetime):
            return datetime_to_ms(value if value.tzinfo else value.replace(tzinfo=UTC))
        if isinstance(value, int) and self._ms_per_unit is not None:
            return value * self._ms_per_unit
        return None


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
