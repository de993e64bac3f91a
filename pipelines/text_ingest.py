"""Ingest of texts: files of documents to a dataset of ids, as a Beam job.

    files ─survey─▶ counts of tokens, labels ─▶ vocabulary, classes ─┐
      └─────────────read again────────────────────────────────────── encode ─▶ shards and reports

Documents pass no shuffle: files are read twice, so that no runner keeps them, and what is made of them goes by way of
the spill folder. Every file has the same bytes on every run and runner: what belongs to a file is grouped and put into
the order of the input.
"""

from __future__ import annotations

import hashlib
import json
import shutil
from collections import Counter
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import apache_beam as beam

from pipelines.beam_job import run_pipeline
from pipelines.dataset_writer import building
from pipelines.kernels.text import choose_vocabulary
from pipelines.kernels.unicode_tables import UNICODE_VERSION
from pipelines.sink import replacing
from pipelines.sources.files import InputFile, match_files
from pipelines.spill import Extent, SpillReader
from pipelines.splits import TRAIN
from pipelines.text_documents import (
    LABELS,
    PIECES,
    REPORTS_FILE,
    TEXT_REPORT,
    EncodeDocumentsFn,
    FileReport,
    Piece,
    SpilledPiece,
    SplitReport,
    SurveyDocumentsFn,
    shard_file,
)
from schemas.dataset import ALL_ORIGINS, COMPLETED_FILE, MANIFEST_FILE
from schemas.errors import InputError
from schemas.split_spec import SPLITS
from schemas.text_dataset import VOCABULARY_FILE, DocumentCounts, Lengths, TextManifest, TextShard, TextSplit
from schemas.text_spec import TextSpec

_CLASSES_FILE = "classes.json"
_SPILL_FOLDER = "spill"


def ingest_texts(
    spec: TextSpec,
    *,
    inputs: Sequence[str],
    output: str,
    beam_args: Sequence[str] = (),
    overwrite: bool = False,
) -> TextManifest:
    """Reads documents from files and writes a dataset (schemas.text_dataset).

    Rows that are no documents go to `dead-letters/` in the dataset, a JSON line each, and are counted. The vocabulary
    is that of the train split, or of all documents where the spec has no splits.

    Args:
      spec: the stream.
      inputs: paths and glob patterns of CSV files and JSON lines (`.jsonl`, `.ndjson`, `.json`), plain or gzipped.
      output: the dataset's folder. It is there, whole, when the job has succeeded, and untouched otherwise.
      beam_args: Beam's options.
      overwrite: replace the dataset that is there.
    Raises:
      InputError: an input is missing or cannot be used, or has no document to train on.
      DatasetError: there is a dataset at `output` already, or something else.
    """
    files = match_files(inputs)
    with building(Path(output), overwrite=overwrite) as folder:
        run_pipeline(lambda pipeline: _build(pipeline, spec, files, folder.absolute()), beam_args)
        shutil.rmtree(folder / _SPILL_FOLDER, ignore_errors=True)  # not there where there is no document
        manifest = _manifest(spec, files, folder)
        text = manifest.model_dump_json(indent=2).encode() + b"\n"
        (folder / MANIFEST_FILE).write_bytes(text)
        (folder / COMPLETED_FILE).write_text(hashlib.sha256(text).hexdigest() + "\n")
    return manifest


class WriteFileFn(beam.DoFn):  # type: ignore[misc]
    """Writes the pieces of a file in their order."""

    def __init__(self, folder: str) -> None:
        self._folder = Path(folder)

    def process(self, element: tuple[str, Iterable[tuple[int, int, bytes]]]) -> None:
        """Takes (file name, pieces)."""
        name, pieces = element
        with replacing(self._folder / name) as file:
            for _, _, piece in sorted(pieces):
                file.write(piece)


class WriteShardFn(beam.DoFn):  # type: ignore[misc]
    """Writes the pieces of a shard in their order, out of the spill folder."""

    def __init__(self, folder: str, spill: str) -> None:
        self._folder, self._spill = Path(folder), spill

    def process(self, element: tuple[str, Iterable[tuple[int, int, Extent]]]) -> None:
        """Takes (file name, spilled pieces)."""
        name, pieces = element
        with replacing(self._folder / name) as file, SpillReader(self._spill) as reader:
            for _, _, extent in sorted(pieces):
                file.write(reader.read(extent))


def _build(pipeline: beam.Pipeline, spec: TextSpec, files: Sequence[InputFile], folder: Path) -> None:
    spill = str(folder / _SPILL_FOLDER)
    to_read = pipeline | "Files" >> beam.Create(files, reshuffle=True)
    survey = to_read | "Survey" >> beam.ParDo(SurveyDocumentsFn(spec)).with_outputs(LABELS, PIECES, main="counts")
    options = spec.text.vocabulary
    vocabulary = (
        survey.counts
        | "TypedCounts" >> beam.Map(lambda counted: counted).with_output_types(tuple[str, int])
        | "SumCounts" >> beam.CombinePerKey(sum)
        | "Frequent" >> beam.Filter(lambda counted: counted[1] >= options.min_count)
        | "MostFrequent"
        >> beam.combiners.Top.Of(options.size, key=lambda counted: (-counted[1], counted[0]), reverse=True)
        | "Vocabulary" >> beam.Map(lambda counts: choose_vocabulary(counts, options))
    )
    classes = (
        survey[LABELS]
        | "DistinctLabels" >> beam.Distinct()
        | "CollectLabels" >> beam.combiners.ToList()
        | "Classes" >> beam.Map(lambda labels: tuple(sorted(labels)))
    )
    encoded = to_read | "Encode" >> beam.ParDo(
        EncodeDocumentsFn(spec, spill), beam.pvalue.AsSingleton(vocabulary), beam.pvalue.AsSingleton(classes)
    ).with_outputs(PIECES, main="shards")
    _ = (
        encoded.shards
        | "TypedShards" >> beam.Map(lambda piece: piece).with_output_types(SpilledPiece)
        | "GroupShards" >> beam.GroupByKey()
        | "WriteShards" >> beam.ParDo(WriteShardFn(str(folder), spill))
    )
    lists = (
        vocabulary | "VocabularyFile" >> beam.Map(lambda tokens: (VOCABULARY_FILE, (0, 0, _json_list(tokens)))),
        classes | "ClassesFile" >> beam.Map(lambda labels: (_CLASSES_FILE, (0, 0, _json_list(labels)))),
    )
    _ = (
        (survey[PIECES], encoded[PIECES], *lists)
        | "Pieces" >> beam.Flatten()
        | "TypedPieces" >> beam.Map(lambda piece: piece).with_output_types(Piece)
        | "GroupFiles" >> beam.GroupByKey()
        | "WriteFiles" >> beam.ParDo(WriteFileFn(str(folder)))
    )


def _manifest(spec: TextSpec, files: Sequence[InputFile], folder: Path) -> TextManifest:
    reports = [TEXT_REPORT.validate_json(line) for line in _take(folder / REPORTS_FILE).splitlines()]
    read = [report for report in reports if isinstance(report, FileReport)]
    if failures := [report.failure for report in read if report.failure]:
        raise InputError("\n".join(failures))
    splits = {
        name: _split(
            spec, folder, name, [part for part in reports if isinstance(part, SplitReport) and part.split == name]
        )
        for name in ((ALL_ORIGINS,) if spec.split is None else SPLITS)
    }
    used = sum(split.documents for split in splits.values())
    rows = sum(report.rows for report in read)
    reasons = sum((Counter(report.dead_by_reason) for report in read), Counter[str]())
    if rows != used + reasons.total():
        raise InputError(
            f"expected {rows - reasons.total()} documents as in the first pass, got {used}: a file changed"
        )
    if not splits[ALL_ORIGINS if spec.split is None else TRAIN].documents:
        raise InputError(
            f"{', '.join(file.path for file in files)}: expected documents to train on, got none of {used}"
        )
    vocabulary = (folder / VOCABULARY_FILE).read_bytes()
    return TextManifest(
        spec=spec.semantic_document(),
        fingerprint=spec.fingerprint,
        window_fingerprint=spec.window_fingerprint,
        unicode=UNICODE_VERSION,
        inputs=tuple(file.name for file in files),
        documents=DocumentCounts(
            rows=rows,
            used=used,
            dead=reasons.total(),
            dead_by_reason=dict(sorted(reasons.items())),
        ),
        classes=tuple(json.loads(_take(folder / _CLASSES_FILE))),
        vocabulary=len(json.loads(vocabulary)),
        vocabulary_sha256=hashlib.sha256(vocabulary).hexdigest(),
        splits=splits,
    )


def _split(spec: TextSpec, folder: Path, name: str, reports: Sequence[SplitReport]) -> TextSplit:
    by_class = sum((Counter(report.by_class) for report in reports), Counter[str]())
    lengths = sum((Counter(report.lengths) for report in reports), Counter[int]())
    shards = []
    for index in range(spec.dataset.shards):
        path = folder / shard_file(name, index, spec.dataset.shards)
        path.touch()  # a shard without documents was not written
        with path.open("rb") as file:
            shards.append(TextShard(path=path.name, sha256=hashlib.file_digest(file, "sha256").hexdigest()))
    return TextSplit(
        documents=by_class.total(),
        documents_by_class=dict(sorted(by_class.items())),
        tokens=sum(length * count for length, count in lengths.items()),
        unknown=sum(report.unknown for report in reports),
        cut=sum(report.cut for report in reports),
        most_rows=max((report.most_rows for report in reports), default=0),
        lengths=_lengths(lengths) if lengths else None,
        shards=tuple(shards),
    )


def _lengths(counts: Counter[int]) -> Lengths:
    ordered, total = sorted(counts), counts.total()

    def quantile(share: float) -> int:
        seen = 0
        for length in ordered:
            seen += counts[length]
            if seen >= share * total:
                break
        return length

    mean = sum(length * count for length, count in counts.items()) / total
    return Lengths(
        mean=mean, min=ordered[0], median=quantile(0.5), p90=quantile(0.9), p99=quantile(0.99), max=ordered[-1]
    )


def _take(path: Path) -> bytes:
    content = path.read_bytes()
    path.unlink()
    return content


def _json_list(values: Sequence[Any]) -> bytes:
    return b"[\n" + b",\n".join(json.dumps(value).encode() for value in values) + b"\n]\n"
