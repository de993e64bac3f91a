"""Metrics of `tidegauge accuracy` for Prometheus; docs/accuracy.md has the table."""

from __future__ import annotations

from collections.abc import Iterator

from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, Metric

from streaming.accuracy.figures import AccuracyStatus
from streaming.accuracy.scorer import OUTCOMES
from streaming.metrics import LoopCollector

_SCORES = {
    "mae": "Mean absolute error of the newest scored predictions, in the target's unit.",
    "mse": "Mean squared error of the newest scored predictions.",
    "skill": "1 - MAE / MAE of persistence, of the newest scored predictions.",
    "coverage": "The share of actual values within the widest central interval, of the newest scored predictions.",
}


class AccuracyCollector(LoopCollector):
    """Turns the status of `tidegauge accuracy` into metrics."""

    def __init__(self, status: AccuracyStatus) -> None:
        super().__init__(status)
        self._status = status

    def collect(self) -> Iterator[Metric]:
        """The metrics as they are now."""
        status = self._status
        counts = dict(status.counts)
        yield from super().collect()
        outcomes = CounterMetricFamily(
            "tidegauge_scored_predictions", "Predictions by what became of them.", labels=["outcome"]
        )
        for outcome in OUTCOMES:
            outcomes.add_metric([outcome], counts.get(outcome, 0))
        yield outcomes
        yield CounterMetricFamily("tidegauge_triggers", "Triggers that were raised.", counts.get("triggers", 0))
        yield GaugeMetricFamily(
            "tidegauge_pending_predictions", "Predictions that wait for actual values.", status.pending
        )
        yield GaugeMetricFamily("tidegauge_closed_steps", "Closed steps that are kept for them.", status.closed_steps)
        yield from self._figures()
        yield from self._drift()

    def _figures(self) -> Iterator[Metric]:
        labels = ["version", "role", "target", "step"]
        families = {
            name: GaugeMetricFamily(f"tidegauge_accuracy_{name}", text, labels=labels) for name, text in _SCORES.items()
        }
        for figure in self._status.running.figures() if self._status.running is not None else ():
            place = [str(figure.version), figure.role, figure.target, str(figure.step or "all")]
            for name, family in families.items():
                if (value := figure.scores.get(name)) is not None:
                    family.add_metric(place, value)
        yield from families.values()

    def _drift(self) -> Iterator[Metric]:
        labels = ["measure", "feature"]
        value = GaugeMetricFamily("tidegauge_drift", "What was measured of the last block of time.", labels=labels)
        threshold = GaugeMetricFamily("tidegauge_drift_threshold", "Above this it is drift.", labels=labels)
        for measure in self._status.measures:
            place = [measure.measure, measure.feature or ""]
            value.add_metric(place, measure.value)
            threshold.add_metric(place, measure.threshold)
        yield value
        yield threshold
