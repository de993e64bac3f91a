"""Is one version worse than another? Tests of predictive accuracy on series of losses, one for each origin.

Both are Diebold-Mariano tests (Diebold and Mariano, "Comparing predictive accuracy", JBES 13(3), 1995): the mean
difference of two losses over its standard error, which has to reckon with forecasts of overlapping horizons, whose
errors resemble each other. The usual estimate of it, with the correction of Harvey, Leybourne and Newbold (1997), calls
far too many versions worse where the overlap is long and windows are few. So it is estimated as in Coroneo and Iacone,
"Comparing predictive accuracy in small samples using fixed-smoothing asymptotics" (Journal of Applied Econometrics
35(4), 2020): by the mean of the m lowest frequencies of the periodogram, with which the statistic has Student's t
distribution with 2m degrees of freedom. m is the cube root of the number of origins, but at most half the number of
horizons that follow one another in it.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

LEAST_ORIGINS = 4

Losses = NDArray[np.float64]


@dataclass(frozen=True, slots=True)
class Comparison:
    """How two versions compare.

    `new` and `old` are what is compared, means of losses or of ratios of losses; `p` is how probable a `statistic` as
    large, or larger, would be if the new version were not worse. Both are NaN with fewer than `LEAST_ORIGINS` origins.
    """

    new: float
    old: float
    statistic: float
    p: float

    def is_worse(self, confidence: float) -> bool:
        """Whether the new version is worse, with this confidence."""
        return self.p < 1 - confidence


def compare(new: Losses, old: Losses, *, overlap: int, tolerance: float = 0.0) -> Comparison:
    """Tests whether the new version's loss is greater on the same windows.

    Args:
      new: losses of the new version, float64 (origin,), in the order of time.
      old: the old version's at the same origins.
      overlap: how many origins in a row have horizons that overlap.
      tolerance: the new loss may be greater by this share of the old one.
    """
    difference = new - (1 + tolerance) * old
    variance, degrees = _variance_of_mean(difference, overlap)
    return _comparison(new.mean(), old.mean(), difference.mean(), variance, degrees)


def compare_apart(
    new: tuple[Losses, Losses], old: tuple[Losses, Losses], *, overlap: int, tolerance: float = 0.0
) -> Comparison:
    """Tests whether the new version is worse against a yardstick than the old one was, each on its own windows.

    Each version is measured by its mean loss over the yardstick's on the same windows (1 - skill), whose standard error
    is that of the linearised ratio (the delta method).

    Args:
      new: losses of the new version and of the yardstick, each float64 (origin,), in the order of time.
      old: the same of the old version.
      overlap: as for `compare`.
      tolerance: the new ratio may be greater by this share of the old one.
    """
    ratios, variances, degrees = [], [], []
    for losses, yardstick in (new, old):
        ratio = losses.mean() / yardstick.mean()
        variance, freedom = _variance_of_mean((losses - ratio * yardstick) / yardstick.mean(), overlap)
        ratios.append(ratio)
        variances.append(variance)
        degrees.append(freedom)
    factor = 1 + tolerance
    variance = variances[0] + factor**2 * variances[1]
    return _comparison(ratios[0], ratios[1], ratios[0] - factor * ratios[1], variance, min(degrees))


def _variance_of_mean(values: Losses, overlap: int) -> tuple[float, int]:
    """The variance of the mean of a series, and the degrees of freedom of the estimate; 0 of too short a series."""
    count = len(values)
    if count < LEAST_ORIGINS:
        return math.nan, 0
    frequencies = max(1, min(int(count ** (1 / 3) + 1e-9), count // (2 * max(overlap, 1))))
    lowest = np.fft.rfft(values)[1 : frequencies + 1]
    return float(np.mean(np.abs(lowest) ** 2)) / count**2, 2 * frequencies


def _comparison(new: float, old: float, difference: float, variance: float, degrees: int) -> Comparison:
    if not degrees:
        return Comparison(float(new), float(old), math.nan, math.nan)
    # Of equal losses at every origin the transform leaves rounding errors.
    if math.sqrt(variance) <= 1e-12 * abs(difference) or not difference:
        statistic = math.copysign(math.inf, difference) if difference else 0.0
    else:
        statistic = difference / math.sqrt(variance)
    return Comparison(float(new), float(old), float(statistic), student_tail(statistic, degrees))


def student_tail(statistic: float, degrees: int) -> float:
    """The probability that Student's t is greater, for an even number of degrees of freedom.

    The finite sum of Abramowitz and Stegun, 26.7.4.
    """
    if math.isinf(statistic):
        return 0.0 if statistic > 0 else 1.0
    angle = math.atan(statistic / math.sqrt(degrees))
    square, term, total = math.cos(angle) ** 2, 1.0, 1.0
    for number in range(2, degrees - 1, 2):
        term *= square * (number - 1) / number
        total += term
    return 0.5 * (1 - math.sin(angle) * total)
