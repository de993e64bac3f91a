"""What batch scoring of series and of texts share: a Beam job that writes a Parquet file for each portion."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any

import apache_beam as beam
import pyarrow as pa
import pyarrow.parquet as pq
from apache_beam.utils.shared import Shared
from pydantic import ValidationError

from flows.saved_model_client import SavedModelClient, resolve_version
from pipelines.beam_job import run_pipeline
from pipelines.sink import replacing
from schemas.dataset import DatasetFolder
from schemas.errors import (
    DatasetError,
    FingerprintMismatch,
    InputError,
    ModelError,
    ServingError,
    ServingUnavailable,
    TidegaugeError,
)
from schemas.section import Section
from schemas.settings_spec import Serving
from schemas.spec import Spec
from schemas.text_dataset import TextDatasetFolder
from schemas.text_spec import TextSpec
from streaming.serving_client import ServingClient

MANIFEST_FILE = "_manifest.json"
DEAD_LETTERS = "_dead-letters"

PATIENCE_S = 60.0
"""How long a worker keeps trying while the server is away."""

_FAILURE_FILE = "_failure.json"
_ERRORS: dict[str, type[TidegaugeError]] = {
    kind.__name__: kind
    for kind in (DatasetError, FingerprintMismatch, InputError, ModelError, ServingError, ServingUnavailable)
}

ScoringClient = SavedModelClient | ServingClient
Shard = tuple[str, int, Path]
"""Of a dataset: its split, its number and its file."""


class ScoredFile(Section):
    """One Parquet file; `path` is relative to the output."""

    path: str
    split: str
    predictions: int

    @classmethod
    def of(cls, path: Path, predictions: int) -> ScoredFile:
        """The file `SPLIT-SHARD-PORTION.parquet`."""
        return cls(path=path.name, split=path.name.rsplit("-", 2)[0], predictions=predictions)


class ScoringJob:
    """One scoring; its model is loaded, or connected to, once a process.

    All predictions are of one version: the one that `model` names or holds as its highest, or the one that the server
    has available now, which is asked by its number from then on.

    Args:
      spec: the stream.
      model: `BASE/NAME` or `BASE/NAME/VERSION`; or ...
      server: ... `host:port` of a model server, where the model has the spec's name.
      beam_args: Beam's options.
    Raises:
      InputError: `server` is no address.
      ModelError: there is no such model.
      FingerprintMismatch: the model was made for other inputs.
      ServingError: the server has not the model.
    """

    def __init__(self, spec: Spec | TextSpec, model: str | None, server: str | None, beam_args: Sequence[str]) -> None:
        self._shared, self._connect = Shared(), _connector(spec, model, server)
        self._held = self._shared.acquire(self._connect)  # so that workers in this process share it
        self._beam_args = beam_args

    def run(
        self,
        folder: Path,
        source: Callable[[beam.Pipeline], beam.PCollection],
        table: Callable[[ScoringClient, Any], pa.Table],
    ) -> None:
        """Predicts.

        Args:
          folder: for the files; the workers must see it under the same path.
          source: reads portions, each with the name of its `file`.
          table: the rows of a portion; is sent to the workers.
        Raises:
          TidegaugeError: a worker's.
        """
        workers = _PredictFn(folder, table, self._shared, self._connect)

        def build(pipeline: beam.Pipeline) -> None:
            _ = source(pipeline) | "Spread" >> beam.Reshuffle() | "Predict" >> beam.ParDo(workers)

        run_pipeline(build, self._beam_args)
        _raise_failure(folder)


class _PredictFn(beam.DoFn):  # type: ignore[misc]
    """Predicts a portion and writes its file."""

    def __init__(
        self,
        folder: Path,
        table: Callable[[ScoringClient, Any], pa.Table],
        shared: Shared,
        connect: Callable[[], ScoringClient],
    ) -> None:
        self._folder, self._table = folder, table
        self._shared, self._connect = shared, connect

    def process(self, portion: Any) -> None:
        """Takes a portion; after a failure, what is left to do is left."""
        if (self._folder / _FAILURE_FILE).exists():
            return
        with telling(self._folder):
            rows = self._table(self._shared.acquire(self._connect), portion)
            with replacing(self._folder / portion.file) as file:
                pq.write_table(rows, file, compression="zstd")


@contextmanager
def telling(folder: Path) -> Iterator[None]:
    """Tells of a worker's failure by a file: its exception would be a traceback in somebody's log."""
    try:
        yield
    except TidegaugeError as exc:
        with replacing(folder / _FAILURE_FILE) as file:
            file.write(json.dumps({"kind": type(exc).__name__, "message": str(exc)}).encode())


def shards(dataset: DatasetFolder | TextDatasetFolder) -> list[Shard]:
    """All shards of a dataset."""
    return [
        (split, number, path.absolute())
        for split in dataset.manifest.splits
        for number, path in enumerate(dataset.shard_paths(split))
    ]


def write_manifest(folder: Path, summary: Section) -> None:
    """Says, last of all, what was written."""
    (folder / MANIFEST_FILE).write_text(summary.model_dump_json(indent=2) + "\n")


def require_one_source(inputs: Sequence[str], data: str | None, model: str | None, server: str | None) -> None:
    """Checks that it is plain what is to be predicted, and by what.

    Raises:
      InputError: it is not.
    """
    if bool(inputs) == bool(data) or bool(model) == bool(server):
        raise InputError("expected either input files or a dataset, and either a model or a server")


def _connector(spec: Spec | TextSpec, model: str | None, server: str | None) -> Callable[[], ScoringClient]:
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


def _raise_failure(folder: Path) -> None:
    """Raises what `telling` has told of, if anything."""
    path = folder / _FAILURE_FILE
    if path.exists():
        failure = json.loads(path.read_bytes())
        raise _ERRORS.get(failure["kind"], TidegaugeError)(failure["message"])
