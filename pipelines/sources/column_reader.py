"""Arrow columns as batches of events.

Columns of any type are checked as a whole; a row that a column cannot vouch for is read by itself, by the rules of
`schemas.event.EventReader`, and is an event or a dead row by its word.

A long table has a key column and a column for each number. A wide one has a column for each series of a stream that
carries one number: the column's name is the key, and each cell is an event.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import partial
from typing import Any
from zoneinfo import ZoneInfo

import numpy as np
import orjson
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from pipelines.sources.event_batch import (
    Bool,
    ColumnChecker,
    DeadRow,
    EventBatch,
    Int64,
    SourceBatch,
    concatenate,
    merge,
)
from pipelines.sources.field_columns import array_numbers, field_numbers, table_numbers
from pipelines.sources.files import InputFile
from schemas.errors import InputError, SpecError
from schemas.event import BadEvent, Event, EventReader
from schemas.spec import Spec
from schemas.units import ms_to_iso

_FAR_S = 1 << 53  # in milliseconds it still fits an int64
_TEXTS = (pa.types.is_string, pa.types.is_large_string)


class ColumnReader:
    """Reads the columns of one spec's events."""

    def __init__(self, spec: Spec) -> None:
        self.reader = EventReader(spec)
        self.wide = spec.source.layout == "wide"
        self.key_field, self.time_field = self.reader.key_field, self.reader.time_field
        self.number_fields = list(self.reader.columns)
        self._fields = self.reader.fields
        self._carried = [field for field in self._fields if field.table is None]
        self._categories = {field.name for field in self._fields if field.categories is not None}
        self.arrays = {field.name: field.length for field in self._fields if field.length is not None}
        """The fields that hold an array, and the length of each."""
        self._constants = spec.source.columns
        self._series = spec.source.series
        self._checker = ColumnChecker(spec)
        self._zone = ZoneInfo(spec.stream.time.zone)
        self._write_time = _TIME_WRITERS[spec.stream.time.format]
        self._missing = pa.array(spec.stream.missing, pa.string())
        if self.wide and (len(self.number_fields) != 1 or self.arrays):
            many = "an array" if self.arrays else len(self.number_fields)
            problem = f"a wide table gives each event one number, and this stream's have {many}"
            raise SpecError(f"$.source.layout: {problem}")
        if shared := {self.key_field, self.time_field} & set(self.number_fields):
            raise SpecError(f"$.stream.features: expected fields other than the key and time, got '{min(shared)}'")

    def constants(self, file: InputFile) -> dict[str, str]:
        """The columns that have one value for the whole file: of the spec, and of `name=value` folders in its path."""
        return self._constants | dict(file.columns)

    def needed(self, names: Sequence[str], file: InputFile, kind: str, *, where: str = "", got: str = "") -> list[str]:
        """Which of a file's columns are read: of a wide table the time first, then the series.

        Args:
          names: the file's columns.
          file: the file.
          kind: what it is, for messages ("a Parquet file").
          where: its path, and line where it has lines.
          got: what is there instead; its columns by default.
        Raises:
          InputError: one is missing, or is there twice.
        """
        where = where or file.path
        if not self.wide:
            wanted = [self.key_field, self.time_field, *self.number_fields]
        else:
            wanted = [self.time_field, *(self._series or [name for name in names if name != self.time_field])]
        constants = self.constants(file)
        wanted = [name for name in dict.fromkeys(wanted) if name not in constants]
        if missing := [name for name in wanted if name not in names]:
            columns = f"column{'s' * (len(missing) > 1)} " + ", ".join(f"'{name}'" for name in missing)
            got = got or ", ".join(f"'{name}'" for name in names[:20]) or "none"
            raise InputError(f"{where}: expected {kind} with the {columns}, got {got}")
        if doubled := [name for name in wanted if names.count(name) > 1]:
            count = names.count(doubled[0])
            raise InputError(f"{where}: expected the column '{doubled[0]}' once, got it {count} times")
        if self.wide and len(wanted) < 2:
            raise InputError(f"{where}: expected a column for each series, got none beside '{self.time_field}'")
        return wanted

    def read(self, columns: pa.RecordBatch, first_row: int, file: InputFile) -> SourceBatch:
        """Reads rows whose columns have types of their own.

        Args:
          columns: those that `needed` names.
          first_row: the number of the first of them in the file, from 0 on.
          file: where they are from.
        """
        batch, unsure = self.check(columns, first_row, file, nan_is_missing=True)
        extra: list[tuple[int, Event]] = []
        dead: list[tuple[int, DeadRow]] = []
        for row in unsure.tolist():
            for read, cells in self.events(self._cells(columns, row - first_row, file), self._typed):
                if isinstance(read, Event):
                    extra.append((row, read))
                else:
                    dead.append((row, DeadRow.of(f"{file.path}:{row + 1}", read, json_row(cells))))
        return SourceBatch(len(columns) * self.events_a_row(columns), merge(batch, extra), tuple(dead))

    def read_rows(self, rows: Sequence[Mapping[str, Any]], first_row: int, file: InputFile) -> SourceBatch:
        """As `read`, of rows that hold the values of the needed columns by name, None where there is none."""
        try:
            return self.read(pa.RecordBatch.from_pylist(list(rows)), first_row, file)
        except (pa.ArrowException, OverflowError) as exc:  # values of several types, or one that no column takes
            if len(rows) > 1:
                middle = len(rows) // 2
                return concatenate(
                    self.read_rows(rows[:middle], first_row, file),
                    self.read_rows(rows[middle:], first_row + middle, file),
                )
            bad = BadEvent("type", f"expected plain values, got {exc}")
            dead = DeadRow.of(f"{file.path}:{first_row + 1}", bad, json_row(rows[0]))
            width = len(rows[0]) - 1 if self.wide else 1
            return SourceBatch(width, self.no_events(), ((first_row, dead),) * width)

    def no_events(self) -> EventBatch:
        """A batch without events."""
        none = np.empty(0, np.int64)
        return EventBatch(pa.array([], pa.string()).dictionary_encode(), none, none, np.empty((0, len(self._fields))))

    def events_a_row(self, columns: pa.RecordBatch) -> int:
        """How many events a row holds."""
        return len(columns.schema) - 1 if self.wide else 1

    def check(
        self, columns: pa.RecordBatch, first_row: int, file: InputFile, *, nan_is_missing: bool = False
    ) -> tuple[EventBatch, Int64]:
        """The events of the rows that are sure, and the numbers of the rows that are not, int64 (row,).

        In a table of floats NaN is a missing number; in a text it is none, unless the spec says so.
        """
        numbers_of = partial(self._numbers, nan_is_missing=nan_is_missing)
        constants = self.constants(file)
        row = np.arange(first_row, first_row + len(columns))
        time_ms, sure = self._times(self._column(columns, self.time_field, constants))
        if self.wide:
            cells = [(self._carried[0], name) for name in columns.schema.names[1:]]
        else:
            cells = [(field, field.name) for field in self._carried]
        numbers = []
        arrays = {}
        for name, length in self.arrays.items():
            column = self._column(columns, name, constants)
            arrays[name], fine = array_numbers(length, column, self._missing.to_pylist(), numbers_of)
            sure &= fine
        for field, name in cells:
            if field.index is None:
                column = self._column(columns, name, constants)
            else:
                column = pa.array(arrays[name][:, field.index])
            cells_of, fine = field_numbers(field, column, numbers_of)
            numbers.append(cells_of)
            sure &= fine
        if not self.wide:
            keys, named = self._keys(self._column(columns, self.key_field, constants))
            sure &= named
            batch = EventBatch(keys, time_ms, row, self._values(keys, numbers))
            return (batch, row[:0]) if sure.all() else (batch.filter(sure), row[~sure])
        kept = np.flatnonzero(sure)
        codes = pa.array(np.tile(np.arange(len(cells), dtype=np.int32), len(kept)))
        keys = pa.DictionaryArray.from_arrays(codes, pa.array([name for _, name in cells], pa.string()))
        values = self._values(keys, [np.stack(numbers, axis=1)[kept].reshape(-1)])
        repeated = np.repeat(kept, len(cells))
        return EventBatch(keys, time_ms[repeated], row[repeated], values), row[~sure]

    def _values(self, keys: pa.DictionaryArray, numbers: Sequence[NDArray[np.floating]]) -> NDArray[np.floating]:
        """The numbers of all fields (event, field): float32 where none holds more."""
        given = iter(numbers)
        columns = [next(given) if field.table is None else table_numbers(field, keys) for field in self._fields]
        values: NDArray[np.floating] = np.empty((len(keys), len(columns)), np.result_type(np.float32, *columns))
        for index, column in enumerate(columns):
            values[:, index] = column
        return values

    def text_type(self, name: str) -> pa.DataType:
        """What the cells of a text file's column are parsed as."""
        texts = {*self.arrays, self.time_field, *(() if self.wide else (self.key_field,)), *self._categories}
        return pa.string() if name in texts or (self.wide and self._categories) else pa.float64()

    def events(
        self, cells: Mapping[str, Any], read: Callable[[Mapping[str, Any]], Event]
    ) -> Iterator[tuple[Event | BadEvent, Mapping[str, Any]]]:
        """Reads the events of one row by itself: each an event or the reason why it is none, and its cells.

        Args:
          cells: the values of `needed` columns and of the constants by name, times as the stream's format writes them.
          read: reads one event, or raises `BadEvent`.
        """
        if not self.wide:
            yield _attempt(read, cells), cells
            return
        [number] = self.number_fields
        for name, value in cells.items():
            if name != self.time_field:
                row = {self.key_field: name, self.time_field: cells[self.time_field], number: value}
                yield _attempt(read, row), row

    def _typed(self, cells: Mapping[str, Any]) -> Event:
        key, time_ms = self.reader.read_key(cells[self.key_field]), self.reader.read_time(cells[self.time_field])
        values = []
        for field in self._fields:
            value = cells.get(field.name)
            if field.table is not None:
                values.append(field.table.get(key, math.nan))
            else:
                values.append(field.read_text(value) if isinstance(value, str) else field.read_json(value))
        return Event(key, time_ms, values)

    def _cells(self, columns: pa.RecordBatch, index: int, file: InputFile) -> dict[str, Any]:
        cells: dict[str, Any] = {}
        for name in columns.schema.names:
            column = self._column(columns.slice(index, 1), name, {})
            if name == self.time_field and pa.types.is_timestamp(column.type):
                time_ms, valid = _instants(column)
                cells[name] = self._write_time(int(time_ms[0])) if valid[0] else None
            else:
                cells[name] = _plain(column[0])
        return cells if self.wide else cells | self.constants(file)

    def _column(self, columns: pa.RecordBatch, name: str, constants: Mapping[str, str]) -> pa.Array:
        """A column, or a constant as one; dictionaries other than the key's, and dates, as what they stand for."""
        if name in constants:
            return pa.repeat(pa.scalar(constants[name]), len(columns))
        column = columns.column(name)
        if pa.types.is_dictionary(column.type) and name != self.key_field:
            column = column.dictionary_decode()
        if name != self.time_field:
            return column
        if pa.types.is_date(column.type):
            column = column.cast(pa.timestamp("s"))
        if pa.types.is_timestamp(column.type) and column.type.tz is None and self._zone.key != "UTC":
            # Local times are read as texts are, so that an hour that is there twice is the same one.
            return pc.strftime(pc.floor_temporal(column, unit="millisecond"), "%Y-%m-%dT%H:%M:%S")
        return column

    def _times(self, column: pa.Array) -> tuple[Int64, Bool]:
        kind = column.type
        if any(of_type(kind) for of_type in _TEXTS):
            present = column.is_valid().to_numpy(zero_copy_only=False)
            time_ms, sure = self._checker.times(column.cast(pa.string()).fill_null(""))
            return time_ms, sure & present
        if pa.types.is_timestamp(kind):
            time_ms, valid = _instants(column)
            return time_ms, valid & self._checker.in_range(time_ms)
        if pa.types.is_integer(kind) and not pa.types.is_uint64(kind):
            number = column.cast(pa.int64()).fill_null(0).to_numpy(zero_copy_only=False)
            return self._checker.epochs(number, column.is_valid().to_numpy(zero_copy_only=False))
        return np.zeros(len(column), np.int64), np.zeros(len(column), np.bool_)

    def _numbers(self, column: pa.Array, *, nan_is_missing: bool) -> tuple[NDArray[np.floating], Bool]:
        kind = column.type
        if pa.types.is_null(kind):
            return np.full(len(column), np.nan), np.ones(len(column), np.bool_)
        if pa.types.is_floating(kind):
            narrow = pa.types.is_float32(kind) or pa.types.is_float16(kind)
            numbers, fine = self._checker.numbers(column.cast(pa.float32() if narrow else pa.float64()))
            return numbers, fine | np.isnan(numbers) if nan_is_missing else fine
        if pa.types.is_integer(kind):
            return self._checker.numbers(column.cast(pa.float64(), safe=False))
        if any(of_type(kind) for of_type in _TEXTS) or pa.types.is_decimal(kind):
            texts = column.cast(pa.string())
            missing = pc.is_in(texts, value_set=self._missing)
            try:
                numbers = pc.if_else(missing, None, texts).cast(pa.float64())
            except pa.ArrowInvalid:
                return np.zeros(len(column)), np.zeros(len(column), np.bool_)
            return self._checker.numbers(numbers)
        return np.zeros(len(column)), np.zeros(len(column), np.bool_)

    def _keys(self, column: pa.Array) -> tuple[pa.DictionaryArray, Bool]:
        kind = column.type.value_type if pa.types.is_dictionary(column.type) else column.type
        if pa.types.is_integer(kind):
            column = column.cast(pa.string())
        elif not any(of_type(kind) for of_type in _TEXTS):
            column = pa.nulls(len(column), pa.string())
        if not pa.types.is_dictionary(column.type):
            column = column.cast(pa.string()).dictionary_encode()
        keys = column.cast(pa.dictionary(pa.int32(), pa.string()))
        named = np.array([bool(key) for key in keys.dictionary.to_pylist()] or [False])
        sure = keys.is_valid().to_numpy(zero_copy_only=False)
        codes = keys.indices.fill_null(0).to_numpy(zero_copy_only=False)
        return keys, sure & named[codes]


def _attempt(read: Callable[[Mapping[str, Any]], Event], cells: Mapping[str, Any]) -> Event | BadEvent:
    try:
        return read(cells)
    except BadEvent as exc:
        return exc


def json_row(cells: Mapping[str, Any]) -> bytes:
    """A row as JSON, for a dead letter."""
    return orjson.dumps(cells, default=str, option=orjson.OPT_NON_STR_KEYS)


def _instants(column: pa.TimestampArray) -> tuple[Int64, Bool]:
    """Timestamps as epoch milliseconds, rounded down; and where there is one."""
    ticks = column.cast(pa.int64()).fill_null(0).to_numpy(zero_copy_only=False)
    valid = column.is_valid().to_numpy(zero_copy_only=False)
    if column.type.unit == "s":
        fits = np.abs(ticks) < _FAR_S
        return np.where(fits, ticks, 0) * 1_000, valid & fits
    return ticks // _TICKS_PER_MS[column.type.unit], valid


def _plain(scalar: pa.Scalar) -> Any:
    """A scalar as JSON would have it, where it can: no NaN, decimals as text."""
    value = scalar.as_py()
    if isinstance(value, list):
        return [None if isinstance(one, float) and math.isnan(one) else one for one in value]
    if isinstance(value, float) and math.isnan(value):
        return None
    return str(value) if pa.types.is_decimal(scalar.type) and value is not None else value


def _epoch_s(time_ms: int) -> float:
    return time_ms // 1_000 if time_ms % 1_000 == 0 else time_ms / 1_000


def _iso(time_ms: int) -> str:
    try:
        return ms_to_iso(time_ms)
    except OverflowError:  # before year 1 or after 9999
        return f"{time_ms} ms"


_TIME_WRITERS: dict[str, Any] = {"iso8601": _iso, "epoch_ms": int, "epoch_s": _epoch_s}
_TICKS_PER_MS = {"ms": 1, "us": 1_000, "ns": 1_000_000}
