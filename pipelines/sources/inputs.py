"""The one door to input: which source reads a file, and which parts of it can be read apart."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from pipelines.sources.arrow_source import ArrowSource, ParquetSource
from pipelines.sources.avro_source import AvroSource
from pipelines.sources.csv_source import CsvSource
from pipelines.sources.event_batch import SourceBatch
from pipelines.sources.files import InputFile, match_files, open_input, open_raw
from pipelines.sources.json_source import JsonSource
from pipelines.sources.tfrecord_source import TFRecordSource
from schemas.errors import InputError
from schemas.spec import Spec

_PIECES = 64
"""At most so many pieces a file: enough for many workers, and each still long enough to be read at full speed."""

KAFKA = "kafka:"
"""What an input that is a topic begins with (`pipelines.sources.kafka_source`)."""

_FORMATS = {
    "csv": "csv",
    "json": "json",
    "jsonl": "json",
    "ndjson": "json",
    "parquet": "parquet",
    "pq": "parquet",
    "arrow": "arrow",
    "feather": "arrow",
    "avro": "avro",
    "tfrecord": "tfrecord",
    "tfrecords": "tfrecord",
}


@dataclass(frozen=True, slots=True)
class Piece:
    """What is read in one go: `parts` (first and last, exclusive) of a file, or all of it where it has no parts."""

    file: InputFile
    parts: tuple[int, int] | None = None


def match_inputs(spec: Spec, patterns: Sequence[str]) -> tuple[InputFile, ...]:
    """What patterns name: files (`match_files`), or ranges of topics, each as if it were a file.

    Raises:
      InputError: a pattern names nothing, or some are topics and some files.
      BrokerError: a topic cannot be looked at.
    """
    topics = [pattern for pattern in patterns if pattern.startswith(KAFKA)]
    if not topics:
        return match_files(patterns)
    if len(topics) < len(patterns):
        raise InputError("expected either files or topics, got both: they have no common order of arrival")
    from pipelines.sources.kafka_source import match_ranges

    ranges = dict.fromkeys(path for pattern in topics for path in match_ranges(spec, pattern))
    if not ranges:
        raise InputError(f"{', '.join(topics)}: expected records, got none")
    return tuple(InputFile(index, path) for index, path in enumerate(ranges))


class Inputs:
    """Reads input files of one spec, whatever their format.

    Args:
      spec: the stream.
      within_ms: the event times that matter, first and last (exclusive); what a file tells to lie beside them as a
        whole need not be read. None for all.
    Raises:
      SpecError: the spec cannot be read from tables.
    """

    def __init__(self, spec: Spec, within_ms: tuple[int, int] | None = None) -> None:
        self._spec, self._within_ms = spec, within_ms
        self._csv = CsvSource(spec)

    def pieces(self, file: InputFile) -> Iterator[Piece]:
        """The pieces of a file, in its order.

        Raises:
          InputError: it cannot be used.
        """
        source = self._columnar(file)
        if source is None:
            yield Piece(file)
            return
        with open_raw(file.path) as opened:
            count = source.parts(opened, file)
        step = -(-count // _PIECES) or 1
        for first in range(0, count, step):
            yield Piece(file, (first, min(first + step, count)))

    def read(self, piece: Piece) -> Iterator[SourceBatch]:
        """Reads a piece.

        Raises:
          InputError: the file cannot be used.
          BrokerError: the topic cannot be read.
        """
        file = piece.file
        if file.path.startswith(KAFKA):
            from pipelines.sources.kafka_source import KafkaSource

            yield from KafkaSource(self._spec).read(file)
            return
        source = self._columnar(file)
        if source is None:
            with open_input(file.path) as opened:
                yield from self._sequential(file).read(opened, file)
        elif piece.parts:
            with open_raw(file.path) as opened:
                yield from source.read(opened, file, *piece.parts)

    def _columnar(self, file: InputFile) -> ParquetSource | ArrowSource | None:
        if file.path.startswith(KAFKA):
            return None
        match self._format(file):
            case "parquet":
                return ParquetSource(self._spec, self._within_ms)
            case "arrow":
                return ArrowSource(self._spec)
        return None

    def _sequential(self, file: InputFile) -> CsvSource | JsonSource | AvroSource | TFRecordSource:
        match self._format(file):
            case "json":
                return JsonSource(self._spec)
            case "avro":
                return AvroSource(self._spec)
            case "tfrecord":
                return TFRecordSource(self._spec)
        return self._csv

    def _format(self, file: InputFile) -> str:
        """The spec's word, or the last suffix that is not one of compression; CSV where that says nothing."""
        if self._spec.source.format:
            return self._spec.source.format
        name = file.name.lower()
        for compression in (".gz", ".zst", ".zstd"):
            name = name.removesuffix(compression)
        return _FORMATS.get(name.rpartition(".")[2], "csv")
