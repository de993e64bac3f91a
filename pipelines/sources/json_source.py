"""Files of JSON objects, one a line, as batches of events; a line is what the value of a Kafka record is."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any, BinaryIO

import numpy as np
import orjson
import pyarrow as pa
import pyarrow.json as arrow_json

from pipelines.sources.column_reader import ColumnReader
from pipelines.sources.event_batch import SourceBatch
from pipelines.sources.files import InputFile
from pipelines.sources.records import Oversized, Records, read_records
from pipelines.sources.text_rows import TextReader
from schemas.errors import SpecError
from schemas.event import BadEvent, Event
from schemas.spec import Spec


class JsonSource:
    """Reads JSON lines (UTF-8) of one spec."""

    def __init__(self, spec: Spec) -> None:
        self._reader = ColumnReader(spec)
        if self._reader.wide and not spec.source.series:
            raise SpecError(
                "$.source.series: expected the series of a wide table, which JSON lines do not name, got none"
            )
        self._series = spec.source.series
        self._time_type = pa.string() if spec.stream.time.format == "iso8601" else pa.int64()

    def read(self, opened: BinaryIO, file: InputFile) -> Iterator[SourceBatch]:
        """Reads an open file.

        Raises:
          InputError: it cannot be read to its end.
        """
        text = self.rows(file)
        for records in read_records(opened, file.path, quotes=False):
            if isinstance(records, Oversized):
                yield text.oversized(records)
            elif len(records):
                yield text.block(records)

    def rows(self, file: InputFile, *, mark: str = ":") -> TextReader:
        """Reads blocks of JSON texts that come one after the other; `mark` as of `TextReader`."""
        return TextReader(self._reader, _JsonParser(self._reader, self._fields(file), file), file, mark=mark)

    def _fields(self, file: InputFile) -> dict[str, pa.DataType]:
        reader = self._reader
        names = self._series if reader.wide else (reader.key_field, *reader.number_fields)
        types = {name: reader.text_type(name) for name in names if reader.wide or name not in reader.constants(file)}
        arrays = {name: pa.list_(pa.float64()) for name in reader.arrays if name in types}
        return {reader.time_field: self._time_type} | types | arrays


class _JsonParser:
    """Parses lines whose members have the given types."""

    def __init__(self, reader: ColumnReader, fields: Mapping[str, pa.DataType], file: InputFile) -> None:
        self._reader, self._fields = reader, fields
        self._constants = {} if reader.wide else reader.constants(file)
        self._options = arrow_json.ParseOptions(
            explicit_schema=pa.schema(fields.items()), unexpected_field_behavior="ignore"
        )
        self.width = len(fields) - 1 if reader.wide else 1

    def columns(self, records: Records) -> pa.RecordBatch | None:
        """See `RowParser`."""
        octets = np.frombuffer(records.data, np.uint8)
        # Each line one object, or Arrow's rows would not be the lines.
        if not ((octets[records.start] == ord("{")) & (octets[records.end - 1] == ord("}"))).all():
            return None
        block = arrow_json.ReadOptions(use_threads=False, block_size=len(records.text()) + 1)
        try:
            table = arrow_json.read_json(pa.BufferReader(records.text()), block, self._options)
            table.validate(full=True)  # texts may be no UTF-8
        except pa.ArrowInvalid:
            return None
        if table.num_rows != len(records):
            return None
        return table.select(list(self._fields)).combine_chunks().to_batches()[0]

    def events(self, record: bytes) -> Iterator[tuple[Event | BadEvent, Mapping[str, Any]]]:
        """See `RowParser`."""
        try:
            document = orjson.loads(record)
        except orjson.JSONDecodeError as exc:
            raise BadEvent("decode", f"expected a JSON object: {exc}") from exc
        if not isinstance(document, dict):
            raise BadEvent("decode", f"expected a JSON object, got {type(document).__name__}")
        cells = {name: document.get(name) for name in self._fields}
        return self._reader.events(cells | self._constants, self._reader.reader.read_document)
