"""Spill files: what passes from one stage of a job to the next lies on disk, and what travels are references to it.

So a shuffle moves a few bytes for some hundred kilobytes of data, on every runner. Each bundle writes a file of its
own, under a name that nothing else has, and tells where things lie in it only once the file is whole: a bundle that
dies or runs again leaves a file that nobody refers to. The folder must be one that all workers see.
"""

from __future__ import annotations

import os
import uuid
from pathlib import Path
from types import TracebackType
from typing import Self

Extent = tuple[str, int, int]
"""File name, offset and size of some bytes in the spill folder; a plain tuple, for which Beam has a compact coder."""


_OPEN_FILES = 256


class SpillWriter:
    """Writes one spill file; its extents hold from the end of the `with` block on."""

    def __init__(self, folder: str) -> None:
        self._folder = Path(folder)
        self._name = uuid.uuid4().hex
        self._size = 0

    def __enter__(self) -> Self:
        self._folder.mkdir(parents=True, exist_ok=True)
        self._file = (self._folder / self._name).open("wb")
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self._file.close()
        if kind is not None or not self._size:
            (self._folder / self._name).unlink()

    def append(self, data: bytes) -> Extent:
        """Adds some bytes and returns where they will be."""
        extent = (self._name, self._size, len(data))
        self._file.write(data)
        self._size += len(data)
        return extent


class SpillReader:
    """Reads extents; keeps the files open until the end of the `with` block."""

    def __init__(self, folder: str) -> None:
        self._folder = folder
        self._open: dict[str, int] = {}

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        """Closes all files; reading opens them again."""
        for descriptor in self._open.values():
            os.close(descriptor)
        self._open.clear()

    def read(self, extent: Extent) -> bytes:
        """The bytes of an extent."""
        name, offset, size = extent
        if name not in self._open:
            if len(self._open) >= _OPEN_FILES:
                self.close()
            self._open[name] = os.open(os.path.join(self._folder, name), os.O_RDONLY)
        return os.pread(self._open[name], size, offset)
