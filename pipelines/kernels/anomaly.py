"""How unusual an observation is beside its predicted interval."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

Float64 = NDArray[np.float64]


def anomaly_score(actual: Float64, centre: Float64, lower: Float64, upper: Float64) -> Float64:
    """How far observations lie from the centre of their intervals, in distances from there to the bound on that side.

    So 0 is as predicted, 1 lies on the upper bound and -1 on the lower one, and what is beyond is outside the interval:
    with a calibrated interval of 95 % coverage, 5 % of all observations. The sides are measured each by its own
    distance, as predicted intervals are rarely symmetric.

    Args:
      actual: float64, any shape.
      centre: the median (or mean) forecast, the same shape.
      lower: the interval's lower bound, the same shape.
      upper: its upper bound, the same shape.
    Returns:
      The same shape: NaN where `actual` is; infinite, with its sign, for what is off the centre where the bound on that
      side is not beyond the centre.
    """
    away = actual - centre
    room = np.where(away > 0, upper - centre, centre - lower)
    with np.errstate(divide="ignore", invalid="ignore"):
        score = away / np.maximum(room, 0)
    return np.where(away == 0, 0.0, score)
