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

import json
import shutil
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import apache_beam as beam
import pyarrow.parquet as pq
from apache_beam.utils.shared import Shared
from pydantic import ValidationError

from flows.dataset_windows import RecordDecoder, read_tfrecords
from flows.prediction_table import prediction_table
from flows.saved_model_client import SavedModelClient, resolve_version
from pipelines.beam_job import run_pipeline
from pipelines.dataset_writer import building
from pipelines.ingest import DEAD_LETTERS_FOLDER, ingest
from pipelines.kernels.windowing import Windowing
from pipelines.sink import replacing
from schemas.dataset import DatasetFolder, EventCounts
from schemas.errors import (
    DatasetError,
    FingerprintMismatch,
    InputError,
    ModelError,
    ServingError,
    ServingUnavailable,
    TidegaugeError,
)
from schemas.prediction import ModelVersion
from schemas.section import Section
from schemas.settings_spec import Serving
from schemas.spec import Spec, require_targets
from schemas.text_spec import TextSpec
from streaming.model_client import ModelClient
from streaming.predictor import Predictor
from streaming.serving_client import ServingClient

MANIFEST_FILE = "_manifest.json"
DEAD_LETTERS = "_dead-letters"

PORTION_WINDOWS = 16_384
"""A portion ends with the record in which it comes to so many windows."""
PATIENCE_S = 60.0
"""How long a worker keeps trying while the server is away."""

_WINDOWS_FOLDER = "_windows"
_FAILURE_FILE = "_failure.json"
_ERRORS: dict[str, type[TidegaugeError]] = {
    kind.__name__: kind
    for kind in (DatasetError, FingerprintMismatch, InputError, ModelError, ServingError, ServingUnavailable)
}


class ScoredFile(Section):
    """One Parquet file; `path` is relative to the output."""

    path: str
    split: str
    predictions: int


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

    All predictions are of one version: the one that `model` names or holds as its highest, or the one that the server
    has available at the start, which is asked by its number from then on.

    Args:
      spec: the stream.
      output: a new folder. It is there, whole, when the job has succeeded, and not at all otherwise.
      inputs: files or patterns, whose every origin is predicted; or ...
      data: ... a dataset, of which the windows of all splits are.
      model: `BASE/NAME` or `BASE/NAME/VERSION`, which each worker process loads once; or ...
      server: ... `host:port` of a model server, where the model has the spec's name.
      beam_args: Beam's options; the workers must see `output` under the same path.
    Raises:
      SpecError: the stream has no target.
      InputError: a file cannot be used.
      DatasetError: the dataset is incomplete or of other windows, or `output` is in use.
      ModelError: there is no such model.
      FingerprintMismatch: the model was made for other windows.
      ServingError: the server has not the model, refuses, or stayed away.
    """
    if bool(inputs) == bool(data) or bool(model) == bool(server):
        raise InputError("expected either input files or a dataset, and either a model or a server")
    require_targets(spec, "score")
    given = DatasetFolder(data) if data else None
    if given:
        given.require_windows_of(spec)
    shared, connect = Shared(), connector(spec, model, server)
    client = shared.acquire(connect)  # held until the end, so that workers in this process share it
    with building(Path(output).absolute(), overwrite=False) as folder:
        dataset = given or _ingest(spec, inputs, folder / _WINDOWS_FOLDER, beam_args)
        decoder = RecordDecoder(dataset.spec, dataset.manifest.layout)
        workers = ScoreFn(spec, decoder, folder, shared, connect)
        run_pipeline(lambda pipeline: _build(pipeline, dataset, decoder, workers), beam_args)
        raise_failure(workers.failure)
        summary = _summary(spec, dataset, folder)
        if not given:
            if (dataset.path / DEAD_LETTERS_FOLDER).is_dir():
                (dataset.path / DEAD_LETTERS_FOLDER).rename(folder / DEAD_LETTERS)
            shutil.rmtree(dataset.path)
        (folder / MANIFEST_FILE).write_text(summary.model_dump_json(indent=2) + "\n")
    del client
    return summary


class ReadPortionsFn(beam.DoFn):  # type: ignore[misc]
    """Cuts the shards of a dataset into portions."""

    def __init__(self, decoder: RecordDecoder, failure: Path) -> None:
        self._decoder, self._failure = decoder, failure

    def process(self, element: tuple[str, int, Path]) -> Iterator[Portion]:
        """Takes (split, number of the shard, its file)."""
        split, shard, path = element
        records: list[bytes] = []
        windows = number = 0
        with telling(self._failure):
            for record in read_tfrecords(path):
                records.append(record)
                windows += len(self._decoder.decode(record).windows)
                if windows >= PORTION_WINDOWS:
                    yield Portion(f"{split}-{shard:05d}-{number:05d}.parquet", tuple(records))
                    records, windows, number = [], 0, number + 1
            if records:
                yield Portion(f"{split}-{shard:05d}-{number:05d}.parquet", tuple(records))


class ScoreFn(beam.DoFn):  # type: ignore[misc]
    """Predicts the windows of a portion and writes its file."""

    def __init__(
        self, spec: Spec, decoder: RecordDecoder, folder: Path, shared: Shared, connect: Callable[[], ModelClient]
    ) -> None:
        self._spec, self._decoder, self._folder = spec, decoder, folder
        self._shared, self._connect = shared, connect
        self.failure = folder / _FAILURE_FILE

    def process(self, portion: Portion) -> None:
        """Takes a portion; after a failure, what is left to do is left."""
        if self.failure.exists():
            return
        with telling(self.failure):
            client = self._shared.acquire(self._connect)
            predictor = Predictor(self._spec, Windowing(self._spec), client, patience_s=PATIENCE_S)
            found = [self._decoder.decode(record) for record in portion.records]
            predictions = predictor.predict([(of_key.key, of_key.windows) for of_key in found])
            with replacing(self._folder / portion.file) as file:
                pq.write_table(prediction_table(self._spec, predictions), file, compression="zstd")


@contextmanager
def telling(failure: Path) -> Iterator[None]:
    """Tells of a failure by a file: a worker's exception would be a traceback in somebody's log."""
    try:
        yield
    except TidegaugeError as exc:
        with replacing(failure) as file:
            file.write(json.dumps({"kind": type(exc).__name__, "message": str(exc)}).encode())


def _build(pipeline: beam.Pipeline, dataset: DatasetFolder, decoder: RecordDecoder, workers: ScoreFn) -> None:
    shards = [
        (split, number, path.absolute())
        for split in dataset.manifest.splits
        for number, path in enumerate(dataset.shard_paths(split))
    ]
    _ = (
        pipeline
        | "Shards" >> beam.Create(shards)
        | "ReadPortions" >> beam.ParDo(ReadPortionsFn(decoder, workers.failure))
        | "Spread" >> beam.Reshuffle()
        | "Score" >> beam.ParDo(workers)
    )


def connector(
    spec: Spec | TextSpec, model: str | None, server: str | None
) -> Callable[[], SavedModelClient | ServingClient]:
    """How to get the client of one version; checks that there is one."""
    if model:
        return partial(SavedModelClient, spec, resolve_version(Path(model)).absolute())
    try:
        serving = Serving.model_validate(spec.serving.model_dump(mode="json") | {"address": server})
    except ValidationError as exc:
        raise InputError(f"expected HOST:PORT of a model server, got '{server}'") from exc
    with ServingClient(spec.model_copy(update={"serving": serving})) as client:
        version = client.wait_until_available(0)
    pinned = serving.model_copy(update={"version": version})
    return partial(ServingClient, spec.model_copy(update={"serving": pinned}))


def _ingest(spec: Spec, inputs: Sequence[str], output: Path, beam_args: Sequence[str]) -> DatasetFolder:
    ingest(spec, inputs=inputs, output=str(output), beam_args=beam_args, all_origins=True)
    return DatasetFolder(output)


def raise_failure(path: Path) -> None:
    """Raises what `telling` has told of, if anything."""
    if path.exists():
        failure = json.loads(path.read_bytes())
        raise _ERRORS.get(failure["kind"], TidegaugeError)(failure["message"])


def _summary(spec: Spec, dataset: DatasetFolder, folder: Path) -> ScoringSummary:
    paths = sorted(folder.glob("*.parquet"))
    files = tuple(
        ScoredFile(path=path.name, split=path.name.rsplit("-", 2)[0], predictions=pq.read_metadata(path).num_rows)
        for path in paths
    )
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
