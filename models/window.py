"""What a family sees of a batch of windows."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True, slots=True)
class EncodedWindow:
    """Normalised, finite tensors of a batch of windows, symbolic while a model is built.

    `past` float32 (batch, past, channel): every feature that events carry, 0 where masked; a flag for each of them, 1
    where observed; sine and cosine of each calendar phase. `target` float32 (batch, past, target): how far the target
    was from its last observed value, 0 where masked. `future` float32 (batch, horizon, channel): sine and cosine of
    each calendar phase, and announced values, 0 where none was; None where the spec has neither. `horizon`: the steps
    to forecast.
    """

    past: Any
    target: Any
    future: Any | None
    horizon: int
