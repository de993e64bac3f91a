"""Files with the same bytes on every run: what belongs to one file is grouped, sorted, written aside and renamed.

Beam's own file sinks spread records over shards as they come, so neither the order nor the membership repeats.
"""

from __future__ import annotations

import hashlib
import os
import uuid
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import BinaryIO

import apache_beam as beam

from pipelines.reports import ShardReport, encode_report
from schemas.dataset import Shard

Record = tuple[bytes, int, int, bytes]
"""Key (UTF-8), first step, number of windows, framed bytes: in this order, which is that of the file."""

SHARD_HASH_BYTES = 8


def shard_of(key: str, shards: int) -> int:
    """The shard of a key; the same on every machine, unlike Python's `hash`."""
    digest = hashlib.blake2b(key.encode(), digest_size=SHARD_HASH_BYTES).digest()
    return int.from_bytes(digest, "little") % shards


def shard_name(split: str, index: int, shards: int) -> str:
    """The file of a shard, as TFRecord readers expect it to be called."""
    return f"{split}-{index:05d}-of-{shards:05d}.tfrecord"


def write_shard(folder: Path, name: str, records: Iterable[Record]) -> Shard:
    """Writes one shard, its records by key and first step."""
    digest, blocks, windows = hashlib.sha256(), 0, 0
    with replacing(folder / name) as file:
        for _, _, of_block, framed in sorted(records, key=lambda record: record[:2]):
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

    def __init__(self, folder: str) -> None:
        self._folder = Path(folder)

    def process(self, element: tuple[str, Iterable[Record]]) -> Iterator[bytes]:
        """Takes (file name, records)."""
        name, records = element
        yield encode_report(ShardReport(shard=write_shard(self._folder, name, records)))


class WriteLinesFn(beam.DoFn):  # type: ignore[misc]
    """Writes (order, lines) of one file, in that order."""

    def __init__(self, folder: str) -> None:
        self._folder = Path(folder)

    def process(self, element: tuple[str, Iterable[tuple[int, bytes]]]) -> None:
        """Takes (file name, pieces of it)."""
        name, pieces = element
        with replacing(self._folder / name) as file:
            for _, lines in sorted(pieces):
                file.write(lines)
