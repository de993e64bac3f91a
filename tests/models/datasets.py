"""Dataset folders laid by hand: windows of the kernel, one `tf.train.Example` for each block."""

from __future__ import annotations

import hashlib
import math
from collections.abc import Mapping
from pathlib import Path

import numpy as np
import tensorflow as tf
from numpy.typing import NDArray

from pipelines.kernels.grid import Events
from pipelines.kernels.windowing import Windowing, Windows
from schemas.dataset import DatasetFolder, EventCounts, Manifest, Moments, Shard, Split, Statistics
from schemas.spec import Spec
from schemas.split_spec import SPLITS, DateSplit

Series = Mapping[str, tuple[NDArray[np.int64], NDArray[np.float64]]]
"""For each key: event times int64 (event,) in ms, and values float64 (event, carried feature)."""


def lay_dataset(folder: Path, spec: Spec, series: Series, *, block_windows: int = 50, shards: int = 1) -> DatasetFolder:
    """Writes a complete dataset of the spec's splits and opens it."""
    windowing = Windowing(spec)
    runs = {key: windowing.push(windowing.empty(), _events(*events), None)[1] for key, events in series.items()}
    folder.mkdir(parents=True)
    splits = {}
    for name in SPLITS:
        chosen = {
            key: [(run, run.end[windowing.labelled(run) & _within(spec, name, run)]) for run in runs[key]]
            for key in sorted(runs)
        }
        splits[name] = _write_split(folder, spec, name, chosen, block_windows, shards)
    manifest = Manifest(
        spec=spec.semantic_document(),
        fingerprint=spec.fingerprint,
        window_fingerprint=spec.window_fingerprint,
        inputs=("memory",),
        events=EventCounts(rows=0, used=0, duplicate=0, late=0, dead=0),
        splits=splits,
    )
    (folder / "stats.json").write_text(_statistics(spec, runs).model_dump_json())
    return seal(folder, manifest)


def seal(folder: Path, manifest: Manifest) -> DatasetFolder:
    """Writes the manifest and what says that the dataset is complete."""
    text = manifest.model_dump_json()
    (folder / "manifest.json").write_text(text)
    (folder / "COMPLETED").write_text(hashlib.sha256(text.encode()).hexdigest() + "\n")
    return DatasetFolder(folder)


def _events(time_ms: NDArray[np.int64], values: NDArray[np.float64]) -> Events:
    return Events(time_ms, np.arange(len(time_ms), dtype=np.int64), values)


def _within(spec: Spec, split: str, run: Windows) -> NDArray[np.bool_]:
    assert isinstance(spec.split, DateSplit)
    start, end = spec.split.interval(split)
    origin_ms = run.origin_step * spec.grid.step + spec.grid.offset
    return np.asarray((origin_ms >= start) & (origin_ms + spec.window.horizon * spec.grid.step <= end))


def _write_split(
    folder: Path,
    spec: Spec,
    name: str,
    chosen: Mapping[str, list[tuple[Windows, NDArray[np.int64]]]],
    block_windows: int,
    shards: int,
) -> Split:
    paths = [f"{name}-{index:05d}-of-{shards:05d}.tfrecord" for index in range(shards)]
    writers = [tf.io.TFRecordWriter(str(folder / path)) for path in paths]
    blocks, windows, by_key, origins = [0] * shards, [0] * shards, {}, []
    for key, key_runs in chosen.items():
        by_key[key] = sum(len(ends) for _, ends in key_runs)
        for run, ends in key_runs:
            for first in range(0, len(ends), block_windows):
                part = ends[first : first + block_windows]
                shard = sum(blocks) % shards
                writers[shard].write(_example(spec, key, run, part).SerializeToString(deterministic=True))
                blocks[shard] += 1
                windows[shard] += len(part)
                origins += ((run.steps.first + part) * spec.grid.step + spec.grid.offset).tolist()
    for writer in writers:
        writer.close()
    return Split(
        windows=sum(windows),
        windows_by_key=by_key,
        first_origin_ms=min(origins, default=None),
        last_origin_ms=max(origins, default=None),
        shards=tuple(
            Shard(
                path=path,
                sha256=hashlib.sha256((folder / path).read_bytes()).hexdigest(),
                blocks=blocks[index],
                windows=windows[index],
            )
            for index, path in enumerate(paths)
        ),
    )


def _example(spec: Spec, key: str, run: Windows, ends: NDArray[np.int64]) -> tf.train.Example:
    """The block of the windows that end before rows `ends`, with every candidate between the first and the last."""
    past, horizon = spec.window.past, spec.window.horizon
    rows = slice(int(ends[0]) - past, int(ends[-1]) + horizon)
    values, observed = run.steps.values[rows], run.steps.observed[rows]
    origins = np.isin(np.arange(ends[0], ends[-1] + 1), ends)

    def octets(value: bytes) -> tf.train.Feature:
        return tf.train.Feature(bytes_list=tf.train.BytesList(value=[value]))

    feature = {
        "key": octets(key.encode()),
        "first_step": tf.train.Feature(int64_list=tf.train.Int64List(value=[run.steps.first + rows.start])),
        "values": octets(values.astype("<f4").tobytes()),
    }
    if not observed.all():
        feature["observed"] = octets(np.packbits(observed, bitorder="little").tobytes())
    if not origins.all():
        feature["origins"] = octets(np.packbits(origins, bitorder="little").tobytes())
    return tf.train.Example(features=tf.train.Features(feature=feature))


def _statistics(spec: Spec, runs: Mapping[str, list[Windows]]) -> Statistics:
    assert isinstance(spec.split, DateSplit)
    start, end = spec.split.interval("train")
    carried = {feature.name: index for index, feature in enumerate(spec.stream.features) if feature.calendar is None}
    cells: dict[str, dict[str, list[float]]] = {}
    for key, key_runs in runs.items():
        for run in key_runs:
            time_ms = (run.steps.first + np.arange(len(run.steps))) * spec.grid.step + spec.grid.offset
            inside = (time_ms >= start) & (time_ms < end)
            for name, column in carried.items():
                seen = inside & run.steps.observed[:, column]
                cells.setdefault(key, {}).setdefault(name, []).extend(run.steps.values[seen, column].tolist())
    together = {name: [value for key in cells for value in cells[key][name]] for name in carried}
    return Statistics(
        features={name: _moments(values) for name, values in together.items() if values},
        keys={key: {name: _moments(values) for name, values in by.items() if values} for key, by in cells.items()},
    )


def _moments(values: list[float]) -> Moments:
    mean = math.fsum(values) / len(values)
    std = math.sqrt(math.fsum((value - mean) ** 2 for value in values) / len(values))
    return Moments(count=len(values), mean=mean, std=std, min=min(values), max=max(values))
