"""The blocks of a dataset as the kernels' windows, read without TensorFlow."""

from __future__ import annotations

import struct
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import google_crc32c
import numpy as np
from numpy.typing import NDArray

from pipelines.kernels.grid import NO_POSITION, Steps
from pipelines.kernels.windowing import Windows
from schemas.dataset import BLOCK_FIRST_STEP, BLOCK_KEY, BLOCK_OBSERVED, BLOCK_ORIGINS, BLOCK_VALUES
from schemas.errors import DatasetError
from schemas.spec import Spec
from streaming.serving_protos import Example

_HEAD = struct.Struct("<QI")
_CRC_BYTES = 4
_CRC_MASK_DELTA = 0xA282EAD8


def read_tfrecords(path: Path) -> Iterator[bytes]:
    """The records of a TFRecord file.

    Raises:
      DatasetError: it is missing, cut off or damaged.
    """
    try:
        with path.open("rb") as file:
            while head := file.read(_HEAD.size):
                if len(head) < _HEAD.size:
                    raise DatasetError(f"{path}: expected whole records, got a file that is cut off")
                length, head_crc = _HEAD.unpack(head)
                if head_crc != _masked_crc(head[:8]):
                    raise DatasetError(f"{path}: damaged: the length of a record does not match its checksum")
                body = file.read(length + _CRC_BYTES)
                record, crc = body[:length], body[length:]
                if len(body) < length + _CRC_BYTES or crc != struct.pack("<I", _masked_crc(record)):
                    raise DatasetError(f"{path}: damaged: a record does not match its checksum")
                yield record
    except OSError as exc:
        raise DatasetError(f"{path}: expected a file of the dataset, got {exc.strerror}") from exc


@dataclass(frozen=True, slots=True)
class BlockWindows:
    """The windows of one block, and their key."""

    key: str
    windows: Windows


class BlockDecoder:
    """Decodes records of the block layout of one spec."""

    def __init__(self, spec: Spec) -> None:
        self._width = len(spec.stream.features)
        self._past, self._horizon = spec.window.past, spec.window.horizon

    def decode(self, record: bytes) -> BlockWindows:
        """The windows of a block, with the values and masks that ingest laid."""
        feature = Example.FromString(record).features.feature
        packed = {name: value.bytes_list.value[0] for name, value in feature.items() if value.HasField("bytes_list")}
        values = np.frombuffer(packed[BLOCK_VALUES], "<f4").astype(np.float32, copy=False).reshape(-1, self._width)
        observed = _bits(packed.get(BLOCK_OBSERVED), values.size).reshape(values.shape)
        candidates = len(values) - self._past - self._horizon + 1
        end = np.flatnonzero(_bits(packed.get(BLOCK_ORIGINS), candidates)) + self._past
        first = int(feature[BLOCK_FIRST_STEP].int64_list.value[0])
        steps = Steps(first, values, observed, np.full(len(values), NO_POSITION))
        return BlockWindows(packed[BLOCK_KEY].decode(), Windows(steps, end, self._past))


def _bits(packed: bytes | None, count: int) -> NDArray[np.bool_]:
    """bool (count,); all set where the bits were left out."""
    if packed is None:
        return np.ones(count, np.bool_)
    return np.unpackbits(np.frombuffer(packed, np.uint8), count=count, bitorder="little").astype(np.bool_)


def _masked_crc(data: bytes) -> int:
    crc = google_crc32c.value(data)
    masked: int = ((crc >> 15 | crc << 17) + _CRC_MASK_DELTA) & 0xFFFF_FFFF
    return masked
