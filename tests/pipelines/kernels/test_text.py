"""The tokeniser: what each step does, and that its tables are Unicode's."""

from __future__ import annotations

import json
import unicodedata
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from pipelines.kernels import unicode_tables
from pipelines.kernels.text import MAX_ATTACHING, Encoder, Normaliser, Tokeniser, choose_vocabulary
from schemas.text_spec import Text, Vocabulary

TEXTS = st.text(st.characters(exclude_categories=["Cs"]))


def text(**options: Any) -> Text:
    return Text.model_validate(options)


@pytest.mark.skipif(
    unicodedata.unidata_version != unicode_tables.UNICODE_VERSION, reason="this Python has another Unicode"
)
def test_the_shipped_tables_are_those_of_unicode() -> None:
    shipped = json.loads(Path(unicode_tables.__file__).with_name("unicode_14.json").read_text())
    assert shipped == json.loads(json.dumps(unicode_tables.pack_tables()))


@pytest.mark.parametrize(
    ("given", "tokens"),
    [
        ("It's  a test—naïve!", ["it", "'", "s", "a", "test", "—", "naïve", "!"]),
        ("snake_case 3.14 x²", ["snake_case", "3", ".", "14", "x²"]),
        ("日本語です。カナ", list("日本語です。カナ")),
        ("한국어 텍스트", ["한국어", "텍스트"]),
        ("Ça va\t\u00a0\nOUI", ["ça", "va", "oui"]),
        ("İstanbul STRASSE ẞ ΣΑΣ", ["i\u0307stanbul", "strasse", "ß", "σασ"]),
        ("co\u00adoperate \ufeffa\u200db", ["cooperate", "ab"]),
        ("👍🏽 \ue000\U000e0fff", ["👍", "🏽", "\ue000", "\U000e0fff"]),
        ("", []),
    ],
)
def test_words(given: str, tokens: list[str]) -> None:
    assert list(Tokeniser(text()).tokens(given)) == tokens


def test_equivalent_texts_have_the_same_tokens() -> None:
    tokeniser = Tokeniser(text())
    assert len({tuple(tokeniser.tokens(given)) for given in ("É", "E\u0301", "e\u0301", "é")}) == 1
    assert len({tuple(tokeniser.tokens(given)) for given in ("q\u0307\u0323", "q\u0323\u0307")}) == 1
    assert tokeniser.tokens("J\u030c") == ["ǰ"]


@given(TEXTS)
def test_normal_text_is_composed_and_stays_as_it_is(given: str) -> None:
    normalise = Normaliser(lower=True)
    normal = normalise(given)
    assert unicodedata.normalize("NFC", normal) == normal
    assert normalise(normal) == normal
    assert normalise(unicodedata.normalize("NFD", given)) == normal


def test_a_heap_of_marks_is_cut_and_the_rest_of_the_text_is_not() -> None:
    normal = Normaliser(lower=True)("A" + "\u0316" * 1000 + "b\u0316")
    assert normal == "a" + "\u0316" * MAX_ATTACHING + "b\u0316"


@pytest.mark.parametrize("count", [2, 3])
def test_code_points_of_a_later_unicode_stand_for_themselves(count: int, monkeypatch: pytest.MonkeyPatch) -> None:
    # U+10EFD is a mark from Unicode 15 on: a newer Python would reorder it and make it part of a word.
    given = "a\u0301" * count + "\U00010efd" + "E\u0301"
    expected = Normaliser(lower=True)(given)
    monkeypatch.setattr(unicodedata, "unidata_version", "15.0.0")
    assert Normaliser(lower=True)(given) == expected == "á" * count + "\U00010efd" + "é"


def test_ids_of_words_characters_and_bytes() -> None:
    assert Encoder(text(), ["the", "cat"]).encode("The cat sat").ids.tolist() == [2, 3, 1]
    assert Encoder(text(unit="character"), ["b", "é"]).encode("Be\u0301b x").ids.tolist() == [2, 3, 2, 1, 1]
    assert Encoder(text(unit="byte", lower=False), []).encode("Aé").ids.tolist() == [67, 0xC3 + 2, 0xA9 + 2]


def test_the_first_tokens_count_and_the_others_are_counted() -> None:
    encoded = Encoder(text(length=3), ["a"]).encode("a b a a a")
    assert (encoded.ids.tolist(), encoded.cut, encoded.ids.dtype) == ([2, 1, 2], 2, np.int32)
    assert Encoder(text(length=3, unit="byte"), []).encode("abcde").cut == 2


@pytest.mark.parametrize(
    ("rows", "given", "lengths"),
    [
        (None, "a b c", [3]),
        (None, "", []),
        ({"by": "chunks", "length": 2}, "a b c d e", [2, 2, 1]),
        ({"by": "sentences", "length": 4}, "a b. c... d e f g h i! j", [3, 4, 4, 3, 1]),
        ({"by": "sentences", "length": 9}, "?! a 。b", [2, 2, 1]),
        ({"by": "sentences", "length": 9}, "", []),
    ],
)
def test_rows(rows: dict[str, Any] | None, given: str, lengths: list[int]) -> None:
    encoded = Encoder(text(rows=rows), []).encode(given)
    assert encoded.row_lengths.tolist() == lengths
    assert encoded.row_lengths.sum() == len(encoded.ids)


def test_the_vocabulary_is_the_most_frequent_tokens_and_ties_go_by_code_point() -> None:
    counts = {"b": 5, "a": 5, "é": 9, "z": 5, "rare": 1}
    assert choose_vocabulary(counts, Vocabulary(size=3)) == ("é", "a", "b")
    assert choose_vocabulary(counts, Vocabulary(size=9)) == ("é", "a", "b", "z")
    assert choose_vocabulary(list(counts.items())[::-1], Vocabulary(size=9, min_count=1))[-1] == "rare"
