"""Files with the same bytes on every run: what belongs to one file is grouped, sorted, written aside and renamed.

Beam's own file sinks spread records over shards as they come, so neither the order nor the membership repeats.
"""

from __future__ import annotations

import hashlib
import os
import uuid
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import BinaryIO

import apache_beam as beam

from pipelines.key_hash import key_hash
from pipelines.reports import ShardReport, encode_report
from pipelines.spill import Extent, SpillReader
from pipelines.window_examples import WindowLayout
from schemas.dataset import Shard
from schemas.spec import Spec

Record = tuple[bytes, int, int, bytes]
"""Key (UTF-8), first step, number of windows, and a block: framed, or packed where its windows are laid one by one."""

SpilledRecord = tuple[bytes, int, int, Extent]
"""A record whose bytes lie in the spill folder. Key and first step give its place in the file."""


def shard_of(key: str, shards: int) -> int:
    """The shard of a key."""
    return key_hash(key) % shards


def shard_name(split: str, index: int, shards: int) -> str:
    """The file of a shard, as TFRecord readers expect it to be called."""
    return f"{split}-{index:05d}-of-{shards:05d}.tfrecord"


Expand = Callable[[str, bytes], Iterable[bytes]]
"""Key and spilled bytes to the framed records that stand for them in a shard."""


def as_spilled(_: str, framed: bytes) -> Iterable[bytes]:
    """What was spilled is what is written."""
    return (framed,)


def write_shard(
    folder: Path, name: str, records: Iterable[SpilledRecord], spill: str, expand: Expand = as_spilled
) -> Shard:
    """Writes one shard, its records by key and first step, out of the spill folder."""
    digest, blocks, windows = hashlib.sha256(), 0, 0
    with replacing(folder / name) as file, SpillReader(spill) as reader:
        for key, _, of_block, extent in sorted(records, key=lambda record: record[:2]):
            for framed in expand(key.decode(), reader.read(extent)):
                file.write(framed)
                digest.update(framed)
            blocks += 1
            windows += of_block
    return Shard(path=name, sha256=digest.hexdigest(), blocks=blocks, windows=windows)


class replacing:  # noqa: N801 - reads as what it does
    """A file to write, which takes the place of `path` when it is whole: a worker may die, or run twice."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._partial = path.with_name(f"{path.name}.{uuid.uuid4().hex}")

    def __enter__(self) -> BinaryIO:
        self._partial.parent.mkdir(parents=True, exist_ok=True)
        self._file = self._partial.open("wb")
        return self._file

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        self._file.close()
        if kind is None:
            os.replace(self._partial, self._path)
        else:
            self._partial.unlink()


class WriteShardFn(beam.DoFn):  # type: ignore[misc]
    """Writes the records of one shard; gives its encoded report."""

    def __init__(self, spec: Spec, folder: str, spill: str) -> None:
        self._spec, self._folder, self._spill = spec, Path(folder), spill

    def setup(self) -> None:
        """Makes what does not travel to workers."""
        self._expand = WindowLayout(self._spec).expand if self._spec.dataset.layout == "window" else as_spilled

    def process(self, element: tuple[str, Iterable[SpilledRecord]]) -> Iterator[bytes]:
        """Takes (file name, records)."""
        name, records = element
        yield encode_report(ShardReport(shard=write_shard(self._folder, name, records, self._spill, self._expand)))


class WriteLinesFn(beam.DoFn):  # type: ignore[misc]
    """Writes lines out of the spill folder to files, those of a file in a given order."""

    def __init__(self, folder: str, spill: str) -> None:
        self._folder, self._spill = Path(folder), spill

    def process(self, element: tuple[str, Iterable[tuple[int, Extent]]]) -> None:
        """Takes (file name, its pieces as (order, extent))."""
        name, pieces = element
        with replacing(self._folder / name) as file, SpillReader(self._spill) as reader:
            for _, extent in sorted(pieces):
                file.write(reader.read(extent))


class WriteReportsFn(beam.DoFn):  # type: ignore[misc]
    """Writes encoded reports, sorted, one a line."""

    def __init__(self, path: str) -> None:
        self._path = Path(path)

    def process(self, element: tuple[None, Iterable[bytes]]) -> None:
        """Takes all reports."""
        with replacing(self._path) as file:
            for report in sorted(element[1]):
                file.write(report + b"\n")
