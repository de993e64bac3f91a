"""Predictions of windows' classes: the records of the predictions topic of a stream with a label.

They are as those of forecasts (`schemas.prediction`), with the class in place of the targets:

    {"schema_version": 1, "stream": "pumps", "key": "north-3", "origin_ms": 1380000000000, "step_ms": 60000,
     "label": "worn", "scores": {"sound": 0.03, "worn": 0.97}, "observed_fraction": 1.0, ...}

`label` is the class with the greatest of the `scores`, which add up to 1.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from schemas.prediction import WindowPrediction, WindowPredictionWriter

CLASS_EVENT_TYPE = "tidegauge.class-prediction.v1"


@dataclass(frozen=True, slots=True, kw_only=True)
class ClassPrediction(WindowPrediction):
    """The class of one window; `scores` float32 (class,) are of `classes`, in their order."""

    label: str
    classes: tuple[str, ...]
    scores: NDArray[np.float32]


class ClassPredictionWriter(WindowPredictionWriter[ClassPrediction]):
    """Writes the classes of one stream's windows."""

    event_type = CLASS_EVENT_TYPE

    def _said(self, prediction: ClassPrediction) -> dict[str, Any]:
        return {"label": prediction.label, "scores": dict(zip(prediction.classes, prediction.scores, strict=True))}
