"""Traces: from the event that closed a window to its prediction, by the header `traceparent` (W3C trace context)."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from pipelines.kernels.grid import Events
from pipelines.kernels.windowing import Windows
from schemas.spec import Spec

HEADER = "traceparent"


class Traced(Protocol):
    """What is read of a record."""

    headers: Sequence[tuple[str, bytes]]


class Traces:
    """Finds the events that close windows."""

    def __init__(self, spec: Spec) -> None:
        grid = spec.grid
        self._step_ms, self._offset_ms = grid.step, grid.offset
        # A step closes when its end and the lateness have passed; a regular one already with its event.
        at_once = grid.regular and not grid.lateness
        self._closes_after_ms = -grid.step if at_once else grid.lateness

    def parents(
        self,
        windows: Sequence[tuple[str, Windows]],
        events: Iterable[tuple[str, NDArray[np.int64], Events]],
        records: Sequence[Traced],
    ) -> Mapping[tuple[str, int], bytes]:
        """The `traceparent` of the event that closed each window, where it had one.

        Args:
          windows: what the events closed, with its keys.
          events: of each key, in the order in which they came, with their rows in `records`.
          records: what the events were.
        Returns:
          By key and origin in milliseconds.
        """
        found = [dict(record.headers).get(HEADER) for record in records]
        if not any(found):
            return {}
        clocks = {key: (np.maximum.accumulate(part.time_ms), rows) for key, rows, part in events}
        parents = {}
        for key, run in windows:
            clock, rows = clocks[key]
            origin_ms = run.origin_step * self._step_ms + self._offset_ms
            closed_by = np.searchsorted(clock, origin_ms + self._closes_after_ms)
            for origin, row in zip(origin_ms.tolist(), closed_by.tolist(), strict=True):
                if row < len(rows) and (parent := found[rows[row]]):
                    parents[key, origin] = parent
        return parents
