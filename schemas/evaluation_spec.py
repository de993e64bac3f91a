"""What forecasts are measured by beside their errors, and how sure a model says it is."""

from __future__ import annotations

from itertools import pairwise
from typing import Annotated, Literal

from pydantic import AfterValidator, Field

from schemas.section import Count, Section, Share, Zone


class CalendarSlice(Section):
    """Forecast steps by when they start."""

    by: Literal["hour_of_day", "day_of_week", "month"]
    zone: Zone = "UTC"
    """By whose clocks."""


class KeySlice(Section):
    """Windows by groups of keys."""

    by: Literal["keys"]
    groups: Annotated[dict[str, Annotated[tuple[str, ...], Field(min_length=1)]], Field(min_length=1)]
    """The keys of each group, by its name. A key may be in one group, or in none."""


class ObservedSlice(Section):
    """Windows by the share of their measured cells that were observed."""

    by: Literal["observed"]
    below: Annotated[tuple[Share, ...], Field(min_length=1)] = (0.5, 0.9, 1.0)
    """Where groups end, rising: a window is in the first whose bound is above its share, else in the last one."""


Slice = Annotated[CalendarSlice | KeySlice | ObservedSlice, Field(discriminator="by")]


def _each_once(slices: tuple[Slice, ...]) -> tuple[Slice, ...]:
    kinds = [one.by for one in slices]
    if repeated := next((kind for kind in kinds if kinds.count(kind) > 1), None):
        raise ValueError(f"expected each kind of slice once, got '{repeated}' twice")
    for one in slices:
        if isinstance(one, ObservedSlice) and any(left >= right for left, right in pairwise(one.below)):
            raise ValueError("expected the bounds of 'observed' to rise")
        if isinstance(one, KeySlice):
            keys = [key for group in one.groups.values() for key in group]
            if repeated_key := next((key for key in keys if keys.count(key) > 1), None):
                raise ValueError(f"expected each key in one group, got '{repeated_key}' in two")
    return slices


class Evaluation(Section):
    """What forecasts are measured by."""

    season: Count | None = None
    """Steps of a season, for MASE, MSIS and Naive2: a day, of daily steps a week, and 1 where neither is a whole number
    of steps, when left out."""
    slices: Annotated[tuple[Slice, ...], AfterValidator(_each_once)] = ()
    """Conditions that are scored by themselves."""


Coverage = Annotated[float, Field(gt=0, lt=1)]


def _rising(coverages: tuple[float, ...]) -> tuple[float, ...]:
    if any(left >= right for left, right in pairwise(coverages)):
        raise ValueError("expected rising coverages")
    return coverages


class Uncertainty(Section):
    """How a model's intervals come about."""

    intervals: Annotated[tuple[Coverage, ...], AfterValidator(_rising)] = ()
    """Coverages of central intervals around the forecasts of a model without quantiles: split-conformal prediction."""
    calibrate: bool = True
    """Whether the intervals between a model's quantiles are widened or narrowed until they hold on the validation split
    what they say (conformalised quantile regression)."""
