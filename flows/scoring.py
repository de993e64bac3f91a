"""Batch scoring: files or a dataset to predictions in Parquet, as a Beam job.

    files ─ingest, all origins─▶ dataset ─read─▶ portions of records ─predict─▶ one Parquet file each

The windows are those of the ingest, and the predictions are made by the live path's own `Predictor`: ids, digests and
last observed values are the live path's, bit for bit. A portion is always the same consecutive records of a shard, and
its windows are predicted in the same batches, so that with a SavedModel the files have the same bytes on every run.

    OUTPUT/
      _manifest.json                       `ScoringSummary`; written last
      _dead-letters/                       rows of the input that are no events, where there are any
      SPLIT-SHARD-PORTION.parquet          `flows.prediction_table`, by key and origin within a shard
"""

from __future__ import annotations

import shutil
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import apache_beam as beam
import pyarrow as pa
import pyarrow.parquet as pq

from flows.dataset_windows import RecordDecoder, read_tfrecords
from flows.prediction_table import prediction_table
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
from pipelines.dataset_writer import building
from pipelines.ingest import DEAD_LETTERS_FOLDER, ingest
from pipelines.kernels.windowing import Windowing
from schemas.dataset import DatasetFolder, EventCounts
from schemas.errors import DatasetError
from schemas.prediction import ModelVersion
from schemas.section import Section
from schemas.spec import Spec
from streaming.predictor import Predictor

PORTION_WINDOWS = 16_384
"""A portion ends with the record in which it comes to so many windows."""

_WINDOWS_FOLDER = "_windows"


class ScoringSummary(Section):
    """What a scoring wrote."""

    format: int = 1
    stream: str
    model: ModelVersion
    predictions: int
    events: EventCounts
    """Of the files that the windows come from."""
    files: tuple[ScoredFile, ...]


@dataclass(frozen=True, slots=True)
class Portion:
    """Consecutive records of one shard: the records, and the file for their predictions."""

    file: str
    records: tuple[bytes, ...]


def score(
    spec: Spec,
    *,
    output: str,
    inputs: Sequence[str] = (),
    data: str | None = None,
    model: str | None = None,
    server: str | None = None,
    beam_args: Sequence[str] = (),
) -> ScoringSummary:
    """Predicts every window of files or of a dataset.

    All predictions are of one version; see `flows.scoring_job.ScoringJob`.

    Args:
      spec: the stream.
      output: a new folder. It is there, whole, when the job has succeeded, and not at all otherwise.
      inputs: files or patterns, whose every origin is predicted; or ...
      data: ... a dataset, of which the windows of all splits are.
      model: `BASE/NAME` or `BASE/NAME/VERSION`, which each worker process loads once; or ...
      server: ... `host:port` of a model server, where the model has the spec's name.
      beam_args: Beam's options; the workers must see `output` under the same path.
    Raises:
      InputError: a file cannot be used.
      DatasetError: the dataset is incomplete or of other windows, or `output` is in use.
      ModelError: there is no such model.
      FingerprintMismatch: the model was made for other windows.
      ServingError: the server has not the model, refuses, or stayed away.
    """
    require_one_source(inputs, data, model, server)
    given = DatasetFolder(data) if data else None
    if given:
        given.require_windows_of(spec)
    job = ScoringJob(spec, model, server, beam_args)
    with building(Path(output).absolute(), overwrite=False) as folder:
        dataset = given or _ingest(spec, inputs, folder / _WINDOWS_FOLDER, beam_args)
        decoder = RecordDecoder(dataset.spec, dataset.manifest.layout)

        def source(pipeline: beam.Pipeline) -> beam.PCollection:
            reader = ReadPortionsFn(decoder, folder)
            return pipeline | "Shards" >> beam.Create(shards(dataset)) | "ReadPortions" >> beam.ParDo(reader)

        job.run(folder, source, partial(_table, spec, decoder))
        summary = _summary(spec, dataset, folder)
        if not given:
            if (dataset.path / DEAD_LETTERS_FOLDER).is_dir():
                (dataset.path / DEAD_LETTERS_FOLDER).rename(folder / DEAD_LETTERS)
            shutil.rmtree(dataset.path)
        write_manifest(folder, summary)
    return summary


class ReadPortionsFn(beam.DoFn):  # type: ignore[misc]
    """Cuts the shards of a dataset into portions."""

    def __init__(self, decoder: RecordDecoder, folder: Path) -> None:
        self._decoder, self._folder = decoder, folder

    def process(self, element: Shard) -> Iterator[Portion]:
        """Takes a shard."""
        split, shard, path = element
        records: list[bytes] = []
        windows = number = 0
        with telling(self._folder):
            for record in read_tfrecords(path):
                records.append(record)
                windows += len(self._decoder.decode(record).windows)
                if windows >= PORTION_WINDOWS:
                    yield Portion(f"{split}-{shard:05d}-{number:05d}.parquet", tuple(records))
                    records, windows, number = [], 0, number + 1
            if records:
                yield Portion(f"{split}-{shard:05d}-{number:05d}.parquet", tuple(records))


def _table(spec: Spec, decoder: RecordDecoder, client: ScoringClient, portion: Portion) -> pa.Table:
    predictor = Predictor(spec, Windowing(spec), client, patience_s=PATIENCE_S)
    found = [decoder.decode(record) for record in portion.records]
    return prediction_table(spec, predictor.predict([(of_key.key, of_key.windows) for of_key in found]))


def _ingest(spec: Spec, inputs: Sequence[str], output: Path, beam_args: Sequence[str]) -> DatasetFolder:
    ingest(spec, inputs=inputs, output=str(output), beam_args=beam_args, all_origins=True)
    return DatasetFolder(output)


def _summary(spec: Spec, dataset: DatasetFolder, folder: Path) -> ScoringSummary:
    paths = sorted(folder.glob("*.parquet"))
    files = tuple(ScoredFile.of(path, pq.read_metadata(path).num_rows) for path in paths)
    count = sum(file.predictions for file in files)
    expected = sum(split.windows for split in dataset.manifest.splits.values())
    if count != expected or not paths:
        raise DatasetError(f"{dataset.path}: expected {expected} windows, as its manifest says, got {count}")
    first = pq.read_table(paths[0], columns=["model_name", "model_version", "window_fingerprint"]).slice(0, 1)
    [(name, version, fingerprint)] = zip(*(column.to_pylist() for column in first.columns), strict=True)
    return ScoringSummary(
        stream=spec.stream.name,
        model=ModelVersion(name, version, fingerprint),
        predictions=count,
        events=dataset.manifest.events,
        files=files,
    )
