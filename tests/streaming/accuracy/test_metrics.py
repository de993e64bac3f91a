"""What `tidegauge accuracy` tells of itself."""

from __future__ import annotations

import numpy as np

from schemas.accuracy import ScoredPrediction
from schemas.prediction import ModelVersion
from streaming.accuracy.drift import DriftMeasure
from streaming.accuracy.figures import AccuracyStatus, Running
from streaming.accuracy.metrics import AccuracyCollector
from streaming.live_status import PartitionStatus


def scoring() -> AccuracyStatus:
    """One prediction was scored, four units off where persistence was two off; one waits."""
    status = AccuracyStatus(joined=True, committed_at=0.0, pending=1, closed_steps=3)
    status.running = Running(10, ("temp",), (1,))
    forecast, actual, last, margin = (np.array([[value]], np.float32) for value in (14.0, 10.0, 12.0, 5.0))
    one = ScoredPrediction(
        key="EWR",
        origin_ms=0,
        model=ModelVersion("m", 3, "0" * 32),
        role="champion",
        targets=("temp",),
        units=("degF",),
        steps=(1,),
        actual=actual,
        forecast=forecast,
        persistence=last,
        lower=forecast - margin,
        upper=forecast + margin,
        coverage=0.9,
    )
    status.running.add([one])
    status.counts.update({"scored": 1, "foreign": 2, "triggers": 1})
    status.measures = (DriftMeasure("errors", None, 1.5, 1.0), DriftMeasure("distribution", "temp", 0.1, 0.2))
    status.partitions = {0: PartitionStatus(7, 0, 11, 1_234)}
    return status


def test_what_is_told() -> None:
    told = {
        (sample.name, *sample.labels.values()): sample.value
        for family in AccuracyCollector(scoring()).collect()
        for sample in family.samples
    }
    assert told["tidegauge_scored_predictions_total", "scored"] == 1
    assert told["tidegauge_scored_predictions_total", "foreign"] == 2
    assert told["tidegauge_triggers_total",] == 1
    assert told["tidegauge_pending_predictions",] == 1
    assert told["tidegauge_closed_steps",] == 3
    for step in ("1", "all"):
        place = ("3", "champion", "temp", step)
        assert told["tidegauge_accuracy_mae", *place] == 4
        assert told["tidegauge_accuracy_mse", *place] == 16
        assert told["tidegauge_accuracy_skill", *place] == -1
        assert told["tidegauge_accuracy_coverage", *place] == 1
    assert told["tidegauge_drift", "errors", ""] == 1.5
    assert told["tidegauge_drift_threshold", "distribution", "temp"] == 0.2
    assert told["tidegauge_lag_records", "0"] == 7
