"""One partition of the keys to the records of its splits: the step between the two shuffles of the ingest."""

from __future__ import annotations

from collections.abc import Iterable, Iterator

import apache_beam as beam
from apache_beam.pvalue import TaggedOutput

from pipelines.chunks import unpack
from pipelines.reports import REPORTS, encode_report
from pipelines.sink import SpilledRecord
from pipelines.spans import Span
from pipelines.spill import Extent, SpillReader, SpillWriter
from pipelines.window_events import KeyWindows
from schemas.spec import Spec


class WindowPartitionFn(beam.DoFn):  # type: ignore[misc]
    """Makes the records of a partition's keys; encoded reports of the keys go to the output `REPORTS`."""

    def __init__(self, spec: Spec, *, all_origins: bool, spill: str, span: Span | None = None) -> None:
        self._spec, self._all_origins, self._spill, self._span = spec, all_origins, spill, span

    def setup(self) -> None:
        """Makes what does not travel to workers."""
        self._windows = KeyWindows(self._spec, all_origins=self._all_origins, span=self._span)

    def process(self, element: tuple[int, Iterable[Extent]]) -> Iterator[tuple[str, SpilledRecord] | TaggedOutput]:
        """Takes (partition, where its packed chunks lie, in any order)."""
        _, extents = element
        with SpillReader(self._spill) as reader:
            chunks = [reader.read(extent) for extent in sorted(extents)]
        records: list[tuple[str, SpilledRecord]] = []
        with SpillWriter(self._spill) as writer:
            for key, events, clock_ms in unpack(chunks):
                found, report = self._windows.records(key, events, clock_ms)
                for name, (key_bytes, first, count, framed) in found:
                    records.append((name, (key_bytes, first, count, writer.append(framed))))
                yield TaggedOutput(REPORTS, encode_report(report))
        yield TaggedOutput(REPORTS, encode_report(self._windows.take_sketches()))
        yield from records
