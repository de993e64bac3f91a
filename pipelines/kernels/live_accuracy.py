"""What scored predictions add up to: errors, skill and coverage by version and role, by step and by key.

A cell is one target at one scored step of one prediction; only observed cells count, each alike. The scores are those
of `pipelines.kernels.metrics`: `mae`, `mse`, `rmse`, `mae_persistence`, `skill` (1 - MAE / MAE of persistence), and of
the predictions that had an interval `coverage`, the share of cells within it.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from pipelines.kernels.metrics import ratio, skill
from schemas.accuracy import ScoredPrediction

Float64 = NDArray[np.float64]

TERMS = ("cells", "absolute", "squared", "absolute_persistence", "in_interval", "interval_cells")
Group = tuple[int, str]
"""A version and its role."""


def terms_of(records: Sequence[ScoredPrediction]) -> Float64:
    """The terms of some records with the same targets and steps: float64 (record, term, step, target).

    Terms are in the order of `TERMS`, and 0 where nothing was observed.
    """
    actual, forecast, persistence = (
        np.stack([getattr(record, name) for record in records]).astype(np.float64)
        for name in ("actual", "forecast", "persistence")
    )
    seen = np.isfinite(actual)
    error = np.abs(forecast - actual)
    bounded = np.array([record.lower is not None for record in records])[:, None, None] & seen
    none = np.full(actual.shape[1:], np.nan)
    lower, upper = (
        np.stack([none if (bound := getattr(record, name)) is None else bound for record in records])
        for name in ("lower", "upper")
    )
    inside = (lower <= actual) & (actual <= upper)
    terms = (seen, error, error**2, np.abs(persistence - actual), inside, bounded)
    return np.stack([np.where(seen, term, 0.0) for term in terms], axis=1)


def scores_of(sums: Float64) -> dict[str, float | int | None]:
    """The scores of sums float64 (term,)."""
    cells, absolute, squared, absolute_persistence, in_interval, interval_cells = sums.tolist()
    mse = ratio(squared, cells)
    scores: dict[str, float | int | None] = {
        "cells": int(cells),
        "mae": ratio(absolute, cells),
        "mse": mse,
        "rmse": None if mse is None else mse**0.5,
        "mae_persistence": ratio(absolute_persistence, cells),
        "skill": skill(absolute, absolute_persistence),
    }
    return scores | ({"coverage": ratio(in_interval, interval_cells)} if interval_cells else {})


@dataclass(slots=True)
class _Sums:
    """Of one version and role: float64 (term, step, target), and by key (term, target)."""

    targets: tuple[str, ...]
    units: tuple[str, ...]
    steps: tuple[int, ...]
    by_step: Float64
    records: int = 0
    by_key: dict[str, Float64] = field(default_factory=dict)


class AccuracySums:
    """Sums of scored predictions; `add` takes records in any order, `document` gives the scores."""

    def __init__(self) -> None:
        self._groups: dict[Group, _Sums] = {}

    def add(self, records: Iterable[ScoredPrediction]) -> None:
        """Takes records.

        Raises:
          ValueError: those of a version and role differ in their steps or targets.
        """
        by_group: defaultdict[Group, list[ScoredPrediction]] = defaultdict(list)
        for record in records:
            by_group[record.model.version, record.role].append(record)
        for group, members in by_group.items():
            self._add(group, members)

    def _add(self, group: Group, records: Sequence[ScoredPrediction]) -> None:
        first = records[0]
        if group not in self._groups:
            none = np.zeros((len(TERMS), len(first.steps), len(first.targets)))
            self._groups[group] = _Sums(first.targets, first.units, first.steps, none)
        sums = self._groups[group]
        for record in records:
            if (record.targets, record.steps) != (sums.targets, sums.steps):
                raise ValueError(
                    f"expected steps {sums.steps} of {sums.targets}, got {record.steps} of {record.targets}"
                )
        terms = terms_of(records)
        sums.records += len(records)
        sums.by_step += terms.sum(axis=0)
        for record, of_record in zip(records, terms.sum(axis=2), strict=True):
            known = sums.by_key.get(record.key)
            sums.by_key[record.key] = of_record if known is None else known + of_record

    def document(self) -> list[dict[str, Any]]:
        """The scores of each version and role: over all, by target, by step of the horizon and by key."""
        return [
            {
                "version": version,
                "role": role,
                "records": sums.records,
                "targets": {
                    name: {"unit": unit} | self._target(sums, column)
                    for column, (name, unit) in enumerate(zip(sums.targets, sums.units, strict=True))
                },
            }
            for (version, role), sums in sorted(self._groups.items())
        ]

    @staticmethod
    def _target(sums: _Sums, column: int) -> dict[str, Any]:
        return {
            **scores_of(sums.by_step[..., column].sum(axis=1)),
            "by_step": {
                str(step): scores_of(sums.by_step[:, number, column]) for number, step in enumerate(sums.steps)
            },
            "by_key": {key: scores_of(of_key[:, column]) for key, of_key in sorted(sums.by_key.items())},
        }
