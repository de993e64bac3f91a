"""The Page-Hinkley test of whether the mean of a sequence has risen (Page 1954, Hinkley 1971).

Each value adds how far it is above the mean of those before it, less a tolerance, to a sum; the test's measure is how
far that sum is above the lowest it has been, which is to say the sum itself where it never falls below 0. All is in
shares of the mean, so that neither the unit nor the size of the values matters.

`river.drift.PageHinkley` is the same test in absolute units; importing it takes scipy and about 100 MB with it, which
is most of what a consumer's process may take.
"""

from __future__ import annotations

from dataclasses import astuple, dataclass

CEILING = 2.0
"""The measure stays below so many thresholds, so that an excursion that is over is seen to be."""


@dataclass(frozen=True, slots=True)
class PageHinkley:
    """The state of the test: `count` values with a `mean`, and the `measure`."""

    count: int = 0
    mean: float = 0.0
    measure: float = 0.0

    def after(self, value: float, *, tolerance: float, threshold: float, warm_up: int) -> PageHinkley:
        """The state after another value.

        Args:
          value: not negative.
          tolerance: a rise that is none, as a share of the mean.
          threshold: the measure is drift above this.
          warm_up: of so many values only the mean is kept.
        """
        count, measure = self.count + 1, self.measure
        mean = self.mean + (value - self.mean) / count
        if self.count >= warm_up and self.mean > 0:
            measure = min(max(measure + value / self.mean - 1 - tolerance, 0.0), CEILING * threshold)
        return PageHinkley(count, mean, measure)

    def document(self) -> list[float]:
        """The state as JSON values."""
        return list(astuple(self))
