"""The tokeniser as TensorFlow operations on raw strings, for an exported graph.

It computes what `pipelines.kernels.text` defines, from the same tables, with core operations only, so that a stock
TensorFlow Serving runs it and no client needs a tokeniser. Texts are flattened: a batch is one vector of code points
and the number of them in each text. Composition, the one step that is sequential, runs over all the short stretches of
attaching code points at once.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import cache
from typing import Any

import numpy as np
import tensorflow as tf
from numpy.typing import NDArray

from pipelines.kernels.text import MAX_ATTACHING, SENTENCE_ENDS
from pipelines.kernels.unicode_tables import CODE_POINTS, CharacterClass, unicode_tables
from schemas.text_spec import FIRST_ID, UNKNOWN_ID, ChunkRows, Text

_PAGE = 256
_ASCII = 0x80
_REMOVED = -1


class _PagedTable:
    """A number for each code point; pages of equal numbers are stored once."""

    def __init__(self, values: NDArray[Any]) -> None:
        pages, index = np.unique(values.astype(np.int32).reshape(-1, _PAGE), axis=0, return_inverse=True)
        self._pages, self._index = pages.reshape(-1), index.reshape(-1).astype(np.int32)

    def __call__(self, codes: tf.Tensor) -> tf.Tensor:
        page = tf.gather(tf.constant(self._index), codes // _PAGE)
        return tf.gather(tf.constant(self._pages), page * _PAGE + codes % _PAGE)


class NormaliserGraph:
    """`pipelines.kernels.text.Normaliser` on code points."""

    def __init__(self, *, lower: bool) -> None:
        tables = unicode_tables()
        low = tables.lower if lower else {}
        folded: dict[int, tuple[int, ...]] = dict.fromkeys(_codes_of(CharacterClass.DROPPED), ())
        folded |= {code: (low_code,) for code, low_code in low.items()}
        folded |= {code: tuple(low.get(part, part) for part in parts) for code, parts in tables.decompositions.items()}

        row = np.zeros(CODE_POINTS, np.int32)  # row 0 stands for the code point itself
        row[list(folded)] = np.arange(1, len(folded) + 1)
        self._folded_row = _PagedTable(row)
        self._folded = np.array([code for parts in folded.values() for code in parts], np.int32)
        self._folded_count = np.array([1, *map(len, folded.values())], np.int64)
        self._folded_start = np.concatenate(([0, 0], np.cumsum(self._folded_count[1:])[:-1]))
        self._ascii = np.array([low.get(code, code) for code in range(_ASCII)], np.int32)

        self._combining = _PagedTable(tables.combining)
        self._attaching = _PagedTable(tables.attaching)
        pairs = sorted((_pair(first, second), code) for (first, second), code in tables.compositions.items())
        self._pairs, self._composed = (np.array(column) for column in zip(*pairs, strict=True))

    def __call__(self, codes: tf.Tensor, counts: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
        """Normalises a batch of texts.

        Args:
          codes: int32 (code point of any text,).
          counts: int64 (text,), how many of them each text has.
        Returns:
          The same of the normalised texts.
        """
        normal: tuple[tf.Tensor, tf.Tensor] = tf.cond(
            tf.reduce_all(codes < _ASCII),
            lambda: (tf.gather(tf.constant(self._ascii), codes), counts),
            lambda: self._normalise(codes, counts),
        )
        return normal

    def _normalise(self, codes: tf.Tensor, counts: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
        text = _owner(counts)
        codes, text = self._fold(codes, text)
        attaching = self._attaching(codes) > 0
        codes, text = tf.cond(
            tf.reduce_any(attaching), lambda: self._compose(codes, text, attaching), lambda: (codes, text)
        )
        return codes, _count(text, counts)

    def _fold(self, codes: tf.Tensor, text: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
        """Steps 1 and 2 up to lower case: each code point becomes none, one or several."""
        row = self._folded_row(codes)
        counts = tf.gather(tf.constant(self._folded_count), row)
        source = _owner(counts)
        within = tf.ragged.range(counts).flat_values
        place = tf.gather(tf.constant(self._folded_start), tf.gather(row, source)) + within
        itself = tf.gather(row == 0, source)
        folded = tf.gather(tf.constant(self._folded), tf.where(itself, tf.zeros_like(place), place))
        return tf.where(itself, tf.gather(codes, source), folded), tf.gather(text, source)

    def _compose(self, codes: tf.Tensor, text: tf.Tensor, attaching: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
        """Canonical order, the limit of attaching code points, and canonical composition."""
        starts_text = tf.concat(([True], text[1:] != text[:-1]), axis=0)
        combining = tf.cast(self._combining(codes), tf.int64)
        # Sorted by class within a run after a class of 0; the place makes the order of equal classes theirs.
        run = tf.cumsum(tf.cast((combining == 0) | starts_text, tf.int64))
        size = tf.size(codes, tf.int64)
        order = tf.argsort((run * _PAGE + combining) * size + tf.range(size))
        codes, combining = tf.gather(codes, order), tf.gather(combining, order)

        attaching = tf.gather(attaching, order)
        opens = starts_text | ~attaching
        stretch = tf.cumsum(tf.cast(opens, tf.int64)) - 1
        place = tf.range(size) - tf.gather(tf.where(opens)[:, 0], stretch)
        # A stretch at the start of a text may have no code point that the others attach to.
        attached = place + tf.cast(tf.gather(tf.gather(attaching, tf.where(opens)[:, 0]), stretch), tf.int64)
        kept = attached <= MAX_ATTACHING
        codes, combining, text = (tf.boolean_mask(vector, kept) for vector in (codes, combining, text))
        stretch = tf.boolean_mask(stretch, kept)

        lengths = tf.math.bincount(tf.cast(stretch, tf.int32), dtype=tf.int64)
        start = tf.cumsum(lengths, exclusive=True)
        several = tf.where(lengths > 1)[:, 0]
        places = tf.ragged.range(tf.gather(start, several), tf.gather(start + lengths, several))
        composed = self._compose_rows(
            tf.ragged.map_flat_values(lambda place: tf.gather(codes, place), places).to_tensor(_REMOVED),
            tf.cast(tf.ragged.map_flat_values(lambda place: tf.gather(combining, place), places).to_tensor(), tf.int32),
        )
        inside = tf.sequence_mask(tf.gather(lengths, several), tf.shape(composed)[1])
        codes = tf.tensor_scatter_nd_update(codes, places.flat_values[:, None], tf.boolean_mask(composed, inside))
        left = codes != _REMOVED
        return tf.boolean_mask(codes, left), tf.boolean_mask(text, left)

    def _compose_rows(self, codes: tf.Tensor, combining: tf.Tensor) -> tf.Tensor:
        """Composes each row by the algorithm of UAX 15: what is composed into another is marked as removed.

        Args:
          codes: int32 (row, place), canonically ordered, padded with `_REMOVED`.
          combining: int32, the same shape: their combining classes.
        """
        rows, width = tf.shape(codes)[0], tf.shape(codes)[1]
        number = tf.range(rows)

        def step(place: tf.Tensor, codes: tf.Tensor, starter: tf.Tensor, last: tf.Tensor) -> tuple[tf.Tensor, ...]:
            code, own = codes[:, place], combining[:, place]
            base = tf.gather(codes, tf.maximum(starter, 0), batch_dims=1)
            key = tf.cast(base, tf.int64) * CODE_POINTS + tf.cast(code, tf.int64)
            found = tf.minimum(tf.searchsorted(tf.constant(self._pairs), key), len(self._pairs) - 1)
            exists = (tf.gather(tf.constant(self._pairs), found) == key) & (code != _REMOVED)
            joins = exists & (starter >= 0) & (last < own)
            new = tf.where(joins, tf.gather(tf.constant(self._composed, tf.int32), found), base)
            codes = tf.tensor_scatter_nd_update(codes, tf.stack((number, tf.maximum(starter, 0)), axis=1), new)
            codes = tf.tensor_scatter_nd_update(
                codes, tf.stack((number, tf.fill((rows,), place)), axis=1), tf.where(joins, _REMOVED, code)
            )
            # `last` is the class of what stands between the starter and the next one, -1 where nothing does.
            becomes_starter = ~joins & (own == 0)
            starter = tf.where(becomes_starter, place, starter)
            last = tf.where(becomes_starter, -1, tf.where(joins, last, own))
            return place + 1, codes, starter, last

        starter = tf.where(tf.reduce_all(combining[:, :1] == 0, axis=1), 0, -1)
        last = tf.fill((rows,), -1)
        _, codes, _, _ = tf.while_loop(lambda place, *_: place < width, step, (tf.constant(1), codes, starter, last))
        return codes


class TextGraph(tf.Module):  # type: ignore[misc]
    """`pipelines.kernels.text.Encoder` on strings.

    Args:
      text: the spec's section.
      vocabulary: the tokens with ids of their own, in their order; none for bytes.
    """

    def __init__(self, text: Text, vocabulary: Sequence[str]) -> None:
        super().__init__()
        self._text = text
        self._normalise = _normaliser(text.lower)
        self._classes = _classes()
        if text.unit != "byte":
            tokens: Any = list(vocabulary) if text.unit == "word" else [ord(token) for token in vocabulary]
            key_type, none = (tf.string, "") if text.unit == "word" else (tf.int64, -1)
            # A table must not be empty; this token is none that a text can have.
            pairs = tf.lookup.KeyValueTensorInitializer(
                tf.constant([*tokens, none], key_type), tf.range(FIRST_ID, FIRST_ID + len(tokens) + 1, dtype=tf.int64)
            )
            self._ids = tf.lookup.StaticHashTable(pairs, UNKNOWN_ID)

    def __call__(self, texts: tf.Tensor) -> tuple[tf.RaggedTensor, tf.RaggedTensor]:
        """The ids of texts.

        Args:
          texts: string (batch,), UTF-8; what is not becomes U+FFFD.
        Returns:
          int32 (batch, token), and int32 (batch, row): the tokens in each row.
        """
        decoded = tf.strings.unicode_decode(texts, "UTF-8")
        codes, counts = self._normalise(decoded.flat_values, decoded.row_lengths())
        ids, ends, counts = {"word": self._words, "character": self._characters, "byte": self._bytes}[self._text.unit](
            codes, counts
        )
        length = self._text.length
        kept = tf.ragged.range(counts).flat_values < length
        ids = tf.RaggedTensor.from_row_lengths(tf.boolean_mask(ids, kept), tf.minimum(counts, length))
        return ids, self._row_lengths(tf.boolean_mask(ends, kept), ids.row_lengths())

    def padded(self, text: tf.Tensor) -> dict[str, tf.Tensor]:
        """What a text model takes, as `models.text.reader.documents` lays it.

        Args:
          text: string (batch,).
        Returns:
          `ids` int32, padded with 0, and `mask` bool: (batch, token), or (batch, row, token) where the spec has rows.
        """
        ids, row_lengths = self(text)
        if self._text.rows is not None:
            rows, lengths = row_lengths.row_lengths(), tf.cast(row_lengths.flat_values, tf.int64)
            ids = tf.RaggedTensor.from_nested_row_lengths(ids.flat_values, (rows, lengths))
        return {"ids": ids.to_tensor(), "mask": tf.ones_like(ids, tf.bool).to_tensor()}

    def _words(self, codes: tf.Tensor, counts: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor, tf.Tensor]:
        text, kind = _owner(counts), self._classes(codes)
        is_word = kind == CharacterClass.WORD
        goes_on = tf.concat(([False], is_word[:-1] & (text[1:] == text[:-1])), axis=0)[: tf.size(codes)] & is_word
        token = kind != CharacterClass.SEPARATOR
        starts = token & ~goes_on
        word = tf.boolean_mask(tf.cumsum(tf.cast(starts, tf.int64)) - 1, token)
        number = tf.math.count_nonzero(starts)
        letters = tf.RaggedTensor.from_value_rowids(tf.boolean_mask(codes, token), word, number)
        words = tf.strings.unicode_encode(letters, "UTF-8")
        ends = tf.reduce_any(words[:, None] == tf.constant(list(SENTENCE_ENDS)), axis=1)
        return tf.cast(self._ids.lookup(words), tf.int32), ends, _count(tf.boolean_mask(text, starts), counts)

    def _characters(self, codes: tf.Tensor, counts: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor, tf.Tensor]:
        ids = tf.cast(self._ids.lookup(tf.cast(codes, tf.int64)), tf.int32)
        return ids, tf.zeros_like(ids, tf.bool), counts

    def _bytes(self, codes: tf.Tensor, counts: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor, tf.Tensor]:
        texts = tf.strings.unicode_encode(tf.RaggedTensor.from_row_lengths(codes, counts), "UTF-8")
        ids = tf.cast(tf.io.decode_raw(tf.strings.reduce_join(texts), tf.uint8), tf.int32) + FIRST_ID
        return ids, tf.zeros_like(ids, tf.bool), tf.cast(tf.strings.length(texts), tf.int64)

    def _row_lengths(self, ends: tf.Tensor, counts: tf.Tensor) -> tf.RaggedTensor:
        rows = self._text.rows
        if rows is None:
            some = tf.boolean_mask(counts, counts > 0)
            return tf.RaggedTensor.from_row_lengths(tf.cast(some, tf.int32), tf.cast(counts > 0, tf.int64))
        place = tf.ragged.range(counts).flat_values
        if isinstance(rows, ChunkRows):
            first = place % rows.length == 0
        else:
            after_end = tf.concat(([False], ends[:-1] & ~ends[1:]), axis=0)[: tf.size(place)]
            starts = (place == 0) | after_end
            everywhere = tf.range(tf.size(place, tf.int64))
            sentence = tf.cumsum(tf.cast(starts, tf.int32)) - 1
            since = everywhere - tf.gather(tf.boolean_mask(everywhere, starts), sentence)
            first = since % rows.length == 0
        start = tf.where(first)[:, 0]
        end = tf.concat((start[1:], [tf.size(place, tf.int64)]), axis=0)[: tf.size(start)]
        per_text = _count(tf.boolean_mask(_owner(counts), first), counts)
        return tf.RaggedTensor.from_row_lengths(tf.cast(end - start, tf.int32), per_text)


@cache
def _normaliser(lower: bool) -> NormaliserGraph:
    return NormaliserGraph(lower=lower)


@cache
def _classes() -> _PagedTable:
    return _PagedTable(unicode_tables().classes)


def _codes_of(kind: CharacterClass) -> list[int]:
    codes: list[int] = np.flatnonzero(unicode_tables().classes == kind).tolist()
    return codes


def _pair(first: int, second: int) -> int:
    return first * CODE_POINTS + second


def _owner(counts: tf.Tensor) -> tf.Tensor:
    """int64: the number of the text (or of whatever has `counts` elements) of each element."""
    return tf.repeat(tf.range(tf.size(counts, tf.int64)), counts)


def _count(owner: tf.Tensor, like: tf.Tensor) -> tf.Tensor:
    """int64, the shape of `like`: how many elements each has."""
    return tf.math.unsorted_segment_sum(tf.ones_like(owner), owner, tf.size(like))
