"""What predictions were worth: the accuracy topic, added up by version, role, block of time and step of the horizon."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from pipelines.kernels.live_accuracy import Group, scores_of, terms_of
from schemas.accuracy import ScoredPrediction
from schemas.spec import Spec
from streaming.accuracy.drift import block_steps

Float64 = NDArray[np.float64]

BLOCKS = 120
"""So many blocks of time are kept of each version and role."""
MOST_GROUPS = 8
"""Of so many of them; the oldest versions go first."""


class ScoreView:
    """The scores of one stream, of its newest blocks of time."""

    def __init__(self, spec: Spec) -> None:
        self._targets, self._steps = tuple(target.name for target in spec.targets), spec.scored_steps
        self._block_ms = block_steps(spec) * spec.grid.step
        self._groups: dict[Group, dict[int, Float64]] = {}
        self._coverage: float | None = None

    def add(self, records: Sequence[ScoredPrediction]) -> None:
        """Takes scored predictions; those of other targets or steps are of another spec, and left out."""
        ours = [one for one in records if self._is_ours(one)]
        if not ours:
            return
        for record, terms in zip(ours, terms_of(ours), strict=True):
            blocks = self._groups.setdefault((record.model.version, record.role), {})
            block = record.origin_ms // self._block_ms
            known = blocks.get(block)
            blocks[block] = terms if known is None else known + terms
            self._coverage = record.coverage
        for blocks in self._groups.values():
            for block in sorted(blocks)[:-BLOCKS]:
                del blocks[block]
        for group in sorted(self._groups)[:-MOST_GROUPS]:
            del self._groups[group]

    def _is_ours(self, record: ScoredPrediction) -> bool:
        parts = (record.actual, record.forecast, record.persistence, record.lower, record.upper)
        shape = len(self._steps), len(self._targets)
        same = (record.targets, record.steps) == (self._targets, self._steps)
        return same and all(part is None or part.shape == shape for part in parts)

    def document(self, target: int) -> dict[str, Any]:
        """The scores of a target; `coverage` is the nominal one of the interval, `block_ms` a block of time."""
        return {
            "steps": self._steps,
            "coverage": self._coverage,
            "block_ms": self._block_ms,
            "groups": [self._group(group, blocks, target) for group, blocks in sorted(self._groups.items())],
        }

    def _group(self, group: Group, blocks: dict[int, Float64], target: int) -> dict[str, Any]:
        version, role = group
        order = sorted(blocks)
        sums = np.stack([blocks[block][..., target] for block in order])  # (block, term, step)
        by_step = sums.sum(axis=0)
        over_time = [scores_of(of_block) for of_block in sums.sum(axis=2)]
        return {
            "version": version,
            "role": role,
            **scores_of(by_step.sum(axis=1)),
            "by_step": [scores_of(by_step[:, number]) for number in range(len(self._steps))],
            "over_time": {
                "time_ms": [block * self._block_ms for block in order],
                "mae": [scores["mae"] for scores in over_time],
                "mae_persistence": [scores["mae_persistence"] for scores in over_time],
            },
        }
