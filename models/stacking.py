"""What each member of an ensemble should weigh, by what the members make of a split that none was trained on."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

Float64 = NDArray[np.float64]

_MOST_STEPS = 10_000
_SETTLED = 1e-12


def stacking_weights(products: Float64) -> Float64:
    """The weights of members, not negative and together 1, of the least mean squared error (Breiman, 1996).

    Args:
      products: float64 (member, member), the mean products of the members' errors.
    Returns:
      float64 (member,).
    """
    # Projected gradient: the problem is convex, and as small as the members are few.
    weights = np.full(len(products), 1 / len(products))
    step = 1 / max(float(np.linalg.norm(products, 2)), np.finfo(np.float64).tiny)
    for _ in range(_MOST_STEPS):
        moved = _onto_simplex(weights - step * products @ weights)
        if np.abs(moved - weights).max() < _SETTLED:
            break
        weights = moved
    return weights


def mixture_weights(likelihoods: Float64) -> Float64:
    """The weights of members, not negative and together 1, of the mixture with the least cross-entropy.

    Args:
      likelihoods: float64 (member, case), the share that each member gave to each case's class; positive.
    Returns:
      float64 (member,).
    """
    # Expectation maximisation (Dempster et al., 1977): no step makes it worse, and the problem is convex.
    weights = np.full(len(likelihoods), 1 / len(likelihoods))
    for _ in range(_MOST_STEPS):
        moved = weights * (likelihoods / (weights @ likelihoods)).mean(axis=1)
        if np.abs(moved - weights).max() < _SETTLED:
            break
        weights = moved
    return weights


def _onto_simplex(point: Float64) -> Float64:
    """The nearest point that is not negative and sums to 1 (Duchi et al., 2008)."""
    falling = np.sort(point)[::-1]
    excess = (np.cumsum(falling) - 1) / np.arange(1, len(point) + 1)
    threshold = excess[np.flatnonzero(falling > excess)[-1]]
    nearest: Float64 = np.maximum(point - threshold, 0)
    return nearest
