"""The tokeniser: one definition of how a text becomes ids, for batch and, as tensors, for models (models.text.graph).

1. Code points of the class DROPPED are left out.
2. Canonical decomposition (NFD), simple lower case (where the spec says so), and of more than `MAX_ATTACHING`
   successive code points that attach to what is before them the rest is left out: no writing has them, and they would
   make the next step slow. Then canonical composition (NFC). Equivalent texts so become the same text.
3. Tokens: words and single characters by `CharacterClass`, code points, or bytes of UTF-8. The first `length` count.
4. Ids: 0 pads, 1 is unknown, then the vocabulary; a byte's id is its value + 2.
5. Rows, where the spec has them: every `length` tokens, or sentences. A sentence ends after `SENTENCE_ENDS`.

All tables are of one version of Unicode (`unicode_tables`), whatever version this Python has.
"""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import cache

import numpy as np
from numpy.typing import NDArray

from pipelines.kernels.unicode_tables import UNICODE_VERSION, CharacterClass, ranges, unicode_tables
from schemas.text_spec import FIRST_ID, UNKNOWN_ID, SentenceRows, Text, Vocabulary

Int32 = NDArray[np.int32]

MAX_ATTACHING = 30
SENTENCE_ENDS = ".!?…。！？．｡؟۔।॥։።‽"
"""A token of these ends a sentence, unless the next one is of these too."""


class Normaliser:
    """Steps 1 and 2."""

    def __init__(self, *, lower: bool) -> None:
        tables = unicode_tables()
        self._dropped = dict.fromkeys(np.flatnonzero(tables.classes == CharacterClass.DROPPED).tolist())
        self._lower = tables.lower if lower else {}
        attaching = _character_set(tables.attaching)
        self._attaching = re.compile(f"([{attaching}]{{{MAX_ATTACHING}}})[{attaching}]+")
        self._unassigned = re.compile(f"([{_character_set(~tables.assigned)}]+)")

    def __call__(self, text: str) -> str:
        """The normalised text; it is one of UTF-8, without lone surrogates."""
        if text.isascii():
            return text.lower() if self._lower else text
        text = text.translate(self._dropped)
        if unicodedata.unidata_version == UNICODE_VERSION:
            return self._normalise(text)
        # To a newer Unicode some of these are letters and marks; to ours each stands for itself.
        return "".join(
            part if number % 2 else self._normalise(part) for number, part in enumerate(self._unassigned.split(text))
        )

    def _normalise(self, text: str) -> str:
        decomposed = unicodedata.normalize("NFD", text).translate(self._lower)
        return unicodedata.normalize("NFC", self._attaching.sub(r"\1", decomposed))


@dataclass(frozen=True, slots=True)
class Encoded:
    """A document's ids.

    `ids` int32 (token,); `row_lengths` int32 (row,), whose sum is the number of tokens; `cut` the tokens that were cut
    off.
    """

    ids: Int32
    row_lengths: Int32
    cut: int


class Tokeniser:
    """Steps 1 to 3."""

    def __init__(self, text: Text) -> None:
        self._normalise = Normaliser(lower=text.lower)
        self._word = _word_pattern() if text.unit == "word" else None

    def tokens(self, text: str) -> Sequence[str]:
        """All tokens of a text, of a unit other than bytes."""
        normal = self._normalise(text)
        return normal if self._word is None else self._word.findall(normal)

    def octets(self, text: str) -> bytes:
        """All tokens of a text, of the unit bytes."""
        return self._normalise(text).encode()


class Encoder:
    """Steps 1 to 5.

    Args:
      text: the spec's section.
      vocabulary: the tokens with ids of their own, in their order; none for bytes.
    """

    def __init__(self, text: Text, vocabulary: Sequence[str]) -> None:
        self._tokeniser, self._text = Tokeniser(text), text
        self._ids = {token: number for number, token in enumerate(vocabulary, FIRST_ID)}

    def encode(self, text: str) -> Encoded:
        """The ids of a text."""
        length = self._text.length
        if self._text.unit == "byte":
            octets = self._tokeniser.octets(text)
            ids = np.frombuffer(octets, np.uint8, min(length, len(octets))).astype(np.int32) + FIRST_ID
            return Encoded(ids, self._row_lengths(len(ids), ""), len(octets) - len(ids))
        tokens = self._tokeniser.tokens(text)
        kept = tokens[:length]
        ids = np.fromiter((self._ids.get(token, UNKNOWN_ID) for token in kept), np.int32, len(kept))
        return Encoded(ids, self._row_lengths(len(ids), kept), len(tokens) - len(kept))

    def _row_lengths(self, count: int, tokens: Sequence[str]) -> Int32:
        rows = self._text.rows
        if rows is None or not count:
            return np.full(min(count, 1), count, np.int32)
        starts = np.zeros(count, np.bool_)
        starts[0] = True
        if isinstance(rows, SentenceRows):
            end = np.fromiter((token in _ENDS for token in tokens), np.bool_, count)
            starts[1:] = end[:-1] & ~end[1:]
        position = np.arange(count)
        since = position - np.maximum.accumulate(np.where(starts, position, 0))
        first = np.flatnonzero(since % rows.length == 0)
        return np.diff(first, append=count).astype(np.int32)


def choose_vocabulary(counts: Mapping[str, int] | Iterable[tuple[str, int]], options: Vocabulary) -> tuple[str, ...]:
    """The tokens that have ids of their own, in the order of their ids."""
    items = counts.items() if isinstance(counts, Mapping) else counts
    frequent = [(-count, token) for token, count in items if count >= options.min_count]
    return tuple(token for _, token in sorted(frequent)[: options.size])


_ENDS = frozenset(SENTENCE_ENDS)


@cache
def _word_pattern() -> re.Pattern[str]:
    classes = unicode_tables().classes
    word = _character_set(classes == CharacterClass.WORD)
    separator = _character_set(classes == CharacterClass.SEPARATOR)
    return re.compile(f"[{word}]+|[^{word}{separator}]")


def _character_set(flags: NDArray[np.bool_]) -> str:
    """The inside of a regular expression's brackets."""
    return "".join(f"\\U{first:08x}-\\U{last:08x}" for first, last in ranges(flags))
