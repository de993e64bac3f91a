"""Packed chunks: the events of one key in one batch, as the bytes that travel through the shuffle.

Little-endian: the number of events and of values an event (int64), then times (int64), positions (int64) and values
(float64, event-major). One element per chunk keeps the runner's cost per element out of the cost per event.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator

import numpy as np
from numpy.typing import NDArray

from pipelines.kernels.grid import Events
from pipelines.sources.event_batch import EventBatch

_ROW_BITS = 40
"""A position is the file's place in the input and the row in the file: up to 2^40 rows in each of 2^23 files."""


def chunks_by_key(batch: EventBatch, file_index: int) -> Iterator[tuple[str, bytes]]:
    """Cuts a batch into one packed chunk for each key, events in the order of the batch."""
    codes = batch.keys.indices.to_numpy()
    keys = batch.keys.dictionary.to_pylist()
    order = np.argsort(codes, kind="stable")
    bounds = np.searchsorted(codes[order], np.arange(len(keys) + 1))
    position = positions(file_index, batch.row)
    for code, key in enumerate(keys):
        index = order[bounds[code] : bounds[code + 1]]
        if len(index):
            yield key, pack(Events(batch.time_ms[index], position[index], batch.values[index]))


def positions(file_index: int, row: NDArray[np.int64]) -> NDArray[np.int64]:
    """The source positions of rows of a file: int64, the same shape, in the order of files and then rows."""
    return (np.int64(file_index) << _ROW_BITS) + row


def pack(events: Events) -> bytes:
    """The bytes of a chunk."""
    head = np.array(events.values.shape, "<i8")
    parts = (head, events.time_ms.astype("<i8"), events.position.astype("<i8"), events.values.astype("<f8"))
    return b"".join(part.tobytes() for part in parts)


def unpack(chunks: Iterable[bytes]) -> Events:
    """The events of one key's chunks, which come in any order, by time and then position."""
    times, positions, values = [], [], []
    for chunk in chunks:
        count, width = np.frombuffer(chunk, "<i8", 2)
        times.append(np.frombuffer(chunk, "<i8", count, 16))
        positions.append(np.frombuffer(chunk, "<i8", count, 16 + 8 * count))
        values.append(np.frombuffer(chunk, "<f8", count * width, 16 + 16 * count).reshape(count, width))
    time_ms, position = np.concatenate(times), np.concatenate(positions)
    order = np.lexsort((position, time_ms))
    return Events(time_ms[order], position[order], np.concatenate(values)[order])
