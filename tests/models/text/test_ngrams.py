"""Uni- and bigrams, and naive Bayes on them, against plain Python."""

from __future__ import annotations

from collections import Counter
from itertools import pairwise

import numpy as np
import pytest

from models.text.naive_bayes import Contents, cross_entropy, fit, log_count_ratios
from models.text.ngrams import NgramGraph, choose_bigrams
from schemas.text_model_spec import Bigrams

TOKENS = 6


def documents(rng: np.random.Generator, count: int) -> list[list[int]]:
    return [rng.integers(1, TOKENS, rng.integers(0, 7)).tolist() for _ in range(count)]


def padded(found: list[list[int]]) -> np.ndarray[tuple[int, int], np.dtype[np.int32]]:
    width = max(map(len, found), default=0)
    return np.array([ids + [0] * (width - len(ids)) for ids in found], np.int32).reshape(len(found), width)


def pairs(ids: list[int]) -> set[tuple[int, int]]:
    return set(pairwise([0, *ids, 0])) if ids else set()


@pytest.mark.parametrize("options", [Bigrams(), Bigrams(min_count=3), Bigrams(size=5)])
def test_the_bigrams_that_count_are_the_most_frequent(options: Bigrams) -> None:
    found = documents(np.random.default_rng(1), 40)
    counts = Counter(pair for ids in found for pair in pairs(ids))
    keys = {first * TOKENS + second: count for (first, second), count in counts.items()}
    frequent = sorted((key for key in keys if keys[key] >= options.min_count), key=lambda key: (-keys[key], key))
    chosen = choose_bigrams([padded(found[:11]), padded(found[11:])], TOKENS, options)
    assert chosen.tolist() == sorted(frequent[: options.size])


def test_indices_are_what_a_document_contains_each_once() -> None:
    rng = np.random.default_rng(2)
    known = np.unique(rng.integers(1, TOKENS * TOKENS, 12))
    graph = NgramGraph(TOKENS, known)
    found = [*documents(rng, 50), []]
    for ids, indices in zip(found, graph(padded(found)).numpy(), strict=True):
        place = {int(key): TOKENS + number for number, key in enumerate(known)}
        bigrams = {place[key] for first, second in pairs(ids) if (key := first * TOKENS + second) in place}
        assert sorted(indices[indices > 0].tolist()) == sorted(set(ids) | bigrams)
    assert graph.size == TOKENS + len(known)


def test_rows_have_ends_of_their_own_and_padding_changes_nothing() -> None:
    graph = NgramGraph(TOKENS, np.arange(1, TOKENS * TOKENS))
    rows = np.array([[[1, 2], [3, 0]]], np.int32)
    of_rows = set(graph(rows).numpy().ravel().tolist()) - {0}
    one = [set(graph(np.array([ids], np.int32)).numpy().ravel().tolist()) - {0} for ids in ([1, 2], [3])]
    assert of_rows == one[0] | one[1]
    assert set(graph(np.pad(rows, ((0, 0), (0, 2), (0, 3)))).numpy().ravel().tolist()) - {0} == of_rows
    assert set(graph(np.array([[1, 2, 3]], np.int32)).numpy().ravel().tolist()) - {0} != of_rows


def contents(found: list[list[int]], labels: list[int], weights: list[float]) -> Contents:
    return Contents.of(
        [np.array(ids, np.int32) for ids in found], np.array(labels), np.array(weights, np.float32), TOKENS
    )


def test_log_count_ratios_are_those_of_the_paper() -> None:
    # Of two classes: log((p / |p|) / (q / |q|)) with p = smoothing + counts of the class, q of the other.
    train = contents([[1, 2], [1], [2, 3]], [0, 0, 1], [1.0, 1.0])
    p = np.array([0, 2, 1, 0, 0, 0]) + 1.0
    q = np.array([0, 0, 1, 1, 0, 0]) + 1.0
    expected = np.log((p / p.sum()) / (q / q.sum()))
    found = log_count_ratios(train, 2, 1.0)
    np.testing.assert_allclose(found[:, 0], expected)
    np.testing.assert_allclose(found[:, 1], -expected)


def test_the_fit_lies_between_naive_bayes_and_the_train_split() -> None:
    rng = np.random.default_rng(3)
    labels = rng.integers(0, 3, 60).tolist()
    found = [[*rng.integers(1, TOKENS, 3), label + 1 if rng.random() < 0.8 else 5] for label in labels]
    train = contents(found, labels, [1.0, 1.0, 1.0])
    ratios = log_count_ratios(train, 3, 1.0)
    held = fit(train, train, 3, Bigrams(prior=0.3, penalties=(1e9,)))
    np.testing.assert_allclose(held.table, 0.3 * ratios, rtol=1e-5, atol=1e-6)
    free = fit(train, train, 3, Bigrams(penalties=(1e-3, 10.0)))
    assert free.penalty == 1e-3  # what is judged by the documents themselves is best without a penalty
    assert free.loss < held.loss
    logits = train.features @ free.table + free.bias
    assert free.loss == pytest.approx(cross_entropy(logits, train.label, train.weight))
    # At the optimum the bias makes each class as likely as it is frequent.
    shares = np.exp(logits) / np.exp(logits).sum(axis=1, keepdims=True)
    np.testing.assert_allclose(shares.sum(axis=0), np.bincount(labels), atol=0.05)


def test_a_class_that_weighs_twice_counts_as_if_its_documents_came_twice() -> None:
    found, labels = [[1, 2], [1, 3], [2, 4], [3]], [0, 1, 0, 1]
    options = Bigrams(penalties=(1.0,))
    weighted = contents(found, labels, [2.0, 1.0])
    repeated = contents([*found, [1, 2], [2, 4]], [*labels, 0, 0], [1.0, 1.0])
    one, other = (fit(train, repeated, 2, options) for train in (weighted, repeated))
    np.testing.assert_allclose(one.table, other.table, atol=1e-4)
