"""What a family sees of a batch of windows."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True, slots=True)
class EncodedWindow:
    """Normalised, finite tensors of a batch of windows, symbolic while a model is built.

    n is the batch, or batch * targets where the channels are independent: each target of a window is a row of its own
    then, with the same covariates.

    `past` float32 (n, past, channel): the row's targets first; a flag for each of them, 1 where observed; then the
    same of the past covariates, categories as one channel each, and sine and cosine of each calendar phase. 0 where
    masked. Independent targets are relative to their anchor, so that series of every level look alike.
    `target` float32 (n, past, target): the row's targets relative to their anchor, 0 where masked.
    `future` float32 (n, horizon, channel): sine and cosine of each calendar phase, and announced values, 0 where none
    was; None where the spec has neither.
    `static` float32 (n, channel): the static covariates, and a flag for each, 1 where there is one; None where the spec
    has none.
    `present` bool (n, past): whether a step has a value of one of the row's targets or of a covariate from events.
    `first_step` int64 (n,): the number of the first step; None where the model does not take it.
    `channel` int32 (n,): which target a row is, below `channels`; None where the targets are forecast together.
    `horizon`: the steps to forecast; `width`: the numbers to forecast for each of them, one for each of the row's
    targets and each level.

    Where windows are `classified`, the past covariates that are numbers stand where targets would, and the whole
    horizon is one step, whose numbers are the logits of the classes.
    """

    past: Any
    target: Any
    future: Any | None
    static: Any | None
    present: Any
    first_step: Any | None
    channel: Any | None
    channels: int
    horizon: int
    width: int
    classified: bool = False
