"""Text cut into records, each with its line number.

A record is a line; of CSV it ends at a line break outside of quotes. There a field is quoted when it starts with a
quote; a quote that is not closed within `MAX_QUOTED` bytes is an ordinary character, so that a stray one costs its own
neighbourhood and not the rest of the file. A record longer than `MAX_RECORD` bytes is not kept in memory, only its
head, size and hash.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Iterator
from dataclasses import dataclass
from typing import BinaryIO

import numpy as np
from numpy.typing import NDArray

from pipelines.sources.files import read_bytes

Int64 = NDArray[np.int64]

BLOCK_BYTES = 8 << 20
MAX_QUOTED = 1 << 20
MAX_RECORD = 16 << 20
HEAD_BYTES = 64 << 10


def _record_pattern(closing: bytes) -> bytes:
    # Groups are atomic, not repeated possessively: before Python 3.11.5 a repetition of that kind whose last try fails
    # goes on from where the try had come to (CPython issue 106052).
    quoted = rb'"[^"]{0,%d}+(?>(?:""[^"]{0,%d}+)*)%b' % (MAX_QUOTED, MAX_QUOTED, closing)
    field = rb"(?>(?:%b)?)[^,\n]*+" % quoted
    return rb"%b(?>(?:,%b)*)\n" % (field, field)


_RECORD = re.compile(_record_pattern(rb'"'))
# A field that is open where the data ends may be closed by what follows: its record is not complete.
_COMPLETE_RECORDS = re.compile(rb"(?>(?:%b)*)" % _record_pattern(rb'(?:"|\Z)'))


@dataclass(frozen=True, slots=True)
class Records:
    """Consecutive records of one file.

    Record i is `data[start[i]:end[i]]`, without its line break, and starts in line `line[i]` (from 1 on). Empty lines
    are no records.
    """

    data: bytes
    start: Int64
    end: Int64
    line: Int64

    def __len__(self) -> int:
        return len(self.start)

    def __getitem__(self, index: int) -> bytes:
        return self.data[self.start[index] : self.end[index]]

    def part(self, first: int, last: int) -> Records:
        """Records `first` to `last` (exclusive)."""
        return Records(self.data, self.start[first:last], self.end[first:last], self.line[first:last])

    def text(self) -> memoryview:
        """The bytes from the first record's start to the last one's end, line breaks included."""
        return memoryview(self.data)[self.start[0] : self.end[-1]]


@dataclass(frozen=True, slots=True)
class Oversized:
    """A record that is too long to be read: its line, first bytes, size in bytes and sha256 (hexadecimal)."""

    line: int
    head: bytes
    size: int
    sha256: str


def read_records(file: BinaryIO, path: str, *, quotes: bool) -> Iterator[Records | Oversized]:
    """Reads a file as records, some megabytes at a time, from its start (of CSV, the header is the first record).

    Args:
      file: the open file.
      path: its path, for messages.
      quotes: whether a line break may be quoted, as in CSV.
    Raises:
      InputError: the file cannot be read to its end.
    """
    line, carry = 1, b""
    while block := read_bytes(file, BLOCK_BYTES, path):
        data = carry + block
        end = _complete(data, quotes)
        if end:
            yield _cut(data[:end], line, quotes)
            line += data.count(b"\n", 0, end)
        carry = data[end:]
        if len(carry) > MAX_RECORD:
            oversized, carry = _skip(file, path, carry, line)
            line += 1
            yield oversized
    if carry:
        yield _cut(carry if carry.endswith(b"\n") else carry + b"\n", line, quotes)


def _complete(data: bytes, quotes: bool) -> int:
    """Where the last record that surely ends within `data` ends; 0 where none does."""
    if not quotes or b'"' not in data:
        return data.rfind(b"\n") + 1
    match = _COMPLETE_RECORDS.match(data)
    return match.end() if match else 0


def _cut(data: bytes, first_line: int, quotes: bool) -> Records:
    octets = np.frombuffer(data, np.uint8)
    if quotes and b'"' in data:
        end = np.fromiter((match.end() - 1 for match in _RECORD.finditer(data)), np.int64)
        breaks = np.cumsum(octets == ord("\n"))
        line = first_line + np.concatenate(([0], breaks[end[:-1]]))
    else:
        end = np.flatnonzero(octets == ord("\n"))
        line = first_line + np.arange(len(end))
    start = np.concatenate(([0], end[:-1] + 1))
    end = end - ((octets[end - 1] == ord("\r")) & (end > start))
    kept = end > start
    return Records(data, start[kept], end[kept], line[kept])


def _skip(file: BinaryIO, path: str, data: bytes, line: int) -> tuple[Oversized, bytes]:
    head, digest, size = data[:HEAD_BYTES], hashlib.sha256(), 0
    while data:
        text, found, rest = data.partition(b"\n")
        digest.update(text)
        size += len(text)
        if found:
            return Oversized(line, head, size, digest.hexdigest()), rest
        data = read_bytes(file, BLOCK_BYTES, path)
    return Oversized(line, head, size, digest.hexdigest()), b""
