"""The workers of the text ingest: files to counts of tokens, and to records with ids."""

from __future__ import annotations

import contextlib
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence

import apache_beam as beam
from apache_beam.pvalue import TaggedOutput
from pydantic import TypeAdapter

from pipelines.example_encoder import encode_example
from pipelines.kernels.text import Encoded, Encoder, Tokeniser
from pipelines.sources.event_batch import DeadRow
from pipelines.sources.files import InputFile, open_input
from pipelines.spill import Extent, SpillWriter
from pipelines.splits import TRAIN, split_by_field, split_of_key
from pipelines.text_source import Document, TextSource
from pipelines.tfrecord import frame
from schemas.dataset import ALL_ORIGINS
from schemas.errors import InputError
from schemas.section import Section
from schemas.split_spec import FieldSplit
from schemas.text_dataset import TEXT, TEXT_IDS, TEXT_LABEL, TEXT_ROW_LENGTHS, TEXT_SOURCE
from schemas.text_spec import UNKNOWN_ID, TextSpec

DEAD_LETTERS_FOLDER = "dead-letters"
REPORTS_FILE = "reports.jsonl"

LABELS = "labels"
PIECES = "pieces"

Piece = tuple[str, tuple[int, int, bytes]]
"""Bytes of an output file: its name, and two numbers that order its pieces (file and row of the input)."""

SpilledPiece = tuple[str, tuple[int, int, Extent]]
"""A piece whose bytes lie in the spill folder."""

_BATCH_DOCUMENTS = 4096
_BATCH_CHARACTERS = 8 << 20
_COUNTED_TOKENS = 500_000
"""Different tokens that a worker counts before it hands them on."""


class SplitReport(Section):
    """Some documents of one split."""

    split: str
    by_class: dict[str, int]
    lengths: dict[int, int]
    """How many documents have so many tokens."""
    unknown: int
    cut: int
    most_rows: int


class FileReport(Section):
    """A file: its rows and dead rows; or, where it cannot be used, why."""

    file: int
    rows: int = 0
    dead_by_reason: dict[str, int] = {}
    failure: str | None = None


TEXT_REPORT: TypeAdapter[SplitReport | FileReport] = TypeAdapter(SplitReport | FileReport)


def split_of(spec: TextSpec, document: Document) -> str:
    """The split of a document; `all` where the spec has no splits."""
    if spec.split is None:
        return ALL_ORIGINS
    if isinstance(spec.split, FieldSplit):
        return split_by_field(spec.split, document.key, document.split)
    return split_of_key(spec.split, document.key)


class SurveyDocumentsFn(beam.DoFn):  # type: ignore[misc]
    """Reads what all documents of the input decide together, and reports on them.

    Gives (token, count) of the documents that the vocabulary is made of: those to train on, or all; to `LABELS` labels,
    each as often as it comes to a file; to `PIECES` dead letters and reports.
    """

    def __init__(self, spec: TextSpec) -> None:
        self._spec, self._source = spec, TextSource(spec)

    def setup(self) -> None:
        """Makes what does not travel to workers."""
        self._tokeniser = Tokeniser(self._spec.text)

    def process(self, file: InputFile) -> Iterator[tuple[str, int] | TaggedOutput]:
        """Takes an input file."""
        rows, reasons, counts, labels = 0, Counter[str](), Counter[str](), set[str]()
        has_vocabulary = self._spec.text.unit != "byte"
        dead_letters = f"{DEAD_LETTERS_FOLDER}/{file.index:05d}-{file.name}.jsonl"
        try:
            with open_input(file.path) as opened:
                for found in self._source.read(opened, file.path):
                    rows += 1
                    if not isinstance(found, Document):
                        row, dead = found
                        reasons[dead.reason] += 1
                        yield TaggedOutput(PIECES, (dead_letters, (file.index, row, dead.json_line())))
                        continue
                    labels.add(found.label)
                    if has_vocabulary and split_of(self._spec, found) in (TRAIN, ALL_ORIGINS):
                        counts.update(self._tokeniser.tokens(found.text))
                    if len(counts) >= _COUNTED_TOKENS:
                        yield from counts.items()
                        counts.clear()
            report = FileReport(file=file.index, rows=rows, dead_by_reason=dict(reasons))
        except InputError as exc:
            report = FileReport(file=file.index, failure=str(exc))
        yield from counts.items()
        for label in sorted(labels):
            yield TaggedOutput(LABELS, label)
        yield TaggedOutput(PIECES, _report_piece(file.index, -1, report))


class EncodeDocumentsFn(beam.DoFn):  # type: ignore[misc]
    """Makes the records of documents: spilled pieces of shards; reports go to the output `PIECES`."""

    def __init__(self, spec: TextSpec, spill: str) -> None:
        self._spec, self._spill, self._source = spec, spill, TextSource(spec)
        self._encoder: Encoder | None = None

    def process(
        self, file: InputFile, vocabulary: Sequence[str], classes: Sequence[str]
    ) -> Iterator[SpilledPiece | TaggedOutput]:
        """Takes an input file, and what all documents have in common."""
        if self._encoder is None:
            self._encoder = Encoder(self._spec.text, vocabulary)
            self._labels = {label: number for number, label in enumerate(classes)}
        with contextlib.suppress(InputError), open_input(file.path) as opened:  # the survey has told of it
            for batch in _batches(self._source.read(opened, file.path)):
                yield from self._encode(file.index, batch, self._encoder)

    def _encode(
        self, file: int, documents: Sequence[Document], encoder: Encoder
    ) -> Iterator[SpilledPiece | TaggedOutput]:
        shards = self._spec.dataset.shards
        by_split: dict[str, list[Document]] = {}
        for document in documents:
            by_split.setdefault(split_of(self._spec, document), []).append(document)
        records: dict[str, list[bytes]] = {}
        for split, chosen in by_split.items():
            encoded = [encoder.encode(document.text) for document in chosen]
            for document, ids in zip(chosen, encoded, strict=True):
                name = shard_file(split, document.row % shards, shards)
                records.setdefault(name, []).append(frame(self._record(document, ids)))
            report = SplitReport(
                split=split,
                by_class=dict(Counter(document.label for document in chosen)),
                lengths=dict(Counter(len(ids.ids) for ids in encoded)),
                unknown=sum(int((ids.ids == UNKNOWN_ID).sum()) for ids in encoded),
                cut=sum(ids.cut > 0 for ids in encoded),
                most_rows=max(len(ids.row_lengths) for ids in encoded),
            )
            yield TaggedOutput(PIECES, _report_piece(file, documents[0].row, report))
        with SpillWriter(self._spill) as writer:
            extents = {name: writer.append(b"".join(framed)) for name, framed in records.items()}
        for name, extent in extents.items():
            yield name, (file, documents[0].row, extent)

    def _record(self, document: Document, encoded: Encoded) -> bytes:
        return encode_example(
            {
                TEXT: document.text.encode(),
                TEXT_SOURCE: document.source.encode(),
                TEXT_LABEL: self._labels[document.label],
                TEXT_IDS: encoded.ids.astype("<i4", copy=False).tobytes(),
                TEXT_ROW_LENGTHS: encoded.row_lengths.astype("<i4", copy=False).tobytes(),
            }
        )


def _batches(found: Iterable[Document | tuple[int, DeadRow]]) -> Iterator[list[Document]]:
    """Documents in the order of their file, some at a time."""
    batch: list[Document] = []
    characters = 0
    for document in found:
        if isinstance(document, Document):
            batch.append(document)
            characters += len(document.text)
            if len(batch) == _BATCH_DOCUMENTS or characters >= _BATCH_CHARACTERS:
                yield batch
                batch, characters = [], 0
    if batch:
        yield batch


def shard_file(split: str, index: int, shards: int) -> str:
    """The name of a shard, as TFRecord readers expect it to be called."""
    return f"{split}-{index:05d}-of-{shards:05d}.tfrecord"


def _report_piece(file: int, row: int, report: SplitReport | FileReport) -> Piece:
    return REPORTS_FILE, (file, row, TEXT_REPORT.dump_json(report) + b"\n")
