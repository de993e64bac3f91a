"""Input to packed chunks of events by partition, and dead letters: the stage before the first shuffle of the ingest."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator

import apache_beam as beam
import numpy as np
from apache_beam.pvalue import TaggedOutput

from pipelines.chunks import pack, packed_size
from pipelines.reports import REPORTS, FailureReport, FileReport, encode_report
from pipelines.sources.event_batch import EventBatch
from pipelines.sources.files import InputFile
from pipelines.sources.inputs import Inputs, Piece
from pipelines.spans import Span
from pipelines.spill import Extent, SpillWriter
from schemas.errors import TidegaugeError
from schemas.spec import Spec

DEAD_LETTERS = "dead_letters"

_SEGMENT_BYTES = 64 << 20
"""So many bytes of events are sorted at once: what a worker needs is a few times that."""


def dead_letter_file(file: InputFile) -> str:
    """The name of the file that holds an input file's dead letters."""
    return f"{file.index:05d}-{file.name}.jsonl"


class CutFn(beam.DoFn):  # type: ignore[misc]
    """Cuts input files into pieces; encoded reports of files that cannot be used go to the output `REPORTS`."""

    def __init__(self, spec: Spec) -> None:
        self._spec = spec

    def process(self, file: InputFile) -> Iterator[Piece | TaggedOutput]:
        """Takes an input file."""
        try:
            yield from Inputs(self._spec).pieces(file)
        except TidegaugeError as exc:
            yield _failure(file, exc)


class ReadEventsFn(beam.DoFn):  # type: ignore[misc]
    """Reads a piece of an input file.

    Gives (partition, where a packed chunk lies); to `DEAD_LETTERS` (file name, (row, where lines lie)); to `REPORTS`
    encoded reports.
    """

    def __init__(self, spec: Spec, *, spill: str, span: Span | None = None) -> None:
        self._spec, self._spill, self._span = spec, spill, span

    def setup(self) -> None:
        """Makes what does not travel to workers."""
        self._inputs = Inputs(self._spec, (self._span.first_ms, self._span.last_ms) if self._span else None)

    def process(self, piece: Piece) -> Iterator[tuple[int, Extent] | TaggedOutput]:
        """Takes a piece of an input file."""
        rows, reasons = 0, Counter[str]()
        chunks: list[tuple[int, Extent]] = []
        letters: list[tuple[int, Extent]] = []
        waiting: list[EventBatch] = []
        size = 0

        def spill() -> None:
            if waiting:
                chunks.extend((partition, writer.append(chunk)) for partition, chunk in pack(waiting, piece.file.index))
                waiting.clear()

        try:
            with SpillWriter(self._spill) as writer:
                for batch in self._inputs.read(piece):
                    events = batch.events
                    rows += batch.rows
                    if self._span is not None:
                        rows -= int(np.count_nonzero(~self._span.holds(events.time_ms)))
                        events = self._span.needed(events)
                    if len(events):
                        waiting.append(events)
                        size += packed_size(events)
                    if size >= _SEGMENT_BYTES:
                        spill()
                        size = 0
                    if batch.dead:
                        lines = b"".join(dead.json_line() for _, dead in batch.dead)
                        letters.append((batch.dead[0][0], writer.append(lines)))
                        reasons.update(dead.reason for _, dead in batch.dead)
                    if self._span is not None and self._span.has_arrived(batch.events):
                        break
                spill()
        except TidegaugeError as exc:
            yield _failure(piece.file, exc)
            return
        yield from chunks
        for letter in letters:
            yield TaggedOutput(DEAD_LETTERS, (dead_letter_file(piece.file), letter))
        yield TaggedOutput(REPORTS, encode_report(FileReport(rows=rows, dead_by_reason=dict(reasons))))


def _failure(file: InputFile, exc: TidegaugeError) -> TaggedOutput:
    return TaggedOutput(REPORTS, encode_report(FailureReport(file=file.index, message=str(exc))))
