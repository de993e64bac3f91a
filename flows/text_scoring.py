"""Batch scoring of texts: documents of files or of a dataset to their classes in Parquet, as a Beam job.

    files or shards ─read─▶ portions of documents ─classify─▶ one Parquet file each

Documents of files need no label; where they have one it goes along. A portion is always the same consecutive documents
of a file, so that with a SavedModel the files have the same bytes on every run.

    OUTPUT/
      _manifest.json                 `TextScoringSummary`; written last
      _dead-letters/                 rows of the input that are no documents, where there are any
      NAME-FILE-PORTION.parquet      in the order of the input

| column | type | |
|---|---|---|
| `id` | string | of the prediction: of the stream, the document's source, and the model's name |
| `source` | string | `file:line` of the document |
| `label`, `score` | string, float | the predicted class, and its score |
| `scores` | fixed_size_list<float>[class] | of all classes, in the order of the schema's metadata `classes` (JSON) |
| `actual` | string | the class that the input tells, or null |
| `model_name`, `model_version`, `window_fingerprint` | string, int64, string | who answered |
"""

from __future__ import annotations

import json
import time
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import apache_beam as beam
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from flows.dataset_windows import read_tfrecords
from flows.scoring_job import (
    DEAD_LETTERS,
    PATIENCE_S,
    ScoredFile,
    ScoringClient,
    ScoringJob,
    Shard,
    require_one_source,
    shards,
    telling,
    write_manifest,
)
from flows.text_predict import batches, text_inputs
from pipelines.dataset_writer import building
from pipelines.sink import replacing
from pipelines.sources.files import InputFile, match_files, open_input
from pipelines.text_source import Document, TextSource
from schemas.errors import DatasetError, InputError, ServingUnavailable
from schemas.prediction import ModelVersion, document_id
from schemas.section import Section
from schemas.text_dataset import TEXT, TEXT_LABEL, TEXT_SOURCE, DocumentCounts, TextDatasetFolder
from schemas.text_spec import TextSpec
from streaming.model_client import Answer
from streaming.serving_protos import Example

PORTION_DOCUMENTS = 4_096
PORTION_CHARACTERS = 16 << 20
"""A portion ends with the document in which it comes to so many of either."""

_REPORTS = "_reports"
_ROLE = "champion"


class TextScoringSummary(Section):
    """What a scoring wrote. `accuracy` is of the documents whose class the input tells, null where there is none."""

    format: int = 1
    stream: str
    model: ModelVersion
    predictions: int
    by_label: dict[str, int]
    accuracy: float | None
    documents: DocumentCounts
    """Of the files or the dataset that the documents come from."""
    files: tuple[ScoredFile, ...]

    def lines(self, output: Path) -> list[str]:
        """The summary in words."""
        by_label = ", ".join(f"{label} {count}" for label, count in self.by_label.items())
        accuracy = "" if self.accuracy is None else f", accuracy {self.accuracy:.2%} where the class is told"
        return [
            f"{output}: {self.predictions} documents by {self.model.name} version {self.model.version}{accuracy}",
            f"rows {self.documents.rows} = used {self.documents.used} + dead {self.documents.dead}",
            by_label,
        ]


@dataclass(frozen=True, slots=True)
class TextPortion:
    """Consecutive documents, each as (source, actual class or empty, text), and the file for their predictions."""

    file: str
    documents: tuple[tuple[str, str, str], ...]


def score_texts(
    spec: TextSpec,
    *,
    output: str,
    inputs: Sequence[str] = (),
    data: str | None = None,
    model: str | None = None,
    server: str | None = None,
    beam_args: Sequence[str] = (),
) -> TextScoringSummary:
    """Classifies every document of files or of a dataset; see `flows.scoring.score`, whose arguments these are.

    Raises:
      InputError: a file cannot be used, or holds no document.
      DatasetError: the dataset is incomplete, or `output` is in use.
      ModelError: there is no such model.
      FingerprintMismatch: the model was made for other texts.
      ServingError: the server has not the model, refuses, or stayed away.
    """
    require_one_source(inputs, data, model, server)
    dataset = TextDatasetFolder(data) if data else None
    files = () if dataset else match_files(inputs)
    job = ScoringJob(spec, model, server, beam_args)
    with building(Path(output).absolute(), overwrite=False) as folder:

        def source(pipeline: beam.Pipeline) -> beam.PCollection:
            if dataset is None:
                (folder / _REPORTS).mkdir()
                return pipeline | "Files" >> beam.Create(files) | "Read" >> beam.ParDo(ReadDocumentsFn(spec, folder))
            reader = ReadShardFn(dataset.manifest.classes, folder)
            return pipeline | "Shards" >> beam.Create(shards(dataset)) | "Read" >> beam.ParDo(reader)

        job.run(folder, source, partial(_table, spec))
        counts = _take_reports(folder / _REPORTS) if dataset is None else dataset.manifest.documents
        summary = _summary(spec, counts, folder)
        write_manifest(folder, summary)
    return summary


class ReadDocumentsFn(beam.DoFn):  # type: ignore[misc]
    """Cuts input files into portions; tells of each file how many rows it had."""

    def __init__(self, spec: TextSpec, folder: Path) -> None:
        self._source, self._folder = TextSource(spec, labelled=False), folder

    def process(self, file: InputFile) -> Iterator[TextPortion]:
        """Takes an input file."""
        dead: list[bytes] = []
        reasons: Counter[str] = Counter()
        used = 0

        def documents() -> Iterator[tuple[str, str, str]]:
            nonlocal used
            for found in self._source.read(opened, file.path):
                if isinstance(found, Document):
                    used += 1
                    yield found.source, found.label, found.text
                else:
                    reasons[found[1].reason] += 1
                    dead.append(found[1].json_line())

        with telling(self._folder), open_input(file.path) as opened:
            yield from _portions(f"{file.name}-{file.index:05d}", documents())
        if dead:
            (self._folder / DEAD_LETTERS).mkdir(exist_ok=True)
            with replacing(self._folder / DEAD_LETTERS / f"{file.index:05d}-{file.name}.jsonl") as letters:
                letters.write(b"".join(dead))
        counts = DocumentCounts(
            rows=used + len(dead), used=used, dead=len(dead), dead_by_reason=dict(sorted(reasons.items()))
        )
        with replacing(self._folder / _REPORTS / f"{file.index:05d}.json") as report:
            report.write(counts.model_dump_json().encode())


class ReadShardFn(beam.DoFn):  # type: ignore[misc]
    """Cuts the shards of a dataset into portions."""

    def __init__(self, classes: Sequence[str], folder: Path) -> None:
        self._classes, self._folder = classes, folder

    def process(self, element: Shard) -> Iterator[TextPortion]:
        """Takes a shard."""
        split, number, path = element

        def documents() -> Iterator[tuple[str, str, str]]:
            for record in read_tfrecords(path):
                feature = Example.FromString(record).features.feature
                source, text = (feature[name].bytes_list.value[0].decode() for name in (TEXT_SOURCE, TEXT))
                yield source, self._classes[feature[TEXT_LABEL].int64_list.value[0]], text

        with telling(self._folder):
            yield from _portions(f"{split}-{number:05d}", documents())


def _ask(client: ScoringClient, texts: Sequence[str]) -> Answer:
    """Asks, and again while the server is away, for `PATIENCE_S`."""
    until, pause = time.monotonic() + PATIENCE_S, 0.1
    while True:
        try:
            return client.ask(text_inputs(texts))()
        except ServingUnavailable:
            if time.monotonic() + pause > until:
                raise
            time.sleep(pause)
            pause = min(2 * pause, 5.0)


def _portions(name: str, documents: Iterator[tuple[str, str, str]]) -> Iterator[TextPortion]:
    waiting: list[tuple[str, str, str]] = []
    characters = number = 0
    for document in documents:
        waiting.append(document)
        characters += len(document[2])
        if len(waiting) == PORTION_DOCUMENTS or characters >= PORTION_CHARACTERS:
            yield TextPortion(f"{name}-{number:05d}.parquet", tuple(waiting))
            waiting, characters, number = [], 0, number + 1
    if waiting:
        yield TextPortion(f"{name}-{number:05d}.parquet", tuple(waiting))


def _table(spec: TextSpec, client: ScoringClient, portion: TextPortion) -> pa.Table:
    sources, actual, texts = zip(*portion.documents, strict=True)
    answers = [_ask(client, part) for part in batches(texts, spec.serving.max_batch)]
    count, version = len(sources), answers[0].version
    labels = np.concatenate([answer.outputs["label"] for answer in answers])
    scores = np.concatenate([answer.outputs["scores"] for answer in answers])
    classes = scores.shape[1]
    columns = {
        "id": pa.array([document_id(spec.stream.name, source, client.model, _ROLE) for source in sources]),
        "source": pa.array(sources),
        "label": pa.array([label.decode() for label in labels]),
        "score": pa.array(scores.max(axis=1)),
        "scores": pa.FixedSizeListArray.from_arrays(pa.array(scores.reshape(-1)), classes),
        "actual": pa.array([label or None for label in actual], pa.string()),
        "model_name": pa.array([client.model] * count),
        "model_version": pa.array([version] * count, pa.int64()),
        "window_fingerprint": pa.array([spec.window_fingerprint] * count),
    }
    names = json.dumps(client.classes(version))
    return pa.table(columns).replace_schema_metadata({"stream": spec.stream.name, "classes": names})


def _take_reports(folder: Path) -> DocumentCounts:
    reports = []
    for path in sorted(folder.iterdir()):
        reports.append(DocumentCounts.model_validate_json(path.read_bytes()))
        path.unlink()
    folder.rmdir()
    reasons = sum((Counter(report.dead_by_reason) for report in reports), Counter[str]())
    return DocumentCounts(
        rows=sum(report.rows for report in reports),
        used=sum(report.used for report in reports),
        dead=sum(report.dead for report in reports),
        dead_by_reason=dict(sorted(reasons.items())),
    )


def _summary(spec: TextSpec, counts: DocumentCounts, folder: Path) -> TextScoringSummary:
    files, by_label = [], Counter[str]()
    told = right = 0
    model: ModelVersion | None = None
    for path in sorted(folder.glob("*.parquet")):
        table = pq.read_table(path, columns=["label", "actual", "model_name", "model_version", "window_fingerprint"])
        label, actual, *who = (column.to_pylist() for column in table.columns)
        model = model or ModelVersion(*(column[0] for column in who))
        files.append(ScoredFile.of(path, len(label)))
        by_label.update(label)
        told += sum(name is not None for name in actual)
        right += sum(one == other for one, other in zip(label, actual, strict=True))
    if model is None:
        raise InputError(f"expected documents to classify, got none in {counts.rows} rows")
    if by_label.total() != counts.used:
        raise DatasetError(f"expected {counts.used} documents, got {by_label.total()}")
    return TextScoringSummary(
        stream=spec.stream.name,
        model=model,
        predictions=by_label.total(),
        by_label=dict(sorted(by_label.items())),
        accuracy=right / told if told else None,
        documents=counts,
        files=tuple(files),
    )
