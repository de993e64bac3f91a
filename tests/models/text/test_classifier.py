"""The families of networks on tokens: what holds for all of them."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from models.precision import computing_in
from models.text.classifier import IDS, LOGITS, NGRAM_BRANCH, NGRAMS, Sizes, build_classifier
from models.text.families import TEXT_FAMILIES
from models.text.naive_bayes import NgramWeights
from schemas.errors import SpecError
from schemas.text_spec import TextSpec
from tests.models.text.conftest import moods_spec

SIZES = Sizes(tokens=20, ngrams=30, classes=3)
MODELS: dict[str, dict[str, Any]] = {
    "cnn": {"family": "cnn", "filters": 3},
    "rnn": {"family": "rnn", "units": 3},
    "lstm": {"family": "lstm", "units": 3, "layers": 2, "bidirectional": False, "pooling": "attention"},
    "attention": {"family": "attention", "heads": 2},
    "hierarchical": {"family": "hierarchical", "units": 3},
}


def spec_of(family: str, **model: Any) -> TextSpec:
    rows = {"rows": {"by": "chunks", "length": 5}} if family == "hierarchical" else {}
    return moods_spec(MODELS[family] | {"embedding": 4} | model, text=rows)


def test_every_family_is_tested() -> None:
    assert MODELS.keys() == TEXT_FAMILIES.keys()


@pytest.mark.parametrize("family", MODELS)
def test_padding_and_neighbours_change_nothing_and_empty_texts_are_finite(family: str) -> None:
    model = build_classifier(spec_of(family), SIZES)
    rng = np.random.default_rng(0)
    shape = (3, 2, 5) if family == "hierarchical" else (3, 7)
    ids = rng.integers(1, SIZES.tokens, shape).astype(np.int32)
    ids[1].reshape(-1)[3:] = 0
    ids[2] = 0
    together = predicted(model, ids)
    assert np.isfinite(together).all()
    wider = np.pad(ids, ((0, 0), *((0, 3),) * (ids.ndim - 1)))
    np.testing.assert_allclose(predicted(model, wider), together, atol=1e-6)
    for row, logits in zip(ids, together, strict=True):
        np.testing.assert_allclose(predicted(model, row[None]), logits[None], atol=1e-6)
    nothing = np.zeros((1, *(0,) * (ids.ndim - 1)), np.int32)
    np.testing.assert_allclose(predicted(model, nothing), together[2:], atol=1e-6)
    assert np.ptp(together[:, 0]) > 0


def predicted(model: Any, ids: NDArray[np.int32]) -> NDArray[np.float32]:
    found: NDArray[np.float32] = model({IDS: ids}, training=False)[LOGITS].numpy()
    return found


@pytest.mark.parametrize("family", MODELS)
def test_half_the_bits_give_nearly_the_same(family: str) -> None:
    spec = spec_of(family, bigrams={})
    whole = build_classifier(spec, SIZES)
    with computing_in("bfloat16"):
        half = build_classifier(spec, SIZES)
    half.set_weights(whole.get_weights())
    ids = np.array([[3, 9, 4, 7, 1]], np.int32)
    inputs = {IDS: ids[:, None] if family == "hierarchical" else ids, NGRAMS: ids}
    one, other = (model(inputs, training=False)[LOGITS] for model in (whole, half))
    assert other.dtype == "float32"
    np.testing.assert_allclose(one, other, atol=0.03)


@pytest.mark.parametrize("family", MODELS)
def test_the_order_of_tokens_counts(family: str) -> None:
    model = build_classifier(spec_of(family), SIZES)
    ids = np.array([[3, 9, 4, 7, 1]], np.int32)
    ids = ids[:, None] if family == "hierarchical" else ids
    assert np.abs(predicted(model, ids) - predicted(model, ids[..., ::-1])).max() > 1e-6


def test_the_branch_adds_the_logits_of_what_a_document_contains() -> None:
    model = build_classifier(spec_of("cnn", bigrams={}), SIZES)
    rng = np.random.default_rng(1)
    table, bias = rng.normal(size=(30, 3)).astype(np.float32), rng.normal(size=3).astype(np.float32)
    ids, ngrams = np.ones((2, 4), np.int32), np.array([[7, 0, 3], [0, 0, 0]], np.int32)

    def logits() -> NDArray[np.float32]:
        found: NDArray[np.float32] = model({IDS: ids, NGRAMS: ngrams}, training=False)[LOGITS].numpy()
        return found

    alone = logits()
    model.get_layer(NGRAM_BRANCH).take_over(NgramWeights(table, bias, 1.0, 0.0))
    np.testing.assert_allclose(logits() - alone, [table[7] + table[3] + bias, bias], atol=1e-5)


@pytest.mark.parametrize(
    ("sections", "message"),
    [
        ({"model": {"family": "hierarchical"}}, "reads rows; give text.rows"),
        ({"model": {"family": "cnn"}, "text": {"rows": {"by": "sentences"}}}, "leave text.rows out"),
        ({"model": {"family": "attention"}, "text": {"length": 5000}}, "at most 4096, got 5000"),
        ({"model": {"family": "attention", "embedding": 10}}, "must be a multiple of heads"),
        ({"model": {"family": "cnn"}, "training": {"loss": "mae"}}, "cross-entropy"),
        ({"model": {"family": "cnn"}, "training": {"windows_per_epoch": 9}}, "whole train split"),
        ({"model": {"family": "gru"}}, r"\$\.model"),
    ],
)
def test_what_a_family_cannot_do_is_refused(sections: dict[str, Any], message: str) -> None:
    with pytest.raises(SpecError, match=message):
        moods_spec(**({"text": {"rows": None}} | sections))
