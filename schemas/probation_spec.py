"""Probation: how a version that has just been promoted shows that it is no worse than the one before it."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field

from schemas.section import Count, Section
from schemas.units import DurationMs


class Probation(Section):
    """What is compared after a promotion, and when it is decided."""

    windows: Count = 200
    """It is decided on so many scored windows: pairs of the same windows where the older version predicts them too
    (`serving.shadow`), else each version's own."""
    origins: Count = 20
    """Where so many keys are scored that those are of fewer origins, on all windows of the first so many."""
    metric: Literal["mae", "mse"] = "mae"
    confidence: Annotated[float, Field(ge=0.5, lt=1)] = 0.95
    """The new version is rolled back where it is worse with this confidence (one-sided)."""
    tolerance: Annotated[float, Field(ge=0)] = 0.0
    """By so much, relative to the older version's error, it may be worse."""
    longest: Annotated[DurationMs, Field(ge=1)] = 7 * 86_400_000
    """After so long, by the wall clock, it is decided on what there is."""
