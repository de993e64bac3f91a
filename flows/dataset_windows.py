"""The records of a dataset as the kernels' windows, read without TensorFlow."""

from __future__ import annotations

import struct
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import google_crc32c
import numpy as np
from numpy.typing import NDArray

from pipelines.kernels.grid import NO_POSITION, Steps
from pipelines.kernels.windowing import Windowing, Windows
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
class KeyWindows:
    """The windows of one record, and their key."""

    key: str
    windows: Windows


class RecordDecoder:
    """Decodes the records of a dataset.

    Args:
      spec: the dataset's.
      layout: its layout, `block` or `window`.
    Raises:
      DatasetError: the layout is another one.
    """

    def __init__(self, spec: Spec, layout: str) -> None:
        if layout not in ("block", "window"):
            raise DatasetError(f"expected a dataset of the layout 'block' or 'window', got '{layout}'")
        self._is_block = layout == "block"
        self._width, self._inputs = len(spec.stream.features), Windowing(spec).inputs
        self._input_width = len(spec.stream.inputs)
        self._past, self._horizon = spec.window.past, spec.window.horizon
        self._step_ms, self._offset_ms = spec.grid.step, spec.grid.offset

    def decode(self, record: bytes) -> KeyWindows:
        """The windows of a record, with the values and masks that ingest laid."""
        feature = Example.FromString(record).features.feature
        key = feature[BLOCK_KEY].bytes_list.value[0].decode()
        return KeyWindows(key, self._block(feature) if self._is_block else self._window(feature))

    def _block(self, feature: Mapping[str, Any]) -> Windows:
        packed = {name: value.bytes_list.value[0] for name, value in feature.items() if value.HasField("bytes_list")}
        values = np.frombuffer(packed[BLOCK_VALUES], "<f4").astype(np.float32, copy=False).reshape(-1, self._width)
        observed = _bits(packed.get(BLOCK_OBSERVED), values.size).reshape(values.shape)
        candidates = len(values) - self._past - self._horizon + 1
        end = np.flatnonzero(_bits(packed.get(BLOCK_ORIGINS), candidates)) + self._past
        return self._windows(int(feature[BLOCK_FIRST_STEP].int64_list.value[0]), values, observed, end)

    def _window(self, feature: Mapping[str, Any]) -> Windows:
        shape = (self._past, self._input_width)
        values = np.full((self._past, self._width), np.nan, np.float32)  # a label is not in the record
        values[:, self._inputs] = np.array(feature["past_values"].float_list.value, np.float32).reshape(shape)
        observed = np.zeros(values.shape, np.bool_)
        observed[:, self._inputs] = np.array(feature["past_observed"].int64_list.value, np.bool_).reshape(shape)
        origin_step = (feature["origin_ms"].int64_list.value[0] - self._offset_ms) // self._step_ms
        return self._windows(origin_step - self._past, values, observed, np.array([self._past]))

    def _windows(
        self, first: int, values: NDArray[np.float32], observed: NDArray[np.bool_], end: NDArray[np.int64]
    ) -> Windows:
        steps = Steps(first, values, observed, np.full(len(values), NO_POSITION))
        return Windows(steps, end, self._past, self._inputs)


def _bits(packed: bytes | None, count: int) -> NDArray[np.bool_]:
    """bool (count,); all set where the bits were left out."""
    if packed is None:
        return np.ones(count, np.bool_)
    return np.unpackbits(np.frombuffer(packed, np.uint8), count=count, bitorder="little").astype(np.bool_)


def _masked_crc(data: bytes) -> int:
    crc = google_crc32c.value(data)
    masked: int = ((crc >> 15 | crc << 17) + _CRC_MASK_DELTA) & 0xFFFF_FFFF
    return masked
