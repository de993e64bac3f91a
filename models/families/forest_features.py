"""What a forest asks of a window, and of each step of its horizon.

Of a window: lags, and over spans that end at the origin the mean, the least, the greatest and the slope. Of a step: its
number, what is known of it (calendar, announced values), and the last observed value of the same phase of the season.

What tells a class may be anywhere in a window and need not be a level: where windows are classified, the same is asked
of the whole past and of its halves, quarters, eighths and sixteenths (as a time series forest does of random
intervals, Deng et al., 2013), and how restless each of them is: the mean size of its changes from step to step.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from keras import ops

from models.families.seasonal import same_phase
from models.window import EncodedWindow
from schemas.model_spec import ForestModel

_PARTS = (1, 2, 4, 8, 16)
"""Into how many parts the past of a window is cut of which a class is told."""


def features_of(options: ForestModel, window: EncodedWindow, season: int, waves: int) -> tuple[Any, Any]:
    """Features of a window, (n, feature), and of each step of its horizon, (n, horizon, feature).

    Args:
      options: of the forest.
      window: to look at.
      season: steps of a season; 0 for none.
      waves: how many of the first channels of the future, and of the last of the past, are calendar phases.
    Returns:
      Float32; NaN where nothing tells. Where windows are classified all that is known of the horizon is a window's.
    """
    past, targets = window.target.shape[1:]
    seen = window.past[..., targets : 2 * targets]
    beside = window.past[..., 2 * targets : window.past.shape[-1] - waves]
    values = ops.concatenate((window.past[..., :targets] if window.classified else window.target, beside), axis=-1)
    there = ops.concatenate((seen, ops.ones_like(beside)), axis=-1)
    known = ops.where(there > 0, values, np.nan)
    once = [known[:, past - lag] for lag in options.lags or [2**power for power in range(past.bit_length())]]
    for span in options.spans or (*(4**power for power in range(1, 16) if 4**power < past), past):
        once += _summaries(values[:, past - span :], there[:, past - span :])
    if window.classified:
        for parts in _PARTS:
            once += _of_parts(values, there, min(parts, past))
        if window.future is not None:
            once.append(window.future[:, 0])
    if window.static is not None:
        once.append(window.static)
    if window.channel is not None:
        once.append(ops.cast(window.channel, "float32")[:, None])

    number = np.arange(1, window.horizon + 1, dtype=np.float32)[:, None]
    each = [ops.zeros_like(window.target[:, :1, :1]) + number]
    if window.future is not None:
        each.append(window.future)
    if season:
        each.append(same_phase(window.target, seen, season, window.horizon))
    return ops.concatenate(once, axis=-1), ops.concatenate(each, axis=-1)


def _summaries(values: Any, there: Any) -> list[Any]:
    """Mean, least, greatest and slope of what was observed, NaN where that is too little: (n, column) each."""
    count = ops.sum(there, axis=1)
    time = ops.cumsum(ops.ones_like(there), axis=1)

    def mean(cells: Any) -> Any:
        return ops.sum(cells * there, axis=1) / ops.maximum(count, 1.0)

    middle, level = mean(time), mean(values)
    spread = mean(ops.square(time - middle[:, None]))
    slope = mean((time - middle[:, None]) * (values - level[:, None])) / ops.where(spread > 0, spread, 1.0)
    least = ops.min(ops.where(there > 0, values, np.inf), axis=1)
    greatest = ops.max(ops.where(there > 0, values, -np.inf), axis=1)
    some = [ops.where(count > 0, part, np.nan) for part in (level, least, greatest)]
    return [*some, ops.where(spread > 0, slope, np.nan)]


def _of_parts(values: Any, there: Any, parts: int) -> list[Any]:
    """The summaries, and how restless it is, of each of equal parts of the past: (n, part * column) each."""
    past, columns = values.shape[1:]
    length = -(-past // parts)

    def cut(cells: Any) -> Any:  # what the first parts lack is as if it had not been observed
        padded = ops.pad(cells, ((0, 0), (parts * length - past, 0), (0, 0)))
        return ops.reshape(padded, (-1, length, columns))

    values, there = cut(values), cut(there)
    both = there[:, 1:] * there[:, :-1]
    count = ops.sum(both, axis=1)
    change = ops.sum(ops.abs(values[:, 1:] - values[:, :-1]) * both, axis=1) / ops.maximum(count, 1.0)
    found = [*_summaries(values, there), ops.where(count > 0, change, np.nan)]
    return [ops.reshape(part, (-1, parts * columns)) for part in found]
