"""A dataset with splits of its own, cut from spans: what one model is trained, chosen and gated on.

Spans hold the windows of their intervals whatever they will be used for: all of time is their train split. From them
each retraining cuts its own train, validation and test splits, by date. They hold the same windows as an ingest of all
the events with those splits, and have the same statistics; distributions (`Statistics.sketches`) are of the rows of
those windows.
"""

from __future__ import annotations

import hashlib
import heapq
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field
from itertools import groupby
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
from numpy.typing import NDArray

from flows.dataset_windows import KeyWindows, RecordDecoder, read_tfrecords
from pipelines.blocks import BlockLayout
from pipelines.dataset_writer import building, complete
from pipelines.kernels.grid import Float32
from pipelines.kernels.sketch import ALL_BITS, LEADING_BITS, Sketch
from pipelines.profiles import counts_of
from pipelines.sink import shard_name, shard_of
from pipelines.splits import TRAIN, Splitter
from pipelines.statistics import dataset_statistics, moments_by_feature, touched_rows
from pipelines.tfrecord import frame
from pipelines.validation import validate
from schemas.dataset import DatasetFolder, EventCounts, Manifest, Moments, Shard, Split, span_folders
from schemas.errors import DatasetError
from schemas.spec import Spec
from schemas.split_spec import DateSplit

Bool = NDArray[np.bool_]
Int64 = NDArray[np.int64]

_DAY_MS = 86_400_000


def store_spec(spec: Spec) -> Spec:
    """What spans of a stream are ingested by: nothing but its windows, so they outlive changes of the model."""
    always = {"train": ("0001-01-01", "9000-01-01"), "validation": ("9000-01-01", "9000-01-02")}
    split = DateSplit.model_validate({"by": "dates", **always, "test": ("9000-01-02", "9000-01-03")})
    return Spec(
        stream=spec.stream,
        grid=spec.grid,
        window=spec.window,
        split=split,
        source=spec.source,
        checks=spec.checks,
        kafka=spec.kafka,
    )


def spans_within(store: Path, first_ms: int, last_ms: int) -> list[DatasetFolder]:
    """The spans of a dataset that overlap an interval, oldest first.

    Raises:
      DatasetError: one of them is damaged.
    """
    found = []
    for path in span_folders(store):
        folder = DatasetFolder(path)
        start_ms, end_ms = interval_of(folder)
        if start_ms < last_ms and first_ms < end_ms:
            found.append(folder)
    return sorted(found, key=interval_of)


def interval_of(span: DatasetFolder) -> tuple[int, int]:
    """The interval of a span, epoch milliseconds.

    Raises:
      DatasetError: the dataset is no span.
    """
    if span.manifest.interval_ms is None:
        raise DatasetError(f"{span.path}: expected a span, got a whole dataset")
    return span.manifest.interval_ms


def uncovered(spans: Sequence[DatasetFolder], first_ms: int, last_ms: int) -> list[tuple[int, int]]:
    """The parts of an interval that no span covers, in order; `spans` are those of `spans_within`."""
    found = []
    for start_ms, end_ms in map(interval_of, spans):
        if start_ms > first_ms:
            found.append((first_ms, start_ms))
        first_ms = max(first_ms, end_ms)
    return [*found, (first_ms, last_ms)] if first_ms < last_ms else found


@dataclass(frozen=True, slots=True)
class Cut:
    """What was cut: `days` counts the windows by the UTC day that their horizon ends in, of all splits."""

    manifest: Manifest
    days: dict[str, int]
    keys: int
    """Of the train split."""


def cut_dataset(spec: Spec, spans: Sequence[DatasetFolder], output: Path) -> Cut:
    """Writes a dataset of the block layout.

    Args:
      spec: with a split by dates.
      spans: of `store_spec`, oldest first.
      output: the dataset's folder; one that is there is replaced.
    Raises:
      DatasetError: a span is damaged, or of other windows.
    """
    if not isinstance(spec.split, DateSplit):
        raise DatasetError("$.split: expected dates to cut a dataset by")
    for span in spans:
        span.require_windows_of(spec)
        _require_files(span)
    with building(output, overwrite=True) as folder, ExitStack() as files:
        writer = _Writer(spec, folder, files)
        for key, group in groupby(_merged(spec, spans), key=lambda part: part.key):
            writer.add(key, group)
        files.close()
        manifest = Manifest(
            spec=spec.semantic_document(),
            fingerprint=spec.fingerprint,
            window_fingerprint=spec.window_fingerprint,
            inputs=tuple(span.path.name for span in spans),
            events=_events(spans),
            splits=writer.splits(),
        )
        names = [feature.name for feature in spec.stream.features]
        statistics = dataset_statistics(names, writer.moments).model_copy(
            update={"sketches": {name: counts_of(writer.sketches[name]) for name in sorted(writer.sketches)}}
        )
        complete(folder, spec, manifest, statistics, validate(spec, statistics, None))
    days = {str(np.datetime64(day, "D")): count for day, count in sorted(writer.days.items())}
    return Cut(manifest, days, sum(1 for key in writer.moments if writer.moments[key]))


def _require_files(span: DatasetFolder) -> None:
    """Checks a span's files, whole."""
    for name in span.manifest.splits:
        for shard, path in zip(span.split(name).shards, span.shard_paths(name), strict=True):
            try:
                with path.open("rb") as file:
                    found = hashlib.file_digest(file, "sha256").hexdigest()
            except OSError as exc:
                raise DatasetError(f"{path}: cannot be read: {exc.strerror}") from exc
            if found != shard.sha256:
                raise DatasetError(f"{path}: is not the file that was ingested (its sha256 differs)")


def _merged(spec: Spec, spans: Sequence[DatasetFolder]) -> Iterator[KeyWindows]:
    """The records of all spans by key and time, as each file has them."""
    decoder = RecordDecoder(spec, "block")

    def records(path: Path) -> Iterator[KeyWindows]:
        return map(decoder.decode, read_tfrecords(path))

    paths = [path for span in spans for path in span.shard_paths(TRAIN)]
    return heapq.merge(*map(records, paths), key=lambda part: (part.key.encode(), part.windows.steps.first))


@dataclass
class _File:
    """A shard that is being written."""

    file: BinaryIO
    digest: Any = field(default_factory=hashlib.sha256)
    blocks: int = 0
    windows: int = 0


class _Writer:
    """Lays the windows of one key after the other into the shards of their splits."""

    def __init__(self, spec: Spec, folder: Path, files: ExitStack) -> None:
        self._spec, self._splitter = spec, Splitter(spec, all_origins=False)
        self._layout = BlockLayout(spec)
        self._shards = spec.dataset.shards
        names = (shard_name(split, n, self._shards) for split in self._splitter.names for n in range(self._shards))
        self._open = {name: _File(files.enter_context((folder / name).open("wb"))) for name in names}
        self._windows: dict[str, Counter[str]] = {split: Counter() for split in self._splitter.names}
        self._origins: dict[str, list[int]] = {split: [] for split in self._splitter.names}
        self._features = [feature.name for feature in spec.stream.features]
        self._sketched = [
            (column, feature.name, ALL_BITS if feature.categorical else LEADING_BITS)
            for column, feature in enumerate(spec.stream.features)
            if feature.calendar is None
        ]
        self.moments: dict[str, dict[str, Moments]] = {}
        self.sketches: dict[str, Sketch] = {}
        self.days: Counter[int] = Counter()

    def add(self, key: str, parts: Iterable[KeyWindows]) -> None:
        """Takes all records of a key, oldest first."""
        shard = shard_of(key, self._shards)
        intervals = self._splitter.intervals(key, [])
        train, rows = _Rows(self._spec), _Rows(self._spec)
        for part in parts:
            steps = part.windows.steps
            for split, end in self._splitter.split(part.windows, intervals):
                if not len(end):
                    continue
                rows.add(part, end)
                if split == TRAIN:
                    train.add(part, end)
                self._note(split, key, steps.first + end)
                file = self._open[shard_name(split, shard, self._shards)]
                for block in self._layout.blocks(steps, end):
                    framed = frame(block.encode(key))
                    file.file.write(framed)
                    file.digest.update(framed)
                    file.blocks += 1
                    file.windows += block.windows
        if train.parts:
            self.moments[key] = moments_by_feature(self._features, train.parts)
        for column, name, bits in self._sketched if rows.parts else ():
            seen = [values[observed[:, column], column] for values, observed in rows.parts]
            parts_of = [self.sketches[name]] if name in self.sketches else []
            self.sketches[name] = Sketch.merged([*parts_of, Sketch.of(np.concatenate(seen), bits)])

    def splits(self) -> dict[str, Split]:
        """The splits as the manifest tells them."""
        return {
            split: Split(
                windows=self._windows[split].total(),
                windows_by_key=dict(self._windows[split]),
                first_origin_ms=min(self._origins[split], default=None),
                last_origin_ms=max(self._origins[split], default=None),
                shards=tuple(
                    Shard(
                        path=(name := shard_name(split, number, self._shards)),
                        sha256=self._open[name].digest.hexdigest(),
                        blocks=self._open[name].blocks,
                        windows=self._open[name].windows,
                    )
                    for number in range(self._shards)
                ),
            )
            for split in self._splitter.names
        }

    def _note(self, split: str, key: str, origin_step: Int64) -> None:
        grid, horizon = self._spec.grid, self._spec.window.horizon
        origin_ms = origin_step * grid.step + grid.offset
        self._windows[split][key] += len(origin_ms)
        self._origins[split] += [int(origin_ms[0]), int(origin_ms[-1])]
        day, count = np.unique((origin_ms + horizon * grid.step - 1) // _DAY_MS, return_counts=True)
        self.days.update(dict(zip(day.tolist(), count.tolist(), strict=True)))


class _Rows:
    """The rows that windows of one key touch, each once: those of neighbouring records overlap."""

    def __init__(self, spec: Spec) -> None:
        self._past, self._horizon = spec.window.past, spec.window.horizon
        self._next = -(2**62)
        self.parts: list[tuple[Float32, Bool]] = []

    def add(self, part: KeyWindows, end: Int64) -> None:
        """Takes windows of a record; `end` is as in `pipelines.kernels.windowing.Windows`."""
        steps = part.windows.steps
        touched = touched_rows(len(steps), end, self._past, self._horizon)
        touched[: max(self._next - steps.first, 0)] = False
        if touched.any():
            self._next = steps.first + int(np.flatnonzero(touched)[-1]) + 1
            self.parts.append((steps.values[touched], steps.observed[touched]))


def _events(spans: Sequence[DatasetFolder]) -> EventCounts:
    """What became of the spans' rows, all together."""
    counts = {
        name: sum(getattr(span.manifest.events, name) for span in spans)
        for name in ("rows", "used", "duplicate", "late", "dead")
    }
    reasons = sum((Counter(span.manifest.events.dead_by_reason) for span in spans), Counter[str]())
    return EventCounts(**counts, dead_by_reason=dict(sorted(reasons.items())))
