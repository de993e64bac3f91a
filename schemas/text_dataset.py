"""The dataset folder of a stream of texts (layout "text").

    DATASET/
      manifest.json              `TextManifest`
      vocabulary.json            the tokens with ids of their own, a JSON array, one a line; the first has the id 2
      train-00000-of-00001.tfrecord, ...; one split `all` where the spec has no splits
      dead-letters/              rows of the input that are no documents, where there are any
      COMPLETED                  the manifest's sha256, written last

A record is a `tf.train.Example` of one document, with one value each:

| name          | type  | holds |
|---|---|---|
| `text`        | bytes | the document as it came, UTF-8 |
| `source`      | bytes | `file:line` |
| `label`       | int64 | its class: the place in the manifest's `classes` |
| `ids`         | bytes | int32 little-endian (token,) |
| `row_lengths` | bytes | int32 little-endian (row,), the tokens in each row |

Documents are in the order of the input within a shard.
"""

from __future__ import annotations

import hashlib
import json
import os
from pathlib import Path

from pydantic import ValidationError

from schemas.dataset import COMPLETED_FILE, MANIFEST_FILE
from schemas.errors import DatasetError
from schemas.section import Section
from schemas.text_spec import TextSpec, parse_text_spec

TEXT_LAYOUT = "text"
VOCABULARY_FILE = "vocabulary.json"

TEXT = "text"
TEXT_SOURCE = "source"
TEXT_LABEL = "label"
TEXT_IDS = "ids"
TEXT_ROW_LENGTHS = "row_lengths"


class TextShard(Section):
    """One file of a split; `path` is relative to the dataset."""

    path: str
    sha256: str


class Lengths(Section):
    """Of the documents of a split: tokens, after the cut. Quantiles are those of a document that has the length."""

    mean: float
    min: int
    median: int
    p90: int
    p99: int
    max: int


class TextSplit(Section):
    """The documents of one split."""

    documents: int
    documents_by_class: dict[str, int]
    tokens: int
    unknown: int
    """Tokens that are not in the vocabulary."""
    cut: int
    """Documents that were longer than `text.length`."""
    most_rows: int
    lengths: Lengths | None
    """None where there is no document."""
    shards: tuple[TextShard, ...]


class DocumentCounts(Section):
    """What became of the input's rows; rows = used + dead."""

    rows: int
    used: int
    dead: int
    dead_by_reason: dict[str, int] = {}


class TextManifest(Section):
    """What a dataset of texts holds."""

    format: int = 1
    layout: str = TEXT_LAYOUT
    spec: dict[str, object]
    """The semantic sections of the spec."""
    fingerprint: str
    window_fingerprint: str
    unicode: str
    """The version of Unicode whose tables the tokeniser has."""
    inputs: tuple[str, ...]
    """File names (without folders) of what was read."""
    documents: DocumentCounts
    classes: tuple[str, ...]
    vocabulary: int
    """How many tokens have ids of their own."""
    vocabulary_sha256: str
    splits: dict[str, TextSplit]


class TextDatasetFolder:
    """A complete dataset of texts on disk.

    Raises:
      DatasetError: the folder is missing, incomplete, damaged or of another layout.
    """

    def __init__(self, path: str | os.PathLike[str]) -> None:
        self.path = Path(path)
        manifest = self._read(MANIFEST_FILE)
        if hashlib.sha256(manifest).hexdigest() != self._read(COMPLETED_FILE).decode(errors="replace").strip():
            raise DatasetError(f"{self.path}: {MANIFEST_FILE} is not the one that {COMPLETED_FILE} was written for")
        self.digest = hashlib.sha256(manifest).hexdigest()
        """The manifest's, which has those of all files: two datasets with the same digest hold the same."""
        try:
            self.manifest = TextManifest.model_validate_json(manifest)
        except ValidationError as exc:
            problem = exc.errors(include_url=False)[0]["msg"]
            raise DatasetError(f"{self.path}: expected a dataset of the layout 'text': {problem}") from exc
        vocabulary = self._read(VOCABULARY_FILE)
        if hashlib.sha256(vocabulary).hexdigest() != self.manifest.vocabulary_sha256:
            raise DatasetError(f"{self.path}: {VOCABULARY_FILE} is not the one that the dataset was made with")
        self.vocabulary: tuple[str, ...] = tuple(json.loads(vocabulary))
        self.spec: TextSpec = parse_text_spec(self.manifest.spec, where=f"{self.path}/{MANIFEST_FILE}")

    def split(self, name: str) -> TextSplit:
        """The split called `name`.

        Raises:
          DatasetError: there is none.
        """
        if name not in self.manifest.splits:
            raise DatasetError(f"{self.path}: expected a split of {sorted(self.manifest.splits)}, got '{name}'")
        return self.manifest.splits[name]

    def shard_paths(self, name: str) -> list[Path]:
        """The files of a split, in order."""
        return [self.path / shard.path for shard in self.split(name).shards]

    def _read(self, name: str) -> bytes:
        try:
            return (self.path / name).read_bytes()
        except OSError as exc:
            raise DatasetError(f"{self.path}: is no complete dataset ({name}: {exc.strerror})") from exc


def is_text_dataset(path: str | os.PathLike[str]) -> bool:
    """Whether a folder holds a dataset of texts, complete or not."""
    try:
        return bool(json.loads((Path(path) / MANIFEST_FILE).read_bytes())["layout"] == TEXT_LAYOUT)
    except (OSError, ValueError, KeyError, TypeError):
        return False
