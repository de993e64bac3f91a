"""TFRecord files of `tf.train.Example`s as batches of events: each record an event, each feature one value at most."""

from __future__ import annotations

import struct
from collections.abc import Collection, Iterator
from functools import cache
from typing import Any, BinaryIO

from google.protobuf import descriptor_pb2, descriptor_pool, message_factory
from google.protobuf.message import DecodeError

from pipelines.sources.column_reader import ColumnReader
from pipelines.sources.event_batch import DeadRow, SourceBatch
from pipelines.sources.files import InputFile, read_bytes
from pipelines.sources.records import MAX_RECORD
from pipelines.tfrecord import masked_crc
from schemas.errors import InputError
from schemas.event import BadEvent
from schemas.spec import Spec

_BATCH_ROWS = 1 << 14


class TFRecordSource:
    """Reads TFRecord files of one spec."""

    def __init__(self, spec: Spec) -> None:
        self._reader = ColumnReader(spec)
        self._series = list(spec.source.series)

    def read(self, opened: BinaryIO, file: InputFile) -> Iterator[SourceBatch]:
        """Reads an open file.

        Raises:
          InputError: it is no TFRecord file, or cannot be read to its end.
        """
        names = [*self._series, self._reader.time_field, self._reader.key_field, *self._reader.number_fields]
        columns = self._reader.needed(list(dict.fromkeys(names)), file, "a TFRecord file")
        rows: list[dict[str, Any]] = []
        row = 0
        for record in _read_records(opened, file):
            found = _features(record, columns, self._reader.arrays.keys())
            if isinstance(found, BadEvent) or len(rows) == _BATCH_ROWS:
                if rows:
                    yield self._reader.read_rows(rows, row, file)
                row, rows = row + len(rows), []
            if isinstance(found, BadEvent):
                dead = DeadRow.of(f"{file.path}:{row + 1}", found, record)
                width = len(columns) - 1 if self._reader.wide else 1
                yield SourceBatch(width, self._reader.no_events(), ((row, dead),) * width)
                row += 1
            else:
                rows.append(found)
        if rows:
            yield self._reader.read_rows(rows, row, file)


def _read_records(opened: BinaryIO, file: InputFile) -> Iterator[bytes]:
    while head := read_bytes(opened, 12, file.path):
        if len(head) < 12 or head[8:] != masked_crc(head[:8]):
            raise InputError(f"{file.path}: expected TFRecord framing, got {head[:12]!r}")
        (size,) = struct.unpack("<Q", head[:8])
        if size > MAX_RECORD:
            raise InputError(f"{file.path}: expected records of at most {MAX_RECORD} bytes, got {size}")
        body = read_bytes(opened, size + 4, file.path)
        if len(body) < size + 4:
            raise InputError(f"{file.path}: expected whole records, got a file that is cut off")
        record = body[:-4]
        if body[-4:] != masked_crc(record):
            raise InputError(f"{file.path}: expected records with their checksums, got damaged bytes")
        yield record


def _features(record: bytes, names: list[str], arrays: Collection[str]) -> dict[str, Any] | BadEvent:
    """The named features' values, None where there is none; of those among `arrays` lists."""
    try:
        features = _example_type().FromString(record).features.feature
        return {name: _value(features[name], name, many=name in arrays) if name in features else None for name in names}
    except DecodeError:
        return BadEvent("decode", "expected a tf.train.Example, got other bytes")
    except BadEvent as exc:
        return exc


def _value(feature: Any, name: str, *, many: bool) -> Any:
    kind = feature.WhichOneof("kind")
    values = getattr(feature, kind).value if kind else ()
    if many and kind != "bytes_list":
        return list(values) or None
    if len(values) > 1:
        raise BadEvent("type", f"{name}: expected one value, got {len(values)}")
    if not values:
        return None
    if kind != "bytes_list":
        return values[0]
    try:
        return values[0].decode()
    except UnicodeDecodeError as exc:
        raise BadEvent("decode", f"{name}: expected UTF-8, got {values[0][:60]!r}") from exc


@cache
def _example_type() -> Any:
    """The message class of `tf.train.Example`, in a pool of its own: TensorFlow, where it is loaded, has another."""
    file = descriptor_pb2.FileDescriptorProto(name="example.proto", package="tidegauge", syntax="proto3")
    field = descriptor_pb2.FieldDescriptorProto

    def message(name: str, within: Any = None) -> Any:
        return (file.message_type if within is None else within.nested_type).add(name=name)

    def add(to: Any, name: str, number: int, kind: int, type_name: str = "", *, repeated: bool = False) -> Any:
        label = field.LABEL_REPEATED if repeated else field.LABEL_OPTIONAL
        return to.field.add(name=name, number=number, type=kind, type_name=type_name or None, label=label)

    lists = (("BytesList", field.TYPE_BYTES), ("FloatList", field.TYPE_FLOAT), ("Int64List", field.TYPE_INT64))
    feature = message("Feature")
    feature.oneof_decl.add(name="kind")
    for number, ((name, kind), member) in enumerate(
        zip(lists, ("bytes_list", "float_list", "int64_list"), strict=True), start=1
    ):
        add(message(name), "value", 1, kind, repeated=True)
        add(feature, member, number, field.TYPE_MESSAGE, f".tidegauge.{name}").oneof_index = 0
    features = message("Features")
    entry = message("FeatureEntry", features)
    entry.options.map_entry = True
    add(entry, "key", 1, field.TYPE_STRING)
    add(entry, "value", 2, field.TYPE_MESSAGE, ".tidegauge.Feature")
    add(features, "feature", 1, field.TYPE_MESSAGE, ".tidegauge.Features.FeatureEntry", repeated=True)
    add(message("Example"), "features", 1, field.TYPE_MESSAGE, ".tidegauge.Features")
    pool = descriptor_pool.DescriptorPool()
    pool.Add(file)
    return message_factory.GetMessageClass(pool.FindMessageTypeByName("tidegauge.Example"))
