"""The state of one key as bytes: the value of a row of the changelog.

A row is little-endian: a head (`_HEAD`), then held values float32 and their steps int64 (carried feature,), the open
events (times int64, values float64), and the tail of closed steps (values float32 (row, feature), mask as bits). Event
positions are left out: only a replay needs them, and a state that is read back is not replayed.
"""

from __future__ import annotations

import struct

import numpy as np

from pipelines.kernels.grid import NO_POSITION, Events, GridState, Steps
from pipelines.kernels.windowing import KeyState

VERSION = 1
_HEAD = struct.Struct("<BBHHHI8sqqqq")
"""Version, which of the optional parts there are, features, carried features, nothing, tail rows, the first 8 bytes of
the window fingerprint, offset, clock, next step, first step of the tail; open events are counted by what is left."""
_CLOCK, _NEXT, _TAIL = 1, 2, 4


def encode_state(state: KeyState, *, offset: int, fingerprint: str) -> bytes:
    """The row of a key.

    Args:
      state: the key's.
      offset: of the first event that the state does not know; the commit that the row belongs to is of this offset.
      fingerprint: of the windows.
    """
    grid, tail = state.grid, state.tail
    flags = (grid.clock_ms is not None) * _CLOCK | (grid.next is not None) * _NEXT | (tail is not None) * _TAIL
    head = _HEAD.pack(
        VERSION,
        flags,
        0 if tail is None else tail.values.shape[1],
        len(grid.held),
        0,
        0 if tail is None else len(tail),
        bytes.fromhex(fingerprint)[:8],
        offset,
        grid.clock_ms or 0,
        grid.next or 0,
        0 if tail is None else tail.first,
    )
    parts = [
        head,
        grid.held.astype("<f4", copy=False).tobytes(),
        grid.held_step.astype("<i8", copy=False).tobytes(),
    ]
    if tail is not None:
        parts += [tail.values.astype("<f4", copy=False).tobytes(), np.packbits(tail.observed).tobytes()]
    parts += [
        grid.open.time_ms.astype("<i8", copy=False).tobytes(),
        grid.open.values.astype("<f8", copy=False).tobytes(),
    ]
    return b"".join(parts)


def row_offset(row: bytes, fingerprint: str) -> int | None:
    """The offset that a row was written with; None where it is of other windows or of another version."""
    if len(row) < _HEAD.size or row[0] != VERSION:
        return None
    *_, written_with, offset, _, _, _ = _HEAD.unpack_from(row)
    return int(offset) if written_with == bytes.fromhex(fingerprint)[:8] else None


def decode_state(row: bytes) -> KeyState:
    """Reads what `encode_state` wrote, with every event position unknown."""
    _, flags, width, carried, _, rows, _, _, clock_ms, next_step, tail_first = _HEAD.unpack_from(row)
    at = _HEAD.size
    held = np.frombuffer(row, "<f4", carried, at).astype(np.float32)
    at += held.nbytes
    held_step = np.frombuffer(row, "<i8", carried, at).astype(np.int64)
    at += held_step.nbytes
    tail = None
    if flags & _TAIL:
        values = np.frombuffer(row, "<f4", rows * width, at).astype(np.float32).reshape(rows, width)
        at += values.nbytes
        bits = np.frombuffer(row, np.uint8, -(-rows * width // 8), at)
        at += bits.nbytes
        observed = np.unpackbits(bits, count=rows * width).astype(np.bool_).reshape(rows, width)
        tail = Steps(tail_first, values, observed, np.broadcast_to(np.int64(NO_POSITION), rows))
    count = (len(row) - at) // (8 + 8 * carried)
    time_ms = np.frombuffer(row, "<i8", count, at).astype(np.int64)
    at += time_ms.nbytes
    events = Events(
        time_ms,
        np.full(count, NO_POSITION),
        np.frombuffer(row, "<f8", count * carried, at).astype(np.float64).reshape(count, carried),
    )
    grid = GridState(
        clock_ms=clock_ms if flags & _CLOCK else None,
        open=events,
        next=next_step if flags & _NEXT else None,
        held=held,
        held_step=held_step,
    )
    return KeyState(grid, tail, np.empty(0, np.int64))
