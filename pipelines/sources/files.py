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
from urllib.parse import unquote

import pyarrow as pa
from apache_beam.io.filesystem import BeamIOError, CompressionTypes
from apache_beam.io.filesystems import FileSystems

from schemas.errors import InputError

_GZIP_MAGIC = b"\x1f\x8b"
_ZSTD_MAGIC = b"\x28\xb5\x2f\xfd"


@dataclass(frozen=True, slots=True)
class InputFile:
    """One file to read.

    `index` is its place in the input, which orders events of the same key and time; `columns` are the names and values
    that the `name=value` folders of its path give to all of its rows.
    """

    index: int
    path: str
    columns: tuple[tuple[str, str], ...] = ()

    @property
    def name(self) -> str:
        """The path without folders."""
        return self.path.replace("\\", "/").rstrip("/").rpartition("/")[2]


def match_files(patterns: Sequence[str]) -> tuple[InputFile, ...]:
    """The files that paths, folders and glob patterns name: patterns in the order given, files of one by name.

    A folder stands for all files in it and below, except hidden ones (`.name`, `_name`). A file that several patterns
    name is read once, at its first place.

    Raises:
      InputError: a pattern that names no file.
    """
    if not patterns:
        raise InputError("expected at least one input file or pattern, got none")
    paths: dict[str, tuple[tuple[str, str], ...]] = {}
    for pattern in patterns:
        matched = sorted(_below(pattern) or _matches(pattern))
        if not matched:
            raise InputError(f"{pattern}: expected an input file, got {_absence(pattern)}")
        for path in matched:
            paths.setdefault(path, _partition_columns(path))
    return tuple(InputFile(index, path, columns) for index, (path, columns) in enumerate(paths.items()))


def _matches(pattern: str) -> list[str]:
    try:
        [found] = FileSystems.match([pattern])
    except (BeamIOError, ValueError, OSError) as exc:
        raise InputError(f"{pattern}: expected a file or pattern that can be listed, got {exc}") from exc
    return [file.path for file in found.metadata_list]


def _below(folder: str) -> list[str]:
    """The files in a folder and its folders; none where it is no folder."""
    if _is_pattern(folder):
        return []
    root = f"{folder.rstrip('/')}/"
    below = ((path, path.removeprefix(root).split("/")) for path in _matches(f"{root}**"))
    return [path for path, parts in below if not any(part.startswith((".", "_")) for part in parts)]


def _is_pattern(path: str) -> bool:
    return any(mark in path for mark in "*?[")


def _partition_columns(path: str) -> tuple[tuple[str, str], ...]:
    folders = path.replace("\\", "/").split("/")[:-1]
    pairs = [folder.partition("=") for folder in folders]
    return tuple((unquote(name), unquote(value)) for name, mark, value in pairs if mark and name)


def _absence(pattern: str) -> str:
    return "a pattern that no file matches" if _is_pattern(pattern) else "no such file"


@contextmanager
def open_raw(path: str) -> Iterator[BinaryIO]:
    """An open file, its bytes as they are.

    Raises:
      InputError: it cannot be opened.
    """
    with ExitStack() as stack:
        try:
            raw = stack.enter_context(FileSystems.open(path, compression_type=CompressionTypes.UNCOMPRESSED))
            file = raw if isinstance(raw, io.BufferedReader) else io.BufferedReader(raw)
        except (BeamIOError, OSError) as exc:
            raise InputError(f"{path}: expected a readable file, got {_reason(exc)}") from exc
        yield cast(BinaryIO, file)


@contextmanager
def open_input(path: str) -> Iterator[BinaryIO]:
    """An open file; what starts as gzip or zstd is decompressed, whatever its name.

    Raises:
      InputError: it cannot be opened.
    """
    with open_raw(path) as file:
        try:
            magic = cast(io.BufferedReader, file).peek(4)[:4]
        except (BeamIOError, OSError) as exc:
            raise InputError(f"{path}: expected a readable file, got {_reason(exc)}") from exc
        if magic.startswith(_GZIP_MAGIC):
            yield cast(BinaryIO, gzip.GzipFile(fileobj=file))
        elif magic == _ZSTD_MAGIC:
            yield cast(BinaryIO, pa.CompressedInputStream(pa.PythonFile(file, "r"), "zstd"))
        else:
            yield file


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
        raise InputError(f"{path}: expected a readable file, got {_reason(exc)}") from exc


def _reason(exc: Exception) -> object:
    return getattr(exc, "strerror", None) or exc
