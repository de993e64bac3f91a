"""Actual values: closed steps, by the kernel that closes them for windows, of the keys that are shown."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence

from pipelines.kernels.grid import Grid, GridState, Steps
from schemas.event import BadEvent, EventReader
from schemas.spec import Spec
from streaming.event_partition import Arrivals
from streaming.stage import Record


class Actuals:
    """Closes the steps of some keys.

    It begins in the midst of a topic. So a step may differ from the window's where events before the beginning belong
    to it; that is the first one of a key at most.

    Args:
      spec: the stream's.
      follows: tells whether a key is one of them.
    """

    def __init__(self, spec: Spec, follows: Callable[[str], bool]) -> None:
        self._grid, self._reader, self._follows = Grid(spec), EventReader(spec), follows
        self._max_skew_ms = spec.grid.max_skew
        self._clock_ms: dict[int, int] = {}
        self._states: dict[str, GridState] = {}

    def push(self, partition: int, records: Sequence[Record], now_ms: int) -> Iterator[tuple[str, Steps]]:
        """Takes the next records of a partition of the input topic; the runs of steps that they close, by key."""
        clock_ms = self._clock_ms.get(partition)
        arrivals = Arrivals(len(self._reader.fields))
        for record in records:
            try:
                key, time_ms, values = self._reader.read_json(record.value)
            except BadEvent:
                continue  # it is a dead letter, which is shown as such
            if time_ms > now_ms + self._max_skew_ms:
                continue
            clock_ms = time_ms if clock_ms is None else max(clock_ms, time_ms)
            if self._follows(key):
                arrivals.add(key, time_ms, record.offset, clock_ms, values)
        if clock_ms is not None:
            self._clock_ms[partition] = clock_ms
        for key, _, events, clocks in arrivals.by_key():
            state = self._states.get(key) or self._grid.empty()
            self._states[key], runs, _ = self._grid.push(state, events, clocks)
            for steps in runs:
                yield key, steps

    def forget(self, key: str) -> None:
        """A key is no longer one of them."""
        self._states.pop(key, None)

    @property
    def clock_ms(self) -> int | None:
        """The greatest event time seen, epoch milliseconds."""
        return max(self._clock_ms.values(), default=None)
