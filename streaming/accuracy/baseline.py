"""What a model version was trained on: the statistics of its dataset, as they lie in the version's folder."""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path

import numpy as np
from pydantic import ValidationError

from pipelines.kernels.sketch import Sketch
from schemas.dataset import EXPORTED_STATISTICS_FILE, Statistics
from schemas.spec import Spec


@dataclass(frozen=True, slots=True)
class Baseline:
    """The distributions of features, and the standard deviations of the targets, float64 (target,)."""

    sketches: dict[str, Sketch]
    deviation: np.ndarray[tuple[int], np.dtype[np.float64]]


class Baselines:
    """The baselines of a spec's model versions."""

    def __init__(self, spec: Spec) -> None:
        self._folder = Path(spec.paths.models) / spec.model_name
        self._targets = [target.name for target in spec.targets]
        self.of = lru_cache(maxsize=8)(self._of)
        """The baseline of a version; None where its folder has no statistics, as of a model from elsewhere."""

    def _of(self, version: int) -> Baseline | None:
        try:
            statistics = Statistics.model_validate_json(
                (self._folder / str(version) / EXPORTED_STATISTICS_FILE).read_bytes()
            )
        except (OSError, ValidationError):
            return None
        deviations = (statistics.features[name].std if name in statistics.features else 0.0 for name in self._targets)
        return Baseline(
            {
                name: Sketch(counts.bits, np.array(counts.bucket, np.int64), np.array(counts.count, np.int64))
                for name, counts in statistics.sketches.items()
                if counts.bucket
            },
            np.array([deviation if deviation > 0 else 1.0 for deviation in deviations]),
        )
