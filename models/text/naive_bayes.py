"""Logistic regression on naive-Bayes features of uni- and bigrams (Wang and Manning, 2012).

A feature is whether an n-gram is in the document, times the logarithm of how much likelier it is in a class than in
the others. The weights are those of a softmax, drawn by a quadratic penalty to one number for all, which would be naive
Bayes itself: between the two lies what is better than either, as the paper found by interpolation. The fit is convex
and needs no descent by batches; what comes out is one table of logits, an n-gram a row.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy.optimize import minimize
from scipy.sparse import csr_matrix

from schemas.text_model_spec import Bigrams

Float32 = NDArray[np.float32]
Float64 = NDArray[np.float64]

_ITERATIONS = 60
_MEMORY = 5
"""Steps whose gradients the optimiser remembers: each is as large as the table."""


@dataclass(frozen=True, slots=True)
class Contents:
    """What documents contain.

    `features` float32 (document, n-gram), sparse, 1 where one is; `label` int64 (document,); `weight` float64
    (document,), what each counts.
    """

    features: csr_matrix
    label: NDArray[np.int64]
    weight: Float64

    @classmethod
    def of(
        cls, indices: Sequence[NDArray[np.int32]], labels: NDArray[np.int64], class_weights: NDArray[Any], size: int
    ) -> Contents:
        """Makes it of the documents' n-grams.

        Args:
          indices: of each document, as `models.text.ngrams.NgramGraph` gives them, without padding.
          labels: int64 (document,).
          class_weights: (class,), what a document of each class counts.
          size: how many n-grams there are.
        """
        start = np.concatenate(([0], np.cumsum([len(row) for row in indices])))
        column = np.concatenate(indices) if indices else np.zeros(0, np.int32)
        features = csr_matrix((np.ones(len(column), np.float32), column, start), shape=(len(indices), size))
        return cls(features, labels, class_weights[labels].astype(np.float64))


@dataclass(frozen=True, slots=True)
class NgramWeights:
    """What was fitted.

    `table` float32 (n-gram, class) and `bias` float32 (class,) make the logits; `penalty` was chosen by its `loss`, the
    mean cross-entropy of the validation split.
    """

    table: Float32
    bias: Float32
    penalty: float
    loss: float


def fit(train: Contents, validation: Contents, classes: int, options: Bigrams) -> NgramWeights:
    """Fits the weights with each penalty, and chooses by the cross-entropy on the validation split."""
    ratios = log_count_ratios(train, classes, options.smoothing)
    flat, found = np.append(np.full(ratios.size, options.prior), np.zeros(classes)), []
    for penalty in sorted(options.penalties, reverse=True):
        flat = _fit(train, ratios, penalty, options.prior, flat)  # each fit starts at the one before: it is near
        table = (flat[: ratios.size].reshape(ratios.shape) * ratios).astype(np.float32)
        bias = flat[ratios.size :].astype(np.float32)
        loss = cross_entropy(validation.features @ table + bias, validation.label, validation.weight)
        found.append(NgramWeights(table, bias, penalty, loss))
    return min(found, key=lambda weights: weights.loss)


def log_count_ratios(train: Contents, classes: int, smoothing: float) -> Float64:
    """How much likelier an n-gram is in a class than in the others: logarithms, float64 (n-gram, class)."""
    of_class = np.zeros((len(train.label), classes))
    of_class[np.arange(len(train.label)), train.label] = train.weight
    counts = np.asarray(train.features.T @ of_class)
    others = counts.sum(axis=1, keepdims=True) - counts
    within, without = (np.log(part + smoothing) for part in (counts, others))
    # The logarithm of each n-gram's share, of all that are in the class and in the others.
    total, rest = ((part + smoothing).sum(axis=0) for part in (counts, others))
    ratios: Float64 = within - np.log(total) - without + np.log(rest)
    return ratios


def cross_entropy(logits: NDArray[Any], label: NDArray[np.int64], weight: Float64) -> float:
    """The weighted mean over documents."""
    return float(np.average(-_log_softmax(logits.astype(np.float64))[np.arange(len(label)), label], weights=weight))


def _fit(train: Contents, ratios: Float64, penalty: float, prior: float, start: Float64) -> Float64:
    features = train.features
    rows = np.arange(len(train.label))

    def loss(flat: Float64) -> tuple[float, Float64]:
        weights, bias = flat[: ratios.size].reshape(ratios.shape), flat[ratios.size :]
        log_shares = _log_softmax(features @ (weights * ratios) + bias)
        moved = weights - prior
        cost = -float(log_shares[rows, train.label] @ train.weight) + 0.5 * penalty * float(np.vdot(moved, moved))
        error = np.exp(log_shares)
        error[rows, train.label] -= 1
        error *= train.weight[:, None]
        slope = (features.T @ error) * ratios + penalty * moved
        return cost, np.concatenate((slope.reshape(-1), error.sum(axis=0)))

    options = {"maxiter": _ITERATIONS, "maxcor": _MEMORY}
    found: Float64 = minimize(loss, start, jac=True, method="L-BFGS-B", options=options).x
    return found


def _log_softmax(logits: Float64) -> Float64:
    shifted = logits - logits.max(axis=1, keepdims=True)
    found: Float64 = shifted - np.log(np.exp(shifted).sum(axis=1, keepdims=True))
    return found
