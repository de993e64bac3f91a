"""Spans: the part of a dataset that one half-open interval of event time owns.

A span owns the windows whose last horizon step lies in its interval. Which windows those are, and what is in them, is
decided by the events from `Span.first_ms` to `Span.last_ms`: far enough back for the past and its fills, far enough
ahead for every event that can still close a step of the interval. So spans laid end to end hold the windows of one
ingest of the whole, whatever is read beside.
"""

from __future__ import annotations

from dataclasses import dataclass

from pipelines.kernels.grid import Bool, Int64
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
        return cls(start_ms, end_ms, start_ms - context_ms, end_ms + spec.span_ms, horizon * step)

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

    def needs(self, time_ms: Int64) -> Bool:
        """bool, the same shape: which events decide about the span's windows."""
        needed: Bool = (time_ms >= self.first_ms) & (time_ms < self.last_ms)
        return needed
