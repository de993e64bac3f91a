"""Numpy arrays to and from `TensorProto`, without TensorFlow and without Python lists where the wire format allows.

A packed `float_val`, `double_val` or complex field is, on the wire, the little-endian bytes of the array itself, and a
packed `bool_val` is one byte a value. So those fields are written by laying the array's bytes behind a tag and a
length, and read by serialising the message and looking at its tail: microseconds where the repeated-field containers
take milliseconds. Integers are varints there and have no such form; `tensor_content` is the fast way to send them.
"""

from __future__ import annotations

import functools
import math
from typing import Any

import ml_dtypes
import numpy as np
from numpy.typing import NDArray

from streaming.serving_protos import DataType, TensorProto

Array = NDArray[Any]

MAX_EXPANDED_BYTES = 256 * 2**20
"""Largest array that `decode_tensor` makes from a message that holds fewer values than its shape says."""

DTYPES: dict[int, np.dtype[Any]] = {
    DataType.DT_FLOAT: np.dtype(np.float32),
    DataType.DT_DOUBLE: np.dtype(np.float64),
    DataType.DT_INT32: np.dtype(np.int32),
    DataType.DT_UINT8: np.dtype(np.uint8),
    DataType.DT_INT16: np.dtype(np.int16),
    DataType.DT_INT8: np.dtype(np.int8),
    DataType.DT_STRING: np.dtype(object),
    DataType.DT_COMPLEX64: np.dtype(np.complex64),
    DataType.DT_INT64: np.dtype(np.int64),
    DataType.DT_BOOL: np.dtype(np.bool_),
    DataType.DT_BFLOAT16: np.dtype(ml_dtypes.bfloat16),
    DataType.DT_UINT16: np.dtype(np.uint16),
    DataType.DT_COMPLEX128: np.dtype(np.complex128),
    DataType.DT_HALF: np.dtype(np.float16),
    DataType.DT_UINT32: np.dtype(np.uint32),
    DataType.DT_UINT64: np.dtype(np.uint64),
}
"""The numpy dtype of each `DataType` that has one; strings are object arrays of `bytes`."""

_ENUMS: dict[np.dtype[Any], int] = {dtype: enum for enum, dtype in DTYPES.items()}

# Typed fields whose packed wire bytes are the array's own: their tag byte and the dtype to view the array as.
_PACKED: dict[int, tuple[str, bytes, np.dtype[Any]]] = {
    DataType.DT_FLOAT: ("float_val", b"\x2a", np.dtype("<f4")),
    DataType.DT_DOUBLE: ("double_val", b"\x32", np.dtype("<f8")),
    DataType.DT_COMPLEX64: ("scomplex_val", b"\x4a", np.dtype("<f4")),
    DataType.DT_BOOL: ("bool_val", b"\x5a", np.dtype(np.uint8)),
    DataType.DT_COMPLEX128: ("dcomplex_val", b"\x62", np.dtype("<f8")),
}

_CONTENT_TAG = b"\x22"

_VARINT: dict[int, str] = {
    DataType.DT_INT32: "int_val",
    DataType.DT_UINT8: "int_val",
    DataType.DT_INT16: "int_val",
    DataType.DT_INT8: "int_val",
    DataType.DT_UINT16: "int_val",
    DataType.DT_INT64: "int64_val",
    DataType.DT_UINT32: "uint32_val",
    DataType.DT_UINT64: "uint64_val",
    DataType.DT_HALF: "half_val",
    DataType.DT_BFLOAT16: "half_val",
}
_HALF_TYPES = (DataType.DT_HALF, DataType.DT_BFLOAT16)


def encode_tensor(array: Array, *, as_content: bool = False) -> TensorProto:
    """Turns an array into a message.

    Args:
      array: any shape; a dtype of `DTYPES`, or text or bytes (`U`, `S`, object of `str` or `bytes`).
      as_content: put the values into `tensor_content` instead of the typed field. Strings have only the typed field.

    Raises:
      ValueError: the dtype has no `DataType`.
      TypeError: an object array holds something other than `bytes` or `str`.
    """
    return TensorProto.FromString(serialize_tensor(array, as_content=as_content))


def serialize_tensor(array: Array, *, as_content: bool = False) -> bytes:
    """The wire bytes of `encode_tensor(array, as_content=as_content)`, without building the message."""
    if array.dtype.kind in "USO":
        return _serialize_strings(array)
    enum = _ENUMS.get(array.dtype) or _ENUMS.get(array.dtype.newbyteorder("="))
    if enum is None:
        raise ValueError(f"expected an array of a TensorFlow dtype, got {array.dtype}")
    header = _header(enum, array.shape)
    if as_content or enum in _PACKED:
        tag = _CONTENT_TAG if as_content else _PACKED[enum][1]
        payload = array.astype(DTYPES[enum], copy=False).tobytes()
        return header + _length_delimited(tag, payload) if payload else header
    values = TensorProto()
    flat = array.view(np.uint16) if enum in _HALF_TYPES else array
    getattr(values, _VARINT[enum]).extend(flat.ravel().tolist())
    return header + bytes(values.SerializeToString())


def decode_tensor(proto: TensorProto) -> Array:
    """Turns a message into an array, by the rules of TensorFlow's `Tensor::FromProto`.

    In a typed field, missing values repeat the last one, none at all mean zeros (or empty strings), and surplus ones
    are ignored. The array may be read-only and share memory with the message's bytes.

    Raises:
      ValueError: the shape is unknown or negative, the dtype has no array form, `tensor_content` has not the size of
        the shape, or expanding repeated values would need more than `MAX_EXPANDED_BYTES`.
    """
    enum = proto.dtype
    dtype = DTYPES.get(enum)
    if dtype is None:
        raise ValueError(f"expected a dtype with an array form, got DataType {enum}")
    proto_shape = proto.tensor_shape
    if proto_shape.unknown_rank:
        raise ValueError("expected a shape, got unknown rank")
    shape = tuple([dim.size for dim in proto_shape.dim])
    if shape and min(shape) < 0:
        raise ValueError(f"expected dimensions of 0 or more, got {list(shape)}")
    if len(shape) > 254:
        raise ValueError(f"expected at most 254 dimensions, got {len(shape)}")
    count = math.prod(shape)
    content = proto.tensor_content
    if content:
        values = _strings_of_content(content, count) if enum == DataType.DT_STRING else _content(content, dtype, count)
    elif enum in _PACKED:
        values = _fitted(_packed_values(proto, enum, dtype), count, dtype)
    elif enum == DataType.DT_STRING:
        strings = np.empty(len(proto.string_val), dtype=object)
        strings[:] = list(proto.string_val)
        values = _fitted(strings, count, dtype)
    else:
        values = _fitted(_varint_values(proto, enum, dtype), count, dtype)
    if len(shape) > 64:
        raise ValueError(f"expected at most 64 dimensions, got {len(shape)}")
    return values.reshape(shape)


def _packed_values(proto: TensorProto, enum: int, dtype: np.dtype[Any]) -> Array:
    """The values of a typed field that is packed as raw bytes, read off the tail of the serialised message."""
    name, tag, wire_dtype = _PACKED[enum]
    field = getattr(proto, name)
    size = len(field) * wire_dtype.itemsize
    if not size:
        return np.empty(0, dtype)
    data = proto.SerializeToString()
    start = len(data) - size
    mark = tag + _varint(size)
    if data[start - len(mark) : start] == mark:
        values = np.frombuffer(data, wire_dtype, offset=start)
    else:  # another field follows this one
        values = np.array(field, dtype=wire_dtype)
    if dtype.kind == "c":
        # A lone real part at the end is no value.
        return values[: len(values) // 2 * 2].view(dtype)
    if dtype.kind == "b":
        return values.view(np.bool_)
    return values


def _varint_values(proto: TensorProto, enum: int, dtype: np.dtype[Any]) -> Array:
    values = np.array(getattr(proto, _VARINT[enum]), dtype=np.uint64 if enum == DataType.DT_UINT64 else np.int64)
    if enum in _HALF_TYPES:
        return values.astype(np.uint16).view(dtype)
    return values.astype(dtype)


def _content(content: bytes, dtype: np.dtype[Any], count: int) -> Array:
    if len(content) != count * dtype.itemsize:
        raise ValueError(f"expected {count * dtype.itemsize} bytes of tensor_content, got {len(content)}")
    if dtype.kind == "b":
        bits: Array = np.frombuffer(content, np.uint8) != 0
        return bits
    return np.frombuffer(content, dtype)


def _strings_of_content(content: bytes, count: int) -> Array:
    """Strings in `tensor_content`: all lengths as varints, then all bytes."""
    lengths: list[int] = []
    position = 0
    while len(lengths) < count:
        length = shift = 0
        while True:
            if position >= len(content) or shift > 63:
                raise ValueError("expected the lengths of the strings in tensor_content, got fewer")
            byte = content[position]
            position += 1
            length |= (byte & 0x7F) << shift
            shift += 7
            if byte < 0x80:
                break
        lengths.append(length)
    if position + sum(lengths) != len(content):
        raise ValueError(f"expected {position + sum(lengths)} bytes of tensor_content, got {len(content)}")
    strings = np.empty(count, dtype=object)
    for index, length in enumerate(lengths):
        strings[index] = content[position : position + length]
        position += length
    return strings


def _fitted(values: Array, count: int, dtype: np.dtype[Any]) -> Array:
    """Cuts or extends `values` to `count`."""
    if len(values) == count:
        return values
    if len(values) > count:
        return values[:count]
    if count * dtype.itemsize > MAX_EXPANDED_BYTES:
        raise ValueError(f"expected {count} values, got {len(values)}: too many to fill in")
    filled = np.empty(count, dtype)
    filled[: len(values)] = values
    filled[len(values) :] = values[-1] if len(values) else (b"" if dtype.kind == "O" else 0)
    return filled


def _serialize_strings(array: Array) -> bytes:
    parts = [_header(DataType.DT_STRING, array.shape)]
    for value in array.ravel().tolist():
        if isinstance(value, str):
            value = value.encode()
        elif not isinstance(value, bytes):
            raise TypeError(f"expected bytes or str in an object array, got {type(value).__name__}")
        parts.append(_length_delimited(b"\x42", value))
    return b"".join(parts)


@functools.lru_cache(maxsize=1024)
def _header(enum: int, shape: tuple[int, ...]) -> bytes:
    dims = b"".join([_length_delimited(b"\x12", b"\x08" + _varint(size)) if size else b"\x12\x00" for size in shape])
    return b"\x08" + _varint(enum) + _length_delimited(b"\x12", dims)


def _length_delimited(tag: bytes, payload: bytes) -> bytes:
    return tag + _varint(len(payload)) + payload


def _varint(value: int) -> bytes:
    if value < 0x80:
        return bytes((value,))
    out = bytearray()
    while value >= 0x80:
        out.append(value & 0x7F | 0x80)
        value >>= 7
    out.append(value)
    return bytes(out)
