"""The errors of live predictions: the accuracy topic, read back and cut by time, role and version."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from flows.verify import read_topic
from pipelines.kernels.live_accuracy import TERMS, terms_of
from schemas.accuracy import read_accuracy
from schemas.prediction import Role
from schemas.spec import Spec

_CELLS, _ABSOLUTE, _PERSISTENCE = (TERMS.index(name) for name in ("cells", "absolute", "absolute_persistence"))


@dataclass(frozen=True, slots=True)
class LiveErrors:
    """The scored predictions of the first target.

    `origin_ms` and `version` int64 (prediction,), `role` text (prediction,); `sums` float64 (prediction, term) with the
    terms of `pipelines.kernels.live_accuracy`.
    """

    origin_ms: NDArray[np.int64]
    version: NDArray[np.int64]
    role: NDArray[np.str_]
    sums: NDArray[np.float64]

    @classmethod
    def read(cls, spec: Spec) -> LiveErrors:
        """Of all that is in the accuracy topic, which must not be empty.

        Raises:
          BrokerError: it cannot be read.
        """
        found = [read_accuracy(record.value) for record in read_topic(spec, spec.topics.accuracy.name)]
        return cls(
            np.array([one.origin_ms for one in found]),
            np.array([one.model.version for one in found]),
            np.array([one.role for one in found]),
            terms_of(found)[..., 0].sum(axis=2),
        )

    def between(self, first_ms: int, last_ms: int, role: Role = "champion") -> LiveErrors:
        """Those of a role at the origins of a half-open interval."""
        return self._only((self.role == role) & (self.origin_ms >= first_ms) & (self.origin_ms < last_ms))

    def of_version(self, version: int) -> LiveErrors:
        """Those that a version answered."""
        return self._only((self.role == "champion") & (self.version == version))

    @property
    def mae(self) -> float:
        """The mean absolute error; NaN where nothing was scored."""
        return self._mean(_ABSOLUTE)

    @property
    def mae_persistence(self) -> float:
        """The same of persistence."""
        return self._mean(_PERSISTENCE)

    def __len__(self) -> int:
        return len(self.origin_ms)

    def _only(self, chosen: NDArray[np.bool_]) -> LiveErrors:
        return LiveErrors(self.origin_ms[chosen], self.version[chosen], self.role[chosen], self.sums[chosen])

    def _mean(self, term: int) -> float:
        sums = self.sums.sum(axis=0)
        return float(sums[term] / sums[_CELLS]) if sums[_CELLS] else math.nan
