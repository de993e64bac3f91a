"""The running figures: what the newest scored predictions of each version and role add up to."""

from __future__ import annotations

from collections import defaultdict, deque
from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from pipelines.kernels.live_accuracy import AccuracySums, Group, scores_of, terms_of
from schemas.accuracy import ScoredPrediction
from streaming.accuracy.drift import DriftMeasure
from streaming.live_status import LoopStatus

Float64 = NDArray[np.float64]


@dataclass(frozen=True, slots=True)
class Figure:
    """The scores of one target at one step (None: all scored steps) by one version in one role."""

    version: int
    role: str
    target: str
    step: int | None
    scores: dict[str, float | int | None]


class Running:
    """Keeps the newest scored predictions of each version and role.

    Args:
      most: of so many.
      targets: the targets' names.
      steps: the scored steps.
    """

    def __init__(self, most: int, targets: Sequence[str], steps: Sequence[int]) -> None:
        self._targets, self._steps = tuple(targets), tuple(steps)
        self._terms: defaultdict[Group, deque[Float64]] = defaultdict(lambda: deque(maxlen=most))

    def add(self, records: Sequence[ScoredPrediction]) -> None:
        """Takes records, the newest last."""
        if records:
            for record, terms in zip(records, terms_of(records), strict=True):
                self._terms[record.model.version, record.role].append(terms)

    def figures(self) -> list[Figure]:
        """What they add up to now."""
        found = []
        for (version, role), terms in sorted(self._terms.copy().items()):
            sums = np.sum(list(terms), axis=0)  # (term, step, target)
            for column, target in enumerate(self._targets):
                found.append(Figure(version, role, target, None, scores_of(sums[..., column].sum(axis=1))))
                found += [
                    Figure(version, role, target, step, scores_of(sums[:, number, column]))
                    for number, step in enumerate(self._steps)
                ]
        return found


@dataclass(slots=True)
class AccuracyStatus(LoopStatus):
    """The numbers of `tidegauge accuracy` since its start; `waiting` says what it waits for, if it does."""

    running: Running | None = None
    sums: AccuracySums = field(default_factory=AccuracySums)
    pending: int = 0
    closed_steps: int = 0
    measures: Sequence[DriftMeasure] = ()
    waiting: str = ""

    def readiness(self) -> tuple[bool, str]:
        """Whether predictions are scored as actual values come, and a sentence: why not, if not."""
        ready, sentence = LoopStatus.readiness(self)
        return (False, self.waiting) if ready and self.waiting else (ready, sentence)
