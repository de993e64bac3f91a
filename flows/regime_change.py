"""A regime change: from a time on, the world is not the one that the model was trained on."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace

import numpy as np

from flows.history import History
from schemas.errors import InputError
from schemas.spec import Spec
from schemas.units import ms_to_iso


@dataclass(frozen=True, slots=True)
class RegimeChange:
    """From `time_ms` on, every series reads `offsets` more of each target, in its unit, as with badly set sensors."""

    time_ms: int
    offsets: Mapping[str, float]

    @classmethod
    def of(cls, spec: Spec, history: History, time_ms: int, deviations: float) -> RegimeChange:
        """A change by so many standard deviations of what each target was before it.

        Raises:
          InputError: a target has no values before it, or none that differ.
        """
        before = history.values[history.time_ms < time_ms]
        offsets = {}
        for column, name in _targets(spec).items():
            values = before[:, column]
            values = values[np.isfinite(values)]
            deviation = float(values.std()) if len(values) else 0.0
            if not deviation:
                raise InputError(f"expected values of '{name}' that differ before {ms_to_iso(time_ms)}, got none")
            offsets[name] = float(f"{deviations * deviation:.3g}")
        return cls(time_ms, offsets)

    def applied(self, spec: Spec, history: History) -> History:
        """The history with the change in it."""
        values = history.values.copy()
        later = history.time_ms >= self.time_ms
        for column, name in _targets(spec).items():
            values[later, column] += self.offsets[name]
        return replace(history, values=values)


def _targets(spec: Spec) -> dict[int, str]:
    """The columns of the targets among the carried features."""
    carried = [feature for feature in spec.stream.features if feature.calendar is None]
    return {column: feature.name for column, feature in enumerate(carried) if feature.role == "target"}
