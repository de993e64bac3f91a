"""What the tokeniser knows of Unicode, as data: version 14.0.0, whatever version Python or a model server has.

`unicode_14.json` is made by `python -m pipelines.kernels.unicode_tables` on a Python with that version. It holds

| member | holds |
|---|---|
| `classes` | [first, last, class]: the class of each assigned code point, see `CharacterClass` |
| `lower` | [upper, lower]: simple (one to one) lower case, from the full mapping of single code points |
| `combining` | [first, last, class]: canonical combining classes that are not 0 |
| `decompositions` | [composed, ...]: full canonical decompositions, without Hangul syllables |
| `compositions` | [first, second, composed]: primary composites, without Hangul syllables |
"""

from __future__ import annotations

import json
import sys
import unicodedata
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from enum import IntEnum
from functools import cache
from itertools import product
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

UNICODE_VERSION = "14.0.0"
CODE_POINTS = 0x110000

_FILE = Path(__file__).with_name("unicode_14.json")
_LEADS, _VOWELS, _TAILS = range(0x1100, 0x1113), range(0x1161, 0x1176), range(0x11A7, 0x11C3)  # tail 0 is none
_SYLLABLES = 0xAC00


class CharacterClass(IntEnum):
    """What a code point is to the tokeniser; an unassigned or private one is SINGLE."""

    SEPARATOR = 0
    """Z*, Cc: ends a word and is no token."""
    WORD = 1
    """L*, M*, N* and Pc but for SINGLE: a run of them is a word."""
    SINGLE = 2
    """P* but for Pc, S*, Cn, Co, and Han, Hiragana, Katakana (written without spaces): a token by itself."""
    DROPPED = 3
    """Cf (joiners, soft hyphens, marks of direction): left out before anything else."""


@dataclass(frozen=True, slots=True)
class UnicodeTables:
    """The tables, unpacked.

    `classes` and `combining` are uint8 (code point,), `assigned` bool (code point,). `decompositions` and
    `compositions` include the Hangul syllables.
    """

    classes: NDArray[np.uint8]
    assigned: NDArray[np.bool_]
    combining: NDArray[np.uint8]
    lower: dict[int, int]
    decompositions: dict[int, tuple[int, ...]]
    compositions: dict[tuple[int, int], int]

    @property
    def attaching(self) -> NDArray[np.bool_]:
        """bool (code point,): which may be reordered or composed with what is before them."""
        attaching = self.combining > 0
        attaching[[second for _, second in self.compositions]] = True
        return attaching


@cache
def unicode_tables() -> UnicodeTables:
    """The tables of the shipped file."""
    packed = json.loads(_FILE.read_text())
    classes = np.full(CODE_POINTS, CharacterClass.SINGLE, np.uint8)
    assigned = np.zeros(CODE_POINTS, np.bool_)
    for first, last, number in packed["classes"]:
        classes[first : last + 1] = number
        assigned[first : last + 1] = True
    combining = np.zeros(CODE_POINTS, np.uint8)
    for first, last, number in packed["combining"]:
        combining[first : last + 1] = number
    decompositions = {composed: tuple(parts) for composed, *parts in packed["decompositions"]}
    compositions = {(first, second): composed for first, second, composed in packed["compositions"]}
    for lead, vowel in product(_LEADS, _VOWELS):
        open_syllable = _SYLLABLES + ((lead - _LEADS[0]) * len(_VOWELS) + vowel - _VOWELS[0]) * len(_TAILS)
        compositions[lead, vowel] = open_syllable
        decompositions[open_syllable] = (lead, vowel)
        for tail in _TAILS[1:]:
            syllable = open_syllable + tail - _TAILS[0]
            compositions[open_syllable, tail] = syllable
            decompositions[syllable] = (lead, vowel, tail)
    return UnicodeTables(classes, assigned, combining, dict(packed["lower"]), decompositions, compositions)


def ranges(flags: NDArray[np.bool_]) -> Iterator[tuple[int, int]]:
    """The runs of set flags: first and last index."""
    edges = np.flatnonzero(np.diff(np.concatenate(([False], flags, [False]))))
    for first, end in edges.reshape(-1, 2).tolist():
        yield first, end - 1


def pack_tables() -> dict[str, Any]:
    """What the file holds, from Python's own Unicode database.

    Raises:
      RuntimeError: that is of another version.
    """
    if unicodedata.unidata_version != UNICODE_VERSION:
        raise RuntimeError(f"expected Unicode {UNICODE_VERSION}, got {unicodedata.unidata_version}")
    characters = [chr(code) for code in range(CODE_POINTS)]
    decomposed = {
        code: [ord(part) for part in unicodedata.normalize("NFD", character)]
        for code, character in enumerate(characters)
        if unicodedata.normalize("NFD", character) != character and not _is_hangul(code)
    }
    pairs = [
        [*map(ord, parts), code]
        for code in decomposed
        if len(parts := _canonical_parts(code)) == 2 and unicodedata.normalize("NFC", characters[code]) == chr(code)
    ]
    return {
        "version": UNICODE_VERSION,
        "classes": _runs(lambda code: _class_of(characters[code])),
        "lower": [
            [code, ord(low)] for code in range(CODE_POINTS) if len(low := chr(code).lower()) == 1 and ord(low) != code
        ],
        "combining": _runs(lambda code: unicodedata.combining(characters[code]) or None),
        "decompositions": [[code, *parts] for code, parts in decomposed.items()],
        "compositions": pairs,
    }


def _runs(value_of: Callable[[int], int | None]) -> list[list[int]]:
    runs: list[list[int]] = []
    for code in range(CODE_POINTS):
        value = value_of(code)
        if value is None:
            continue
        if runs and runs[-1][1] == code - 1 and runs[-1][2] == value:
            runs[-1][1] = code
        else:
            runs.append([code, code, int(value)])
    return runs


def _class_of(character: str) -> CharacterClass | None:
    category = unicodedata.category(character)
    if category == "Cn":
        return None
    if category in ("Cc", "Zs", "Zl", "Zp"):
        return CharacterClass.SEPARATOR
    if category == "Cf":
        return CharacterClass.DROPPED
    spaceless = unicodedata.name(character, "").startswith(
        ("CJK UNIFIED", "CJK COMPATIBILITY I", "HIRAGANA", "KATAKANA")
    )
    if (category[0] in "LMN" and not spaceless) or category == "Pc":
        return CharacterClass.WORD
    return CharacterClass.SINGLE


def _canonical_parts(code: int) -> str:
    mapping = unicodedata.decomposition(chr(code))
    return "" if mapping.startswith("<") else "".join(chr(int(part, 16)) for part in mapping.split())


def _is_hangul(code: int) -> bool:
    return _SYLLABLES <= code < _SYLLABLES + len(_LEADS) * len(_VOWELS) * len(_TAILS)


if __name__ == "__main__":
    json.dump(pack_tables(), sys.stdout, separators=(",", ":"))
    sys.stdout.write("\n")
