"""Naive2, the yardstick of the M4 competition: the last value of a series, with its season where it has one."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

Float64 = NDArray[np.float64]

_CRITICAL = 1.645
"""Of the normal distribution, at 90 %."""


def naive2(past: Float64, horizon: int, season: int) -> Float64:
    """Forecasts series as M4's Naive2 does (Makridakis, Spiliotis and Assimakopoulos 2020).

    A series of at least three seasons whose autocorrelation at the season is significant at 90 % is divided by the
    seasonal indices of a classical multiplicative decomposition; its last value is repeated and multiplied by them
    again. Any other is its last value, repeated. So is one with a value of 0 or less, which cannot be divided so.

    Args:
      past: float64 (series, step), all finite.
      horizon: steps to forecast.
      season: in steps; 1 is none.
    Returns:
      float64 (series, horizon).
    """
    flat = np.repeat(past[:, -1:], horizon, axis=1)
    if season < 2 or past.shape[1] < 3 * season:
        return flat
    seasonal = (past > 0).all(axis=1) & _is_seasonal(past, season)
    if seasonal.any():
        chosen = past[seasonal]
        indices = _seasonal_indices(chosen, season)
        phase = np.arange(past.shape[1], past.shape[1] + horizon) % season
        last = chosen[:, -1] / indices[:, (past.shape[1] - 1) % season]
        flat[seasonal] = last[:, None] * indices[:, phase]
    return flat


def _is_seasonal(past: Float64, season: int) -> NDArray[np.bool_]:
    """Whether the autocorrelation at the season is beyond Bartlett's limit: bool (series,)."""
    centred = past - past.mean(axis=1, keepdims=True)
    power = (centred**2).sum(axis=1)
    correlation = np.stack([(centred[:, lag:] * centred[:, :-lag]).sum(axis=1) for lag in range(1, season + 1)], axis=1)
    correlation = np.divide(correlation, power[:, None], out=np.zeros_like(correlation), where=power[:, None] > 0)
    limit = _CRITICAL * np.sqrt((1 + 2 * (correlation[:, :-1] ** 2).sum(axis=1)) / past.shape[1])
    return np.asarray(np.abs(correlation[:, -1]) > limit)


def _seasonal_indices(past: Float64, season: int) -> Float64:
    """The multiplicative index of each phase, counted from the first step: float64 (series, season), with mean 1."""
    half = season // 2
    weights = np.ones(season) if season % 2 else np.concatenate(([0.5], np.ones(season - 1), [0.5]))
    total = np.pad(np.cumsum(past, axis=1), ((0, 0), (1, 0)))
    if season % 2:
        trend = total[:, season:] - total[:, :-season]
    else:
        windows = total[:, season:] - total[:, :-season]
        trend = (windows[:, :-1] + windows[:, 1:]) / 2
    relative = past[:, half : half + trend.shape[1]] / (trend / weights.sum())
    phase = (half + np.arange(trend.shape[1])) % season
    indices = np.stack([relative[:, phase == number].mean(axis=1) for number in range(season)], axis=1)
    normal: Float64 = indices / indices.mean(axis=1, keepdims=True)
    return normal
