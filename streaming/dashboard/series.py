"""Forecasts beside what came: of each key that is followed, the newest steps and the newest forecast."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

import numpy as np
from numpy.typing import NDArray

from pipelines.kernels.grid import Steps
from pipelines.kernels.metrics import named_intervals
from schemas.spec import Spec
from streaming.dashboard.rings import StepRing

Float64 = NDArray[np.float64]

MOST_LEADS = 8
_MEAN, _LOWER, _UPPER = range(3)
_PARTS = 3

_intervals = lru_cache(maxsize=64)(named_intervals)


@dataclass(slots=True)
class _Key:
    """What is kept of one key: actual values, for each lead forecasts with their version, and the newest forecast."""

    actual: StepRing
    forecasts: list[StepRing]
    newest: Mapping[str, Any] | None = None


class SeriesView:
    """The series of one stream.

    A lead is how many steps ahead a value was forecast: 1 is the first step of a horizon. What is compared with what
    came are the steps of the horizon that the spec has scored, or of very many some.

    Args:
      spec: the stream's.
      points: so many steps are kept of each key.
    """

    def __init__(self, spec: Spec, points: int) -> None:
        scored, features = spec.scored_steps, spec.stream.features
        self.leads = scored[:: -(-len(scored) // MOST_LEADS)]
        self._points = points
        self._columns = [index for index, feature in enumerate(features) if feature.role == "target"]
        self.targets = [target.name for target in spec.targets]
        self._step_ms, self._offset_ms = spec.grid.step, spec.grid.offset
        self._keys: dict[str, _Key] = {}

    def forget(self, key: str) -> None:
        """A key is no longer followed."""
        self._keys.pop(key, None)

    def close(self, key: str, steps: Steps) -> None:
        """Takes closed steps of a key; only what was really observed is an actual value."""
        seen, values = steps.observed[:, self._columns], steps.values[:, self._columns]
        self._key(key).actual.put(steps.first, np.where(seen, values, np.nan).astype(np.float64))

    def forecast(self, prediction: Mapping[str, Any]) -> None:
        """Takes a prediction, as its record says it; one of another form is left out.

        Raises:
          ValueError, KeyError, IndexError, TypeError: it is of another form than the spec's.
        """
        by_name = {target["name"]: target for target in prediction["targets"]}
        targets = [by_name[name] for name in self.targets]
        origin_ms = prediction["origin_ms"]
        first = (origin_ms - self._offset_ms) // self._step_ms
        widest = next(reversed(_intervals(tuple(targets[0].get("quantiles") or ()))), None)
        # (part, target, step)
        parts = [[target["mean"] for target in targets]]
        if widest is not None:
            parts += [[target["quantiles"][name] for target in targets] for name in widest[:2]]
        cells = np.full((_PARTS, len(targets), len(parts[0][0])), np.nan)
        cells[: len(parts)] = parts
        version = float(prediction["model"]["version"])
        key = self._key(prediction["key"])
        for lead, ring in zip(self.leads, key.forecasts, strict=True):
            ring.put(first + lead - 1, np.array([[*cells[:, :, lead - 1].ravel(), version]]))
        if key.newest is None or origin_ms >= key.newest["origin_ms"]:
            key.newest = prediction

    def _key(self, key: str) -> _Key:
        known = self._keys.get(key)
        if known is None:
            targets = len(self.targets)
            forecasts = [StepRing(self._points, _PARTS * targets + 1) for _ in self.leads]
            known = self._keys[key] = _Key(StepRing(self._points, targets), forecasts)
        return known

    # --- what is shown ---

    def document(self, key: str, target: int, lead: int) -> dict[str, Any] | None:
        """One target of a key, and its forecasts of one lead; None where nothing has come.

        Args:
          key: which.
          target: its number.
          lead: one of `leads`.
        """
        known = self._keys.get(key)
        if known is None:
            return None
        steps, columns = known.actual.window()
        actual = columns[target]
        forecast_steps, columns = known.forecasts[self.leads.index(lead)].window()
        targets = len(self.targets)
        mean, lower, upper = (columns[part * targets + target] for part in (_MEAN, _LOWER, _UPPER))
        version = columns[-1]
        swaps = np.flatnonzero(np.diff(version)) + 1
        _, here, there = np.intersect1d(steps, forecast_steps, assume_unique=True, return_indices=True)
        error = np.abs(actual[here] - mean[there])
        error = error[np.isfinite(error)]
        return {
            "actual": {"time_ms": self._times(steps), "value": actual},
            "forecast": {
                "time_ms": self._times(forecast_steps),
                "mean": mean,
                "lower": lower,
                "upper": upper,
            },
            "swaps": [
                {"time_ms": int(self._times(forecast_steps[at]) - lead * self._step_ms + self._step_ms)}
                | {"version": int(version[at]), "before": int(version[at - 1])}
                for at in swaps
            ],
            "mae": float(error.mean()) if len(error) else None,
            "compared": len(error),
            "newest": None if known.newest is None else self._newest(known.newest, target),
        }

    def _newest(self, prediction: Mapping[str, Any], target: int) -> dict[str, Any]:
        name = self.targets[target]
        [said] = [one for one in prediction["targets"] if one["name"] == name]
        quantiles = said.get("quantiles") or {}
        bands = [
            {"coverage": coverage, "lower": quantiles[lower], "upper": quantiles[upper]}
            for lower, upper, coverage in reversed(_intervals(tuple(quantiles)))
        ]
        origin_ms = prediction["origin_ms"]
        return {
            "origin_ms": origin_ms,
            "version": prediction["model"]["version"],
            "role": prediction["role"],
            "time_ms": [origin_ms + step * self._step_ms for step in range(len(said["mean"]))],
            "mean": said["mean"],
            "bands": bands,
        }

    def _times(self, steps: Any) -> Any:
        return steps * self._step_ms + self._offset_ms
