"""How live predictions are scored as the actual values arrive, and what is told as drift."""

from __future__ import annotations

from typing import Annotated

from pydantic import AfterValidator, Field

from schemas.section import Count, Section, Share


def _rising(steps: tuple[int, ...]) -> tuple[int, ...]:
    if list(steps) != sorted(set(steps)):
        raise ValueError("expected steps of the horizon, each once and in order, such as [1, 12, 24]")
    return steps


Steps = Annotated[tuple[Count, ...], Field(min_length=1), AfterValidator(_rising)]
"""Steps of a horizon, counted from 1."""


class InputDrift(Section):
    """When the values of a feature are told to have drifted from those of the champion's dataset."""

    jensen_shannon: Share | None = 0.5
    """A divergence (base 2) above this is drift. None: it is not looked at."""
    psi: Annotated[float, Field(gt=0)] | None = None
    """The same of the population stability index."""
    blocks: Count = 28
    """The values of so many blocks of time are compared."""
    least: Count = 200
    """Fewer values than this are not compared."""


class ErrorDrift(Section):
    """When the champion's errors are told to have risen: a Page-Hinkley test on its mean error of each block of time.

    Both are in shares of the mean error of the blocks before.
    """

    tolerance: Annotated[float, Field(ge=0)] = 0.3
    """A rise of so much is none."""
    threshold: Annotated[float, Field(gt=0)] = 3.0
    """Rises beyond that add up; where their sum is above this, it is drift."""
    warm_up: Count = 5
    """A version's first blocks, which only say what its mean error is."""


class Drift(Section):
    """What is looked at, a block of time after the other; None of a kind turns it off."""

    block: Count | None = None
    """Steps of a block, counted from 1970; the steps of the horizon, at least 24, when left out."""
    input: InputDrift | None = InputDrift()
    error: ErrorDrift | None = ErrorDrift()
    clear: Share = 0.8
    """An excursion is over, and the next one told again, once the measure is below this share of its threshold."""


class Accuracy(Section):
    """What `tidegauge accuracy` scores and how much it keeps."""

    steps: Steps | None = None
    """Steps of the horizon that are scored, counted from 1; the first, the middle and the last when left out."""
    running: Count = 1_000
    """The running figures of a version are of so many of its newest scored predictions."""
    max_pending: Count = 200_000
    """While so many predictions wait for actual values that are there to be read, no further ones are read."""
    drift: Drift = Drift()
