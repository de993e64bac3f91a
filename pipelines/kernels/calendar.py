"""Calendar features: where a moment lies within a day, a week or a year.

A phase is one exact integer remainder and one correctly rounded division, so it has the same bits on every machine;
sine and cosine, which have not, are the model's business.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from pipelines.kernels.zones import local_ms

_DAY_MS = 86_400_000
_PERIOD_AND_START_MS = {
    "time_of_day": (_DAY_MS, 0),
    "day_of_week": (7 * _DAY_MS, 4 * _DAY_MS),  # weeks start on Monday; 1970-01-05 was one
    "time_of_year": (31_556_952_000, 0),  # the Gregorian mean year of 365.2425 days
}


def phase(kind: str, time_ms: NDArray[np.int64], zone: str = "UTC") -> NDArray[np.float32]:
    """The phase of each moment (epoch milliseconds) by a zone's clocks, as float32 in [-0.5, 0.5), the same shape."""
    period, start = _PERIOD_AND_START_MS[kind]
    return (((local_ms(zone, time_ms) - start) % period) / period - 0.5).astype(np.float32)
