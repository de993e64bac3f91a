"""What a model must beat."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

Float32 = NDArray[np.float32]


def persistence(past_values: Float32, past_observed: NDArray[np.bool_], horizon: int) -> Float32:
    """The last observed value of each column, repeated.

    Args:
      past_values: float32 (window, past, column).
      past_observed: bool, the same shape; filled cells do not count.
      horizon: steps to forecast.
    Returns:
      float32 (window, horizon, column), NaN where a column has no observed cell.
    """
    steps = past_values.shape[1]
    last = steps - 1 - past_observed[:, ::-1].argmax(axis=1)
    value = np.take_along_axis(past_values, last[:, None], axis=1)
    value = np.where(past_observed.any(axis=1, keepdims=True), value, np.float32(np.nan))
    return np.repeat(value, horizon, axis=1)


def skill(error: float, yardstick_error: float) -> float | None:
    """1 for no error, 0 for the yardstick's, negative for more; None where the yardstick is without error."""
    return float(1 - error / yardstick_error) if yardstick_error else None
