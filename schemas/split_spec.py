"""Which windows train a model, choose it, and measure it."""

from __future__ import annotations

from itertools import pairwise
from typing import Annotated, Literal, Self

from pydantic import Field, model_validator

from schemas.section import Count, Section
from schemas.units import DurationMs, InstantMs, format_duration, iso_to_ms, ms_to_iso

SPLITS = ("train", "validation", "test")


Interval = tuple[int, int]
"""Start and end (exclusive), epoch milliseconds."""


class TimeSplit(Section):
    """What splits by time share: train yields to validation and test, and validation to test.

    So the windows of the test split are the same whatever is purged.
    """

    purge: DurationMs = 0
    """A horizon that ends less than this before the start of a split that its own yields to is in none ..."""
    embargo: DurationMs = 0
    """... and so is one that starts less than this after the end of such a split."""


class DateSplit(TimeSplit):
    """Splits by half-open UTC intervals. A window is in the split that holds all of its horizon, or in none."""

    by: Literal["dates"]
    train: tuple[InstantMs, InstantMs]
    validation: tuple[InstantMs, InstantMs]
    test: tuple[InstantMs, InstantMs]

    @model_validator(mode="after")
    def _consistent(self) -> Self:
        for name in SPLITS:
            start, end = self.interval(name)
            if start >= end:
                raise ValueError(f"{name} must start before it ends")
        ordered = sorted((self.interval(name), name) for name in SPLITS)
        for (before, name), (after, other) in pairwise(ordered):
            if before[1] > after[0]:
                raise ValueError(f"{name} and {other} overlap")
        return self

    def interval(self, split: str) -> Interval:
        """When a split is."""
        interval: Interval = getattr(self, split)
        return interval


class FractionSplit(TimeSplit):
    """Splits each key's own extent, from its first closed step to its last: train first, then validation, then test.

    Of n steps the first floor(n * train) are for training, the last floor(n * test) for testing, and those between for
    validation. Keys of different extents overlap in time: where they share shocks, dates are the honest choice.
    """

    by: Literal["fraction"]
    train: Annotated[float, Field(gt=0, lt=1)]
    test: Annotated[float, Field(gt=0, lt=1)]

    @model_validator(mode="after")
    def _consistent(self) -> Self:
        if self.train + self.test >= 1:
            raise ValueError("train and test must leave something for validation: their sum must be less than 1")
        return self


KeyChoice = Annotated[float, Field(gt=0, lt=1)] | Annotated[tuple[str, ...], Field(min_length=1)]


class KeySplit(Section):
    """Splits by key: what a model makes of series that it has never seen.

    `validation` and `test` each name their keys, or say which fraction of all keys they take; a hash of the key draws
    those, so that a key stays in its split whatever others come. Every other key is for training.
    """

    by: Literal["keys"]
    validation: KeyChoice
    test: KeyChoice

    @model_validator(mode="after")
    def _consistent(self) -> Self:
        if sum(choice for choice in (self.validation, self.test) if isinstance(choice, float)) >= 1:
            raise ValueError("validation and test must leave keys for training: their sum must be less than 1")
        named = [set(choice) for choice in (self.validation, self.test) if isinstance(choice, tuple)]
        if len(named) == 2 and (shared := sorted(named[0] & named[1])):
            raise ValueError(f"validation and test must differ; both name '{shared[0]}'")
        return self


class FieldSplit(Section):
    """Splits that a field of each document names: `train`, `validation` or `test`. For data with splits of its own."""

    by: Literal["field"]
    field: str
    """The field; a document in which it has another value is a dead row."""
    validation: Annotated[float, Field(gt=0, lt=1)] | None = None
    """For data without a validation split: which fraction of the train split's keys a hash of the key draws for it."""


class RollingSplit(TimeSplit):
    """Rolling origins: fold i trains up to its cutoff, `first` + i * `every`, and is validated and tested after it.

    A dataset holds one fold, the last, which is the one that a model would be deployed from; `folds` are all of them.
    """

    by: Literal["rolling"]
    start: InstantMs
    """Where the training of the first fold begins."""
    first: InstantMs
    """The first fold's cutoff."""
    every: Annotated[DurationMs, Field(ge=1)]
    count: Count
    validation: Annotated[DurationMs, Field(ge=1)]
    test: Annotated[DurationMs, Field(ge=1)]
    sliding: bool = False
    """Training keeps its length and moves on with the cutoff; otherwise it grows."""

    @model_validator(mode="after")
    def _consistent(self) -> Self:
        if self.start >= self.first:
            raise ValueError("start must be before first")
        return self

    @property
    def folds(self) -> tuple[DateSplit, ...]:
        """The splits of each fold, oldest first."""
        folds = []
        for moved in range(0, self.count * self.every, self.every):
            cutoff = self.first + moved
            tested = cutoff + self.validation
            intervals = {
                "train": (self.start + moved * self.sliding, cutoff),
                "validation": (cutoff, tested),
                "test": (tested, tested + self.test),
            }
            guards = {name: format_duration(getattr(self, name)) for name in ("purge", "embargo")}
            dates = {name: tuple(map(ms_to_iso, interval)) for name, interval in intervals.items()}
            folds.append(DateSplit.model_validate({"by": "dates", **dates, **guards}))
        return tuple(folds)

    def interval(self, split: str) -> Interval:
        """When a split of the last fold is."""
        return self.folds[-1].interval(split)


class EttSplit(TimeSplit):
    """The published split of the ETT data (Zhou et al. 2021): 12, 4 and 4 months of 30 days from 2016-07-01 on.

    The rest of the data is not used. The past of a test window reaches into validation, so with any past there are
    2880 - horizon + 1 test windows of the hourly series.
    """

    by: Literal["ett"]

    def interval(self, split: str) -> Interval:
        """When a split is."""
        start, month = iso_to_ms("2016-07-01"), 30 * 86_400_000
        first, last = {"train": (0, 12), "validation": (12, 16), "test": (16, 20)}[split]
        return start + first * month, start + last * month


SplitRule = Annotated[DateSplit | FractionSplit | KeySplit | RollingSplit | EttSplit, Field(discriminator="by")]
