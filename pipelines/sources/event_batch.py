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
from schemas.event import BadEvent, Event, EventReader
from schemas.spec import Spec

Int64 = NDArray[np.int64]
Float64 = NDArray[np.float64]
Bool = NDArray[np.bool_]

_FLOAT32_MAX = float(np.finfo(np.float32).max)
_PAYLOAD_BYTES = 64 << 10


@dataclass(frozen=True, slots=True)
class EventBatch:
    """Valid events of one file in its order.

    `keys` is a dictionary-encoded text column (event,); `time_ms` and `row` (its number in the file, from 0 on) are
    int64 (event,); `values` is float64 (event, carried feature), NaN where missing.
    """

    keys: pa.DictionaryArray
    time_ms: Int64
    row: Int64
    values: Float64

    def __len__(self) -> int:
        return len(self.time_ms)


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
    """`rows` consecutive rows of a file: its events, and those that are none, each with the number of its row."""

    rows: int
    events: EventBatch
    dead: tuple[tuple[int, DeadRow], ...]


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
            time_ms = number if self._format == "epoch_ms" else number * 1_000
        return time_ms, sure & (time_ms >= self._start_ms) & (time_ms < self._end_ms)

    @staticmethod
    def numbers(column: pa.DoubleArray) -> tuple[Float64, Bool]:
        """float64 (row,), NaN where null, and which rows are sure."""
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


def read_single(reader: EventReader, row: dict[str, str]) -> Event:
    """One event from the texts of a row, some of which may be no UTF-8 (undecodable bytes as lone surrogates).

    Raises:
      BadEvent: it is none.
    """
    names = (reader.key_field, reader.time_field, *(field.name for field in reader.fields))
    for name in names:
        try:
            row[name].encode()
        except UnicodeEncodeError as exc:
            raise BadEvent("decode", f"{name}: expected UTF-8, got {row[name]!r:.60}") from exc
    return reader.read_row(row)
