"""`tf.train.Example` on the wire, without TensorFlow.

The bytes are those of Python's `Example.SerializeToString(deterministic=True)`: a map's entries are in the order of
their names (a name after those that it begins), fields in the order of their numbers, int64 lists packed.

    Example    { Features features = 1; }
    Features   { map<string, Feature> feature = 1; }
    Feature    { oneof { BytesList bytes_list = 1; FloatList float_list = 2; Int64List int64_list = 3; } }
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from itertools import pairwise

import numpy as np
from numpy.typing import NDArray

Value = bytes | int
Column = bytes | NDArray[np.float32] | NDArray[np.bool_] | NDArray[np.int64]
Octets = NDArray[np.uint8]


def encode_example(features: Mapping[str, Value]) -> bytes:
    """An Example of features that hold one value each: bytes in a bytes list, an int in an int64 list."""
    entries = [_field(1, _field(1, name.encode()) + _field(2, _feature(features[name]))) for name in _ordered(features)]
    return _field(1, b"".join(entries))


def encode_examples(columns: Mapping[str, Column]) -> Iterator[tuple[slice, Octets]]:
    """Many Examples of the same features at once.

    All that differs between them lies at fixed places, as long as their varints are of the same length; so a run of
    such Examples is one table of octets, filled a feature at a time.

    Args:
      columns: of each feature bytes, which all Examples share; float32 (example, value), a float list; bool (example,
        value), an int64 list of 0 and 1; or int64 (example,), an int64 list of one value. At least one is an array, and
        none has no values.
    Yields:
      Which examples, consecutive and in order, and their bytes, uint8 (example, octet).
    """
    count = next(len(column) for column in columns.values() if not isinstance(column, bytes))
    lengths = np.zeros(count, np.int64)
    for column in columns.values():
        if not isinstance(column, bytes) and column.ndim == 1:
            lengths = lengths * 16 + _varint_lengths(column.astype(np.int64))
    bounds = [0, *(np.flatnonzero(np.diff(lengths)) + 1).tolist(), count]
    for first, last in pairwise(bounds):
        if first < last:
            rows = slice(first, last)
            yield rows, _table({name: _payload(columns[name], rows) for name in _ordered(columns)}, last - first)


def _table(payloads: Mapping[str, tuple[int, Octets]], count: int) -> Octets:
    """Examples out of each feature's kind of list (its field number) and packed values, uint8 (example, octet)."""
    pieces: list[bytes | Octets] = []
    for name, (kind, octets) in payloads.items():
        size = octets.shape[1]
        lists = _head(kind, _size(1, size)) + _head(1, size)
        entry = _field(1, name.encode()) + _head(2, len(lists) + size) + lists
        pieces += [_head(1, len(entry) + size) + entry, octets]
    sizes = [len(piece) if isinstance(piece, bytes) else piece.shape[1] for piece in pieces]
    head = _head(1, sum(sizes))
    table = np.empty((count, len(head) + sum(sizes)), np.uint8)
    table[:, : len(head)] = np.frombuffer(head, np.uint8)
    at = len(head)
    for piece, size in zip(pieces, sizes, strict=True):
        table[:, at : at + size] = np.frombuffer(piece, np.uint8) if isinstance(piece, bytes) else piece
        at += size
    return table


def _payload(column: Column, rows: slice) -> tuple[int, Octets]:
    """The field number of a feature's kind of list, and its packed values: uint8 (example, octet)."""
    if isinstance(column, bytes):
        return 1, np.frombuffer(column, np.uint8)[None]
    part = column[rows]
    if part.ndim == 1:
        return 3, _varints(part.astype(np.int64))
    if part.dtype == np.bool_:
        return 3, np.ascontiguousarray(part).view(np.uint8)
    return 2, np.ascontiguousarray(part, "<f4").view(np.uint8)


def _varints(values: NDArray[np.int64]) -> Octets:
    """Varints of values whose varints are of one length: uint8 (value, octet)."""
    length = int(_varint_lengths(values[:1])[0])
    sevens = values.view(np.uint64)[:, None] >> np.arange(0, 7 * length, 7, dtype=np.uint64)
    octets = (sevens & np.uint64(0x7F)).astype(np.uint8)
    octets[:, :-1] |= 0x80
    return octets


def _varint_lengths(values: NDArray[np.int64]) -> NDArray[np.int64]:
    longer = values.view(np.uint64)[:, None] >> np.arange(7, 64, 7, dtype=np.uint64)
    lengths: NDArray[np.int64] = 1 + np.count_nonzero(longer, axis=1)
    return lengths


def _ordered(names: Mapping[str, object]) -> list[str]:
    return sorted(names, key=lambda name: name.encode() + b"\xff")  # no UTF-8 text has that byte


def _feature(value: Value) -> bytes:
    if isinstance(value, bytes):
        return _field(1, _field(1, value))
    return _field(3, _field(1, _varint(value)))


def _field(number: int, payload: bytes) -> bytes:
    """A length-delimited field."""
    return _head(number, len(payload)) + payload


def _head(number: int, size: int) -> bytes:
    return bytes([number << 3 | 2]) + _varint(size)


def _size(number: int, size: int) -> int:
    """Of a whole field whose payload has `size` bytes."""
    return len(_head(number, size)) + size


def _varint(value: int) -> bytes:
    value &= 0xFFFF_FFFF_FFFF_FFFF  # a negative int64 is its two's complement
    octets = bytearray()
    while value > 0x7F:
        octets.append(value & 0x7F | 0x80)
        value >>= 7
    octets.append(value)
    return bytes(octets)
