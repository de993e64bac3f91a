"""Packed chunks: the events of one partition of the keys, sorted by key, as they lie in a spill file.

Little-endian: a head of int64 (bytes of the keys, number of keys, values an event, bytes of a value, whether events
have clocks); the keys (a JSON array); the number of events of each (int64); then the events, rows of a fixed width,
those of one key in the order of their positions.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from typing import NamedTuple

import numpy as np
import orjson
from numpy.typing import NDArray

from pipelines.kernels.grid import Events, Int64
from pipelines.key_hash import key_hash
from pipelines.sources.event_batch import EventBatch

Rows = NDArray[np.void]

PARTITIONS = 256
"""How finely keys are parted. A worker holds one partition in memory at a time, a few times over."""

_HEAD_VALUES = 5
_ROW_BITS = 40
"""A position is the file's place in the input and the row in the file: up to 2^40 rows in each of 2^23 files."""


class KeyEvents(NamedTuple):
    """All events of one key, by time and then position, or in order of arrival where there are clocks.

    `clock_ms` is int64 (event,): what the partition's clock showed when the event came; None for files.
    """

    key: str
    events: Events
    clock_ms: Int64 | None


def partition_of(key: str) -> int:
    """The partition of a key."""
    return key_hash(key) % PARTITIONS


def positions(file_index: int, row: Int64) -> Int64:
    """The source positions of rows of a file: int64, the same shape, in the order of files and then rows."""
    return (np.int64(file_index) << _ROW_BITS) + row


def packed_size(batch: EventBatch) -> int:
    """About how many bytes the events of a batch take when they are packed."""
    return len(batch) * _row_type(batch.values, batch.clock_ms is not None).itemsize


def pack(batches: Sequence[EventBatch], file_index: int) -> Iterator[tuple[int, bytes]]:
    """Packs batches of one file, in its order, into a chunk for each partition: (partition, chunk)."""
    codes, keys = _unify(batches)
    rows = _rows(batches, file_index)
    # Keys by partition and name; the rank of a key in that order is narrow where keys are few, and sorts by radix.
    partition = np.array([partition_of(key) for key in keys], np.int64)
    ordered = np.array(sorted(range(len(keys)), key=lambda code: (partition[code], keys[code])), np.int64)
    rank = np.empty(len(keys), np.min_scalar_type(len(keys)))
    rank[ordered] = np.arange(len(keys))
    ranks = rank[codes]
    rows = rows[np.argsort(ranks, kind="stable")]
    counts = np.bincount(ranks, minlength=len(keys))
    ends = np.cumsum(counts)

    used = np.flatnonzero(counts)  # a batch may name keys of which no event is left
    for ranked in np.split(used, np.flatnonzero(np.diff(partition[ordered[used]])) + 1):
        if len(ranked):
            first, last = ranked[0], ranked[-1]
            names = [keys[code] for code in ordered[ranked]]
            part = rows[ends[first] - counts[first] : ends[last]]
            yield int(partition[ordered[first]]), _encode(names, counts[ranked], part)


def unpack(chunks: Iterable[bytes]) -> Iterator[KeyEvents]:
    """The events of one partition by key, from its chunks in any order."""
    # Almost always in the order of their positions then, so that the events of a key need no sorting.
    parts = sorted((_decode(chunk) for chunk in chunks), key=lambda part: int(part[2]["position"].min()))
    keys = sorted({key for names, _, _ in parts for key in names})
    number = {key: index for index, key in enumerate(keys)}
    narrow = np.min_scalar_type(len(keys))
    codes = np.concatenate(
        [np.repeat(np.array([number[key] for key in names], narrow), counts) for names, counts, _ in parts]
    )
    rows = np.concatenate([rows for _, _, rows in parts])
    rows = rows[np.argsort(codes, kind="stable")]
    end = 0
    for key, count in zip(keys, np.bincount(codes, minlength=len(keys)).tolist(), strict=True):
        start, end = end, end + count
        yield _key_events(key, rows[start:end])


def _key_events(key: str, rows: Rows) -> KeyEvents:
    clocked = "clock_ms" in (rows.dtype.names or ())
    time_ms, position = np.ascontiguousarray(rows["time_ms"]), np.ascontiguousarray(rows["position"])
    after = np.diff(position) > 0
    ahead = np.diff(time_ms)
    if not (after if clocked else (ahead > 0) | ((ahead == 0) & after)).all():
        order = np.argsort(position, kind="stable") if clocked else np.lexsort((position, time_ms))
        rows, time_ms, position = rows[order], time_ms[order], position[order]
    events = Events(time_ms, position, rows["values"].astype(np.float64))
    return KeyEvents(key, events, np.ascontiguousarray(rows["clock_ms"]) if clocked else None)


def _unify(batches: Sequence[EventBatch]) -> tuple[Int64, list[str]]:
    """The number of each event's key, and the keys by number."""
    number: dict[str, int] = {}
    codes = []
    for batch in batches:
        names = batch.keys.dictionary.to_pylist()
        of_batch = np.array([number.setdefault(name, len(number)) for name in names], np.int64)
        codes.append(of_batch[batch.keys.indices.to_numpy()])
    return np.concatenate(codes), list(number)


def _rows(batches: Sequence[EventBatch], file_index: int) -> Rows:
    values = np.concatenate([batch.values for batch in batches])
    clocks = [batch.clock_ms for batch in batches if batch.clock_ms is not None]
    rows = np.empty(len(values), _row_type(values, bool(clocks)))
    rows["time_ms"] = np.concatenate([batch.time_ms for batch in batches])
    rows["position"] = positions(file_index, np.concatenate([batch.row for batch in batches]))
    rows["values"] = values
    if clocks:
        rows["clock_ms"] = np.concatenate(clocks)
    return rows


def _row_type(values: NDArray[np.floating], clocked: bool) -> np.dtype[np.void]:
    clock = [("clock_ms", "<i8")] if clocked else []
    values_type = f"<f{values.itemsize}"
    return np.dtype([("time_ms", "<i8"), ("position", "<i8"), *clock, ("values", values_type, values.shape[1:])])


def _encode(keys: list[str], counts: Int64, rows: Rows) -> bytes:
    names, values = orjson.dumps(keys), rows["values"]
    clocked = "clock_ms" in (rows.dtype.names or ())
    head = np.array([len(names), len(keys), values.shape[1], values.itemsize, clocked], "<i8")
    return b"".join((head.tobytes(), names, counts.astype("<i8").tobytes(), rows.tobytes()))


def _decode(chunk: bytes) -> tuple[list[str], Int64, Rows]:
    size, count, width, value_bytes, clocked = np.frombuffer(chunk, "<i8", _HEAD_VALUES).tolist()
    at = 8 * _HEAD_VALUES
    row_type = _row_type(np.empty((0, width), f"<f{value_bytes}"), bool(clocked))
    counts = np.frombuffer(chunk, "<i8", count, at + size)
    return orjson.loads(chunk[at : at + size]), counts, np.frombuffer(chunk, row_type, offset=at + size + 8 * count)
