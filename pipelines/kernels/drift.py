"""How far two samples of a feature lie apart, by their histograms: Jensen-Shannon divergence and PSI."""

from __future__ import annotations

import numpy as np

from pipelines.kernels.sketch import ALL_BITS, Int64, Sketch

BINS = 20


def drift(baseline: Sketch, current: Sketch) -> float:
    """The Jensen-Shannon divergence of two sketches, from 0 (the same) to 1 (nothing in common); see `histograms`."""
    return jensen_shannon(*histograms(baseline, current))


def histograms(baseline: Sketch, current: Sketch) -> tuple[Int64, Int64]:
    """Both sketches as counts int64 (bin,) over the same bins.

    Numbers are counted in about `BINS` bins that hold equal shares of the baseline, so that neither a far outlier nor
    the unit matters; categories, which are sketched by all their bits, each by itself.

    Raises:
      ValueError: a sketch is empty, or they differ in bits.
    """
    if baseline.bits != current.bits or not baseline.size or not current.size:
        raise ValueError("expected two sketches of the same bits with values, got others")
    if baseline.bits == ALL_BITS:
        edges = np.union1d(baseline.bucket, current.bucket)
    else:
        rank = np.ceil(np.arange(1, BINS) / BINS * baseline.size)
        edges = np.unique(baseline.bucket[np.searchsorted(np.cumsum(baseline.count), rank)])
    return _binned(baseline, edges), _binned(current, edges)


def population_stability(baseline: Int64, current: Int64) -> float:
    """The population stability index of two histograms over the same bins: the sum of (q - p) ln(q / p).

    A bin without a value counts as if it had half of one, so that the index stays finite.

    Args:
      baseline: counts int64 (bin,), not all 0.
      current: the same of the other sample.
    """
    p, q = (np.maximum(counts, 0.5) / np.maximum(counts, 0.5).sum() for counts in (baseline, current))
    return float(((q - p) * np.log(q / p)).sum())


def jensen_shannon(left: Int64, right: Int64) -> float:
    """The Jensen-Shannon divergence, to base 2, of two histograms over the same bins (Lin 1991).

    Args:
      left: counts int64 (bin,), not all 0.
      right: the same of the other sample.
    """
    p, q = left / left.sum(), right / right.sum()
    middle = (p + q) / 2

    def towards_middle(share: np.ndarray[tuple[int], np.dtype[np.float64]]) -> float:
        some = share > 0
        return float((share[some] * np.log2(share[some] / middle[some])).sum())

    return min(max((towards_middle(p) + towards_middle(q)) / 2, 0.0), 1.0)


def _binned(sketch: Sketch, edges: Int64) -> Int64:
    """Counts int64 (edge + 1,): bin i holds the buckets above edge i - 1 up to edge i."""
    counts = np.zeros(len(edges) + 1, np.int64)
    np.add.at(counts, np.searchsorted(edges, sketch.bucket), sketch.count)
    return counts
