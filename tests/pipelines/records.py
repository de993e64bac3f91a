"""Reads datasets back by the contract alone, with TensorFlow's own messages, sharing no code with the writer."""

from __future__ import annotations

import struct
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import google_crc32c
import numpy as np
from numpy.typing import NDArray
from tensorflow.core.example.example_pb2 import Example

from schemas.dataset import DatasetFolder


@dataclass(frozen=True)
class ReadWindow:
    past: NDArray[np.float32]
    past_observed: NDArray[np.bool_]
    horizon: NDArray[np.float32]
    horizon_observed: NDArray[np.bool_]


def read_frames(path: Path) -> Iterator[bytes]:
    data = path.read_bytes()
    at = 0
    while at < len(data):
        (length,) = struct.unpack_from("<Q", data, at)
        record = data[at + 12 : at + 12 + length]
        for part, crc_at in ((data[at : at + 8], at + 8), (record, at + 12 + length)):
            crc = google_crc32c.value(part)
            masked = (((crc >> 15) | (crc << 17)) + 0xA282EAD8) % 2**32
            assert struct.unpack_from("<I", data, crc_at) == (masked,)
        yield record
        at += 16 + length


def read_windows(folder: Path, split: str) -> dict[tuple[str, int], ReadWindow]:
    """Every window of a split by key and origin step; a window that is there twice fails."""
    dataset = DatasetFolder(folder)
    past, horizon = dataset.spec.window.past, dataset.spec.window.horizon
    width = len(dataset.spec.stream.features)
    windows: dict[tuple[str, int], ReadWindow] = {}
    for path in dataset.shard_paths(split):
        for record in read_frames(path):
            features = Example.FromString(record).features.feature
            key = features["key"].bytes_list.value[0].decode()
            first = features["first_step"].int64_list.value[0]
            values = np.frombuffer(features["values"].bytes_list.value[0], "<f4").reshape(-1, width)
            observed = np.ones(values.shape, bool)
            if "observed" in features:
                bits = np.frombuffer(features["observed"].bytes_list.value[0], np.uint8)
                observed = np.unpackbits(bits, bitorder="little", count=values.size).astype(bool).reshape(values.shape)
            candidates = len(values) - past - horizon + 1
            origins = np.ones(candidates, bool)
            if "origins" in features:
                bits = np.frombuffer(features["origins"].bytes_list.value[0], np.uint8)
                origins = np.unpackbits(bits, bitorder="little", count=candidates).astype(bool)
            for candidate in np.flatnonzero(origins):
                middle, end = candidate + past, candidate + past + horizon
                place = (key, int(first + middle))
                assert place not in windows
                windows[place] = ReadWindow(
                    values[candidate:middle], observed[candidate:middle], values[middle:end], observed[middle:end]
                )
    return windows
