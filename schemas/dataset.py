"""The dataset folder: what ingest writes and training reads.

    DATASET/
      manifest.json              `Manifest`: spec, fingerprints, counts, files; nothing that differs between two runs
      stats.json                 `Statistics`: what normalisation needs, and what the data are like
      schema.pbtxt               tensorflow-metadata's Schema of one record
      features.pbtxt             ... and of the features
      feature_stats.pb           tensorflow-metadata's DatasetFeatureStatisticsList, for TFDV and Facets
      validation.json            `Validation`: what was checked, and against which dataset
      train-00000-of-00001.tfrecord, validation-..., test-...
      COMPLETED                  written last; without it the folder is no dataset

A dataset that grows by spans holds `spans/START_END/` instead, each a folder as above: a span is there, whole, or it is
not.

A record of the block layout is a `tf.train.Example` with one contiguous stretch of steps of one key, stored once, from
which the reader cuts many windows. Its features (`BLOCK_*`, each with one value):

| name         | type  | holds |
|---|---|---|
| `key`        | bytes | the key, UTF-8 |
| `first_step` | int64 | number of the first row's step |
| `values`     | bytes | float32 little-endian (row, feature), NaN where masked |
| `observed`   | bytes | bits (row, feature), least significant first; left out where all are observed |
| `origins`    | bytes | bits (candidate,), least significant first; left out where every candidate is a window |

A record of the window layout is one window, under the names of the model's inputs (so it is also what the signature
`serving_examples` takes): `past_values` and `past_observed` (past * feature values), `future_values` and
`static_values` where the spec has such features, `target_values` and `target_observed` (horizon * target values), each
in row order; `key` and `origin_ms`. Values are float lists with NaN where masked, masks int64 lists of 0 and 1. Of a
stream with a label the past has no column of it, and in place of the targets there is `label`, int64: the number of the
window's class, -1 where the horizon tells none.

The layout of texts is described in `schemas.text_dataset`.

A block of R rows has R - past - horizon + 1 candidates; candidate i sees rows [i, i + past) and forecasts rows
[i + past, i + past + horizon). Features are in the order of the spec.
"""

from __future__ import annotations

import hashlib
import math
import os
import re
from collections import Counter
from pathlib import Path

from pydantic import ValidationError

from schemas.errors import DatasetError
from schemas.section import Section
from schemas.spec import Spec, parse_spec

BLOCK_KEY = "key"
BLOCK_FIRST_STEP = "first_step"
BLOCK_VALUES = "values"
BLOCK_OBSERVED = "observed"
BLOCK_ORIGINS = "origins"

SPANS_FOLDER = "spans"
MANIFEST_FILE = "manifest.json"
STATISTICS_FILE = "stats.json"
SCHEMA_FILE = "schema.pbtxt"
FEATURES_FILE = "features.pbtxt"
FEATURE_STATISTICS_FILE = "feature_stats.pb"
VALIDATION_FILE = "validation.json"
COMPLETED_FILE = "COMPLETED"
EXPORTED_STATISTICS_FILE = "assets.extra/stats.json"
"""In the folder of a model's version: the statistics of its dataset, without those of keys."""

ALL_ORIGINS = "all"
"""The one split of a dataset without splits: every window, whether or not its horizon has been observed."""


class Shard(Section):
    """One file of a split; `path` is relative to the dataset."""

    path: str
    sha256: str
    blocks: int
    """Stretches of windows that were laid together; of the block layout each is a record."""
    windows: int


class Split(Section):
    """The windows of one split. Origins are epoch milliseconds, both ends included; None where there is no window."""

    windows: int
    windows_by_key: dict[str, int]
    first_origin_ms: int | None
    last_origin_ms: int | None
    shards: tuple[Shard, ...]


class EventCounts(Section):
    """What became of the input's rows; rows = used + duplicate + late + dead."""

    rows: int
    used: int
    duplicate: int
    late: int
    dead: int
    dead_by_reason: dict[str, int] = {}


class Manifest(Section):
    """What a dataset holds."""

    format: int = 1
    layout: str = "block"
    spec: dict[str, object]
    """The semantic sections of the spec, as `Spec.semantic_document` gives them."""
    fingerprint: str
    window_fingerprint: str
    inputs: tuple[str, ...]
    """File names (without folders) of what was read."""
    events: EventCounts
    splits: dict[str, Split]
    interval_ms: tuple[int, int] | None = None
    """Of a span: the half-open interval whose windows it owns."""


class Moments(Section):
    """Of one feature's observed values: count, mean, standard deviation (population), least and greatest value."""

    count: int
    mean: float
    std: float
    min: float
    max: float

    def merged(self, right: Moments) -> Moments:
        """Moments of this sample and another together (Chan, Golub and LeVeque 1979)."""
        count = self.count + right.count
        delta = right.mean - self.mean
        squares = self.count * self.std**2 + right.count * right.std**2 + delta**2 * (self.count * right.count / count)
        return Moments(
            count=count,
            mean=self.mean + delta * (right.count / count),
            std=math.sqrt(squares / count),
            min=min(self.min, right.min),
            max=max(self.max, right.max),
        )


QUANTILE_LEVELS = (0.01, 0.05, 0.25, 0.5, 0.75, 0.95, 0.99)


class FeatureProfile(Section):
    """One feature over the closed steps of a key, or of all keys.

    `steps` reach from a key's first closed step to its last; `missing` of them have no observed value. `quantiles` are
    those of `QUANTILE_LEVELS`, each to within 0.8 % of itself (a category's exactly); there is none, and no `moments`,
    where nothing was observed. A gap is a stretch of missing steps between two observed ones; `longest_constant` is how
    many observed values in a row were the same.
    """

    steps: int
    missing: int
    moments: Moments | None
    quantiles: tuple[float, ...]
    gaps: int
    longest_gap: int
    longest_constant: int


class KeyProfile(Section):
    """One key: its events by outcome, how regularly they came, and its features.

    `interval_ms` is the most frequent time from one event to the next, and `regularity` its share; both None where the
    key has fewer than two times. `stale_ms` is how far its last event is behind the dataset's last.
    """

    used: int
    duplicate: int
    late: int
    first_event_ms: int
    last_event_ms: int
    stale_ms: int = 0
    interval_ms: int | None
    regularity: float | None
    features: dict[str, FeatureProfile]


class SketchCounts(Section):
    """A feature's distribution, as `pipelines.kernels.sketch.Sketch` counts it: buckets ascending, and their counts."""

    bits: int
    bucket: tuple[int, ...]
    count: tuple[int, ...]


class Statistics(Section):
    """What normalisation needs, and what the data are like.

    `features` and `keys` are of observed values of the train split's rows, each row once: by feature, and by key and
    feature; a feature or key without an observed value is left out. The rest is of all closed steps, whatever split:
    `profiles` and `sketches` by feature (calendars left out), `key_profiles` by key.
    """

    features: dict[str, Moments]
    keys: dict[str, dict[str, Moments]]
    profiles: dict[str, FeatureProfile] = {}
    sketches: dict[str, SketchCounts] = {}
    key_profiles: dict[str, KeyProfile] = {}


class Check(Section):
    """One thing that was looked at. `passed` is whether `value` is at most `limit`; with no limit it is only said."""

    name: str
    feature: str | None
    value: float
    limit: float | None
    passed: bool
    detail: str


class Validation(Section):
    """The checks of a dataset; `baseline` is the fingerprint of the dataset that it was compared with."""

    baseline: str | None
    checks: tuple[Check, ...]

    @property
    def failures(self) -> tuple[Check, ...]:
        """The checks that did not pass."""
        return tuple(check for check in self.checks if not check.passed)


class DatasetFolder:
    """A complete dataset on disk: one that was ingested whole, or the spans in it laid end to end.

    Of several spans, `manifest` and `statistics` are of all of them together, without profiles but with sketches.
    `digest` identifies the dataset: the sha256 (hexadecimal) of its manifest, of spans that of their digests.

    Raises:
      DatasetError: the folder is missing, incomplete or damaged.
    """

    def __init__(self, path: str | os.PathLike[str]) -> None:
        self.path = Path(path)
        if spans := span_folders(self.path):
            parts = sorted(map(DatasetFolder, spans), key=lambda part: part.manifest.interval_ms or (0, 0))
            self.manifest = _merged_manifest(parts)
            self.statistics = _merged_statistics(parts)
            self.spec: Spec = parts[0].spec
            self.digest: str = hashlib.sha256("".join(part.digest for part in parts).encode()).hexdigest()
            return
        completed = self._read(COMPLETED_FILE, "is no complete dataset: it was never finished, or is something else")
        manifest = self._read(MANIFEST_FILE, "has no manifest")
        self.digest = hashlib.sha256(manifest).hexdigest()
        if self.digest != completed.decode(errors="replace").strip():
            raise DatasetError(f"{self.path}: {MANIFEST_FILE} is not the one that {COMPLETED_FILE} was written for")
        try:
            self.manifest = Manifest.model_validate_json(manifest)
            self.statistics = Statistics.model_validate_json(self._read(STATISTICS_FILE, "has no statistics"))
        except ValidationError as exc:
            raise DatasetError(f"{self.path}: damaged: {exc.errors(include_url=False)[0]['msg']}") from exc
        self.spec = parse_spec(self.manifest.spec, where=f"{self.path}/{MANIFEST_FILE}")

    def split(self, name: str) -> Split:
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

    def require_windows_of(self, spec: Spec) -> None:
        """Checks that the dataset's windows are the spec's.

        Raises:
          DatasetError: they are not.
        """
        if self.manifest.window_fingerprint != spec.window_fingerprint:
            raise DatasetError(
                f"{self.path}: expected windows {spec.window_fingerprint} (this spec's), "
                f"got {self.manifest.window_fingerprint}; ingest again, or use the spec that made it"
            )

    def _read(self, name: str, problem: str) -> bytes:
        try:
            return (self.path / name).read_bytes()
        except OSError as exc:
            raise DatasetError(f"{self.path}: {problem} ({name}: {exc.strerror})") from exc


def span_folders(path: Path) -> list[Path]:
    """The complete spans of a dataset, in no order; none where it was ingested whole."""
    folders = (marker.parent for marker in path.glob(f"{SPANS_FOLDER}/*/{COMPLETED_FILE}"))
    return [folder for folder in folders if not re.search(r"\.(tmp|old)-", folder.name)]  # of a job that did not end


def _merged_manifest(parts: list[DatasetFolder]) -> Manifest:
    first = parts[0].manifest
    for part in parts[1:]:
        if part.manifest.fingerprint != first.fingerprint or part.manifest.layout != first.layout:
            raise DatasetError(f"{part.path}: expected a span of the spec {first.fingerprint}, got one of another")
    reasons = sum((Counter(part.manifest.events.dead_by_reason) for part in parts), Counter[str]())
    counts = {
        name: sum(getattr(part.manifest.events, name) for part in parts)
        for name in ("rows", "used", "duplicate", "late", "dead")
    }
    return first.model_copy(
        update={
            "inputs": tuple(dict.fromkeys(name for part in parts for name in part.manifest.inputs)),
            "events": EventCounts(**counts, dead_by_reason=dict(sorted(reasons.items()))),
            "splits": {name: _merged_split(parts, name) for name in first.splits},
            "interval_ms": None,
        }
    )


def _merged_split(parts: list[DatasetFolder], name: str) -> Split:
    splits = [part.split(name) for part in parts]
    keys = sum((Counter(split.windows_by_key) for split in splits), Counter[str]())
    return Split(
        windows=sum(split.windows for split in splits),
        windows_by_key=dict(sorted(keys.items())),
        first_origin_ms=min((s.first_origin_ms for s in splits if s.first_origin_ms is not None), default=None),
        last_origin_ms=max((s.last_origin_ms for s in splits if s.last_origin_ms is not None), default=None),
        shards=tuple(
            shard.model_copy(update={"path": f"{SPANS_FOLDER}/{part.path.name}/{shard.path}"})
            for part, split in zip(parts, splits, strict=True)
            for shard in split.shards
        ),
    )


def _merged_statistics(parts: list[DatasetFolder]) -> Statistics:
    features: dict[str, Moments] = {}
    keys: dict[str, dict[str, Moments]] = {}
    for part in parts:
        _add(features, part.statistics.features)
        for key, moments in part.statistics.keys.items():
            _add(keys.setdefault(key, {}), moments)
    return Statistics(features=features, keys=dict(sorted(keys.items())), sketches=_merged_sketches(parts))


def _merged_sketches(parts: list[DatasetFolder]) -> dict[str, SketchCounts]:
    counts: dict[str, Counter[int]] = {}
    bits: dict[str, int] = {}
    for part in parts:
        for name, sketch in part.statistics.sketches.items():
            bits[name] = sketch.bits
            counts.setdefault(name, Counter()).update(dict(zip(sketch.bucket, sketch.count, strict=True)))
    return {
        name: SketchCounts(bits=bits[name], bucket=tuple(sorted(count)), count=tuple(count[b] for b in sorted(count)))
        for name, count in sorted(counts.items())
    }


def _add(total: dict[str, Moments], moments: dict[str, Moments]) -> None:
    for name, part in moments.items():
        total[name] = total[name].merged(part) if name in total else part
