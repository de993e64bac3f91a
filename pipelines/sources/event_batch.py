"""What a source reads: batches of valid events, and the rows that are none.

Sources read columns; a row that a column cannot take goes to `schemas.event.EventReader`, whose word is final. So what
is an event does not depend on how it was read.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from zoneinfo import ZoneInfo

import numpy as np
import orjson
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from pipelines.sources import iso_times
from schemas.event import BadEvent, Event
from schemas.spec import Spec

Int64 = NDArray[np.int64]
Float64 = NDArray[np.float64]
Bool = NDArray[np.bool_]

_FLOAT32_MAX = float(np.finfo(np.float32).max)
_PAYLOAD_BYTES = 64 << 10
_FAR = 10**15
"""Numbers beyond are left to `EventReader`: no time is written so."""


@dataclass(frozen=True, slots=True)
class EventBatch:
    """Valid events of one file in its order.

    `keys` is a dictionary-encoded text column (event,); `time_ms` and `row` (its number in the file, from 0 on) are
    int64 (event,); `values` is float64, or float32 where the source holds no more, (event, carried feature), NaN where
    missing. `clock_ms` int64 (event,) is the greatest event time that the source had brought when each event came; None
    where arrival order means nothing, as in files.
    """

    keys: pa.DictionaryArray
    time_ms: Int64
    row: Int64
    values: NDArray[np.floating]
    clock_ms: Int64 | None = None

    def __len__(self) -> int:
        return len(self.time_ms)

    def filter(self, kept: Bool) -> EventBatch:
        """The events where `kept`."""
        clock_ms = None if self.clock_ms is None else self.clock_ms[kept]
        keys = self.keys.filter(pa.array(kept))
        return EventBatch(keys, self.time_ms[kept], self.row[kept], self.values[kept], clock_ms)


@dataclass(frozen=True, slots=True)
class DeadRow:
    """A row that is no event. `source` is `file:line`; `payload` its bytes, cut where they are many."""

    source: str
    reason: str
    detail: str
    payload: bytes
    size: int
    sha256: str | None = None

    @classmethod
    def of(cls, source: str, error: BadEvent, payload: bytes) -> DeadRow:
        """A dead row of a whole payload, which is cut if it is too large to keep."""
        cut = len(payload) > _PAYLOAD_BYTES
        digest = hashlib.sha256(payload).hexdigest() if cut else None
        return cls(source, error.reason, str(error), payload[:_PAYLOAD_BYTES], len(payload), digest)

    def json_line(self) -> bytes:
        """One line of a dead-letter file: the payload as `text`, or as `hex` where it is not UTF-8."""
        line: dict[str, object] = {"source": self.source, "reason": self.reason, "detail": self.detail}
        try:
            line["text"] = self.payload.decode()
        except UnicodeDecodeError:
            line["hex"] = self.payload.hex()
        if self.sha256 is not None:
            line |= {"size": self.size, "sha256": self.sha256}
        return orjson.dumps(line, option=orjson.OPT_APPEND_NEWLINE)


@dataclass(frozen=True, slots=True)
class SourceBatch:
    """Consecutive rows of a file: its events, and those that are none, each with the number of its row.

    `rows` counts them all; a row of a wide table counts once for each of its series.
    """

    rows: int
    events: EventBatch
    dead: tuple[tuple[int, DeadRow], ...]


def concatenate_events(batches: Sequence[EventBatch]) -> EventBatch:
    """Several batches, at least one, as one."""
    if len(batches) == 1:
        return batches[0]
    return EventBatch(
        pa.chunked_array([batch.keys for batch in batches]).unify_dictionaries().combine_chunks(),
        np.concatenate([batch.time_ms for batch in batches]),
        np.concatenate([batch.row for batch in batches]),
        np.concatenate([batch.values for batch in batches]),
    )


def concatenate(left: SourceBatch, right: SourceBatch) -> SourceBatch:
    """Two consecutive batches as one."""
    events = concatenate_events([left.events, right.events])
    return SourceBatch(left.rows + right.rows, events, left.dead + right.dead)


class ColumnChecker:
    """Checks columns of one spec as `EventReader` checks single events."""

    def __init__(self, spec: Spec) -> None:
        self._zone = ZoneInfo(spec.stream.time.zone)
        self._format = spec.stream.time.format
        self._start_ms, self._end_ms = spec.stream.time_range

    def times(self, texts: pa.StringArray) -> tuple[Int64, Bool]:
        """Event times int64 (row,) and which of them are sure, bool (row,); `EventReader` must look at the others."""
        if self._format == "iso8601":
            time_ms, sure = iso_times.parse(texts, self._zone)
        else:
            digits = pc.match_substring_regex(texts, r"^-?\d{1,15}$")
            sure = digits.to_numpy(zero_copy_only=False)
            number = pc.if_else(digits, texts, "0").cast(pa.int64()).to_numpy()
            return self.epochs(number, sure)
        return time_ms, sure & self.in_range(time_ms)

    def epochs(self, numbers: Int64, sure: Bool) -> tuple[Int64, Bool]:
        """As `times`, of times written as whole numbers where `sure`; ISO times are never written so."""
        if self._format == "iso8601":
            return np.zeros_like(numbers), np.zeros(len(numbers), np.bool_)
        fits = sure & (np.abs(numbers) < _FAR)
        time_ms = np.where(fits, numbers, 0) * (1 if self._format == "epoch_ms" else 1_000)
        return time_ms, fits & self.in_range(time_ms)

    def in_range(self, time_ms: Int64) -> Bool:
        """bool (row,): which times are within `stream.time_range`."""
        within: Bool = (time_ms >= self._start_ms) & (time_ms < self._end_ms)
        return within

    @staticmethod
    def numbers(column: pa.FloatingPointArray) -> tuple[NDArray[np.floating], Bool]:
        """The column's floats (row,), NaN where null, and which rows are sure."""
        values = column.to_numpy(zero_copy_only=False)
        missing = column.is_null().to_numpy(zero_copy_only=False)
        with np.errstate(invalid="ignore"):
            return values, missing | (np.abs(values) <= _FLOAT32_MAX)


def merge(batch: EventBatch, extra: Sequence[tuple[int, Event]]) -> EventBatch:
    """A batch with single events (row, event) put in their places."""
    if not extra:
        return batch
    keys = pa.concat_arrays([batch.keys.cast(pa.string()), pa.array([event.key for _, event in extra], pa.string())])
    row = np.concatenate((batch.row, [row for row, _ in extra]))
    order = np.argsort(row, kind="stable")
    time_ms = np.concatenate((batch.time_ms, [event.time_ms for _, event in extra]))
    values = np.concatenate((batch.values, [event.values for _, event in extra]))
    return EventBatch(keys.take(pa.array(order)).dictionary_encode(), time_ms[order], row[order], values[order])


def require_utf8(text: str, name: str) -> str:
    """The text, in which undecodable bytes stand as lone surrogates.

    Raises:
      BadEvent: it has some.
    """
    try:
        text.encode()
    except UnicodeEncodeError as exc:
        raise BadEvent("decode", f"{name}: expected UTF-8, got {text!r:.60}") from exc
    return text
