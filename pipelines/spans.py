"""Spans: the part of a dataset that one half-open interval of event time owns.

A span owns the windows whose last horizon step lies in its interval. Which windows those are, and what is in them, is
decided by the events from `Span.first_ms` to `Span.last_ms`: far enough back for the past and its fills, far enough
ahead for every event that can still close a step of the interval. So spans laid end to end hold the windows of one
ingest of the whole, whatever is read beside.

In a topic, order of arrival decides too: there those are the events that came before the partition's clock was at
`Span.arrived_ms`, since any later one is either too late for its step or of no step of the interval.
"""

from __future__ import annotations

from dataclasses import dataclass

from pipelines.kernels.grid import Bool, Int64
from pipelines.sources.event_batch import EventBatch
from schemas.errors import InputError, SpecError
from schemas.spec import Spec
from schemas.split_spec import FractionSplit
from schemas.units import iso_to_ms, ms_to_iso


@dataclass(frozen=True, slots=True)
class Span:
    """An interval, `start_ms` to `end_ms` (exclusive), and the events that decide about its windows."""

    start_ms: int
    end_ms: int
    first_ms: int
    last_ms: int
    arrived_ms: int
    horizon_ms: int

    @classmethod
    def of(cls, spec: Spec, interval: tuple[str, str]) -> Span:
        """The span of an interval, as a user writes it (ISO 8601).

        Raises:
          InputError: it is no interval of whole steps.
          SpecError: the spec's splits depend on the whole of a key.
        """
        if isinstance(spec.split, FractionSplit):
            raise SpecError("$.split.by: expected dates or keys for spans, got fractions, which need all of a key")
        step, past, horizon = spec.grid.step, spec.window.past, spec.window.horizon
        bounds = []
        for text in interval:
            try:
                bounds.append(iso_to_ms(text))
            except ValueError as exc:
                raise InputError(f"--interval: expected ISO 8601 times, got '{text}'") from exc
            if (bounds[-1] - spec.grid.offset) % step:
                raise InputError(f"--interval: expected the start of a step of the grid, got '{text}'")
        start_ms, end_ms = bounds
        if start_ms >= end_ms:
            raise InputError(f"--interval: expected a start before the end, got {interval[0]} and {interval[1]}")
        context_ms = (past + horizon + spec.grid.max_gap) * step
        first_ms, last_ms = start_ms - context_ms, end_ms + spec.span_ms
        return cls(start_ms, end_ms, first_ms, last_ms, last_ms + spec.grid.max_disorder, horizon * step)

    @property
    def folder(self) -> str:
        """The name of its folder, which sorts by time."""
        return "_".join(ms_to_iso(ms).replace("-", "").replace(":", "") for ms in (self.start_ms, self.end_ms))

    def owns(self, origin_ms: Int64) -> Bool:
        """bool (window,): which windows of these origins are the span's."""
        end_ms = origin_ms + self.horizon_ms
        owned: Bool = (end_ms > self.start_ms) & (end_ms <= self.end_ms)
        return owned

    def holds(self, time_ms: Int64) -> Bool:
        """bool, the same shape: which times are in the interval."""
        held: Bool = (time_ms >= self.start_ms) & (time_ms < self.end_ms)
        return held

    def needed(self, events: EventBatch) -> EventBatch:
        """The events that decide about the span's windows, or are of its interval."""
        before_end = events.time_ms < self.last_ms
        if events.clock_ms is not None:  # what came much too late stays, to be counted
            before_end |= events.clock_ms < self.arrived_ms
        return events.filter((events.time_ms >= self.first_ms) & before_end)

    def has_arrived(self, events: EventBatch) -> bool:
        """Whether what comes after these events, in order of arrival, decides about nothing any more."""
        return events.clock_ms is not None and len(events) > 0 and int(events.clock_ms[-1]) >= self.arrived_ms
