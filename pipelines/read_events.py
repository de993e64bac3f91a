"""Input files to packed chunks of events by key, and dead letters: the step before the first shuffle of the ingest."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator

import apache_beam as beam
from apache_beam.pvalue import TaggedOutput

from pipelines.chunks import chunks_by_key
from pipelines.reports import FailureReport, FileReport, encode_report
from pipelines.sources.csv_source import CsvSource
from pipelines.sources.files import InputFile, open_input
from schemas.errors import InputError
from schemas.spec import Spec

DEAD_LETTERS = "dead_letters"
REPORTS = "reports"


def dead_letter_file(file: InputFile) -> str:
    """The name of the file that holds an input file's dead letters."""
    return f"{file.index:05d}-{file.name}.jsonl"


class ReadEventsFn(beam.DoFn):  # type: ignore[misc]
    """Reads an input file.

    Gives (key, packed chunk); to `DEAD_LETTERS` (file name, (row, lines)); to `REPORTS` encoded reports.
    """

    def __init__(self, spec: Spec) -> None:
        self._spec = spec

    def setup(self) -> None:
        """Makes what does not travel to workers."""
        self._source = CsvSource(self._spec)

    def process(self, file: InputFile) -> Iterator[tuple[str, bytes] | TaggedOutput]:
        """Takes an input file."""
        rows, reasons = 0, Counter[str]()
        try:
            with open_input(file.path) as opened:
                for batch in self._source.read(opened, file.path):
                    yield from chunks_by_key(batch.events, file.index)
                    if batch.dead:
                        lines = b"".join(dead.json_line() for _, dead in batch.dead)
                        yield TaggedOutput(DEAD_LETTERS, (dead_letter_file(file), (batch.dead[0][0], lines)))
                    rows += batch.rows
                    reasons.update(dead.reason for _, dead in batch.dead)
        except InputError as exc:
            yield TaggedOutput(REPORTS, encode_report(FailureReport(file=file.index, message=str(exc))))
        else:
            report = FileReport(rows=rows, dead_by_reason=dict(reasons))
            yield TaggedOutput(REPORTS, encode_report(report))
