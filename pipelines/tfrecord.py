"""TFRecord framing: length (uint64), its masked crc32c, the record, its masked crc32c; little-endian."""

from __future__ import annotations

import struct

import google_crc32c
import numpy as np
from numpy.typing import NDArray

_MASK_DELTA = 0xA282EAD8


def frame(record: bytes) -> bytes:
    """A record as it stands in a TFRecord file."""
    length = struct.pack("<Q", len(record))
    return b"".join((length, masked_crc(length), record, masked_crc(record)))


def frame_table(records: NDArray[np.uint8]) -> NDArray[np.uint8]:
    """Records of one length, uint8 (record, octet), as they stand in a TFRecord file, in the same order."""
    count, size = records.shape
    length = struct.pack("<Q", size)
    framed = np.empty((count, size + 16), np.uint8)
    framed[:, :12] = np.frombuffer(length + masked_crc(length), np.uint8)
    framed[:, 12:-4] = records
    for row in framed:
        row[-4:] = np.frombuffer(masked_crc(row[12:-4]), np.uint8)
    return framed


def masked_crc(data: bytes | NDArray[np.uint8]) -> bytes:
    """The checksum of some bytes, contiguous in memory, as TFRecord files have it."""
    crc = google_crc32c.value(data)
    return struct.pack("<I", ((crc >> 15 | crc << 17) + _MASK_DELTA) & 0xFFFF_FFFF)
