"""`tf.train.Example` on the wire, without TensorFlow.

The bytes are those of Python's `Example.SerializeToString(deterministic=True)`: a map's entries are in the order of
their names (a name after those that it begins), fields in the order of their numbers, int64 lists packed.

    Example    { Features features = 1; }
    Features   { map<string, Feature> feature = 1; }
    Feature    { oneof { BytesList bytes_list = 1; FloatList float_list = 2; Int64List int64_list = 3; } }
"""

from __future__ import annotations

from collections.abc import Mapping

Value = bytes | int


def encode_example(features: Mapping[str, Value]) -> bytes:
    """An Example of features that hold one value each: bytes in a bytes list, an int in an int64 list."""
    entries = [
        _field(1, _field(1, name.encode()) + _field(2, _feature(features[name])))
        for name in sorted(features, key=lambda name: name.encode() + b"\xff")  # no UTF-8 text has that byte
    ]
    return _field(1, b"".join(entries))


def _feature(value: Value) -> bytes:
    if isinstance(value, bytes):
        return _field(1, _field(1, value))
    return _field(3, _field(1, _varint(value)))


def _field(number: int, payload: bytes) -> bytes:
    """A length-delimited field."""
    return bytes([number << 3 | 2]) + _varint(len(payload)) + payload


def _varint(value: int) -> bytes:
    value &= 0xFFFF_FFFF_FFFF_FFFF  # a negative int64 is its two's complement
    octets = bytearray()
    while value > 0x7F:
        octets.append(value & 0x7F | 0x80)
        value >>= 7
    octets.append(value)
    return bytes(octets)
