"""Input files: which ones a pattern names, and their bytes, decompressed.

Paths are those of Beam's file systems, so an object store works where its Beam extra is installed.
"""

from __future__ import annotations

import gzip
import io
import zlib
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from typing import BinaryIO, cast

from apache_beam.io.filesystem import BeamIOError, CompressionTypes
from apache_beam.io.filesystems import FileSystems

from schemas.errors import InputError

_GZIP_MAGIC = b"\x1f\x8b"


@dataclass(frozen=True, slots=True)
class InputFile:
    """One file to read; `index` is its place in the input, which orders events of the same key and time."""

    index: int
    path: str

    @property
    def name(self) -> str:
        """The path without folders."""
        return self.path.replace("\\", "/").rstrip("/").rpartition("/")[2]


def match_files(patterns: Sequence[str]) -> tuple[InputFile, ...]:
    """The files that paths and glob patterns name: patterns in the order given, files of one pattern by name.

    A file that several patterns name is read once, at its first place.

    Raises:
      InputError: a pattern that names no file.
    """
    if not patterns:
        raise InputError("expected at least one input file or pattern, got none")
    paths: dict[str, None] = {}
    for pattern in patterns:
        try:
            [found] = FileSystems.match([pattern])
        except (BeamIOError, ValueError, OSError) as exc:
            raise InputError(f"{pattern}: expected a file or pattern that can be listed, got {exc}") from exc
        matched = sorted(file.path for file in found.metadata_list)
        if not matched:
            raise InputError(f"{pattern}: expected an input file, got {_absence(pattern)}")
        paths.update(dict.fromkeys(matched))
    return tuple(InputFile(index, path) for index, path in enumerate(paths))


def _absence(pattern: str) -> str:
    return "a pattern that no file matches" if any(mark in pattern for mark in "*?[") else "no such file"


@contextmanager
def open_input(path: str) -> Iterator[BinaryIO]:
    """An open file; what starts as gzip is decompressed, whatever its name.

    Raises:
      InputError: it cannot be opened.
    """
    with ExitStack() as stack:
        try:
            raw = stack.enter_context(FileSystems.open(path, compression_type=CompressionTypes.UNCOMPRESSED))
            file = raw if isinstance(raw, io.BufferedReader) else io.BufferedReader(raw)
            magic = file.peek(len(_GZIP_MAGIC))[: len(_GZIP_MAGIC)]
        except (BeamIOError, OSError) as exc:
            raise InputError(f"{path}: expected a readable file, got {getattr(exc, 'strerror', None) or exc}") from exc
        yield cast(BinaryIO, gzip.GzipFile(fileobj=file) if magic == _GZIP_MAGIC else file)


def read_bytes(file: BinaryIO, size: int, path: str) -> bytes:
    """The next bytes of an open input, `size` of them unless it ends before.

    Raises:
      InputError: the file is truncated or damaged.
    """
    try:
        return file.read(size)
    except EOFError as exc:
        raise InputError(f"{path}: expected whole gzip data, got a file that is cut off") from exc
    except (gzip.BadGzipFile, zlib.error) as exc:
        raise InputError(f"{path}: expected gzip data, got damaged bytes ({exc})") from exc
    except (BeamIOError, OSError) as exc:
        raise InputError(f"{path}: expected a readable file, got {getattr(exc, 'strerror', None) or exc}") from exc
