"""A loop's metrics for Prometheus, and its health and readiness, over HTTP.

    /metrics   what Prometheus reads (docs/operations.md has the table)
    /healthz   200 while the loop turns, 503 once it is stuck
    /readyz    200 while records are worked on as they come; else 503, and the reason in the body

Everything is made of a status when it is asked for, so that it costs the loop nothing.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler
from itertools import accumulate

from prometheus_client import CONTENT_TYPE_LATEST, CollectorRegistry, generate_latest
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, HistogramMetricFamily, Metric

from schemas.errors import InputError
from streaming.http_thread import HttpThread
from streaming.live_status import Distribution, LiveStatus, LoopStatus

_BREAKER = {"closed": 0, "half-open": 1, "open": 2}


class LoopCollector:
    """Turns the status of a loop into metrics."""

    def __init__(self, status: LoopStatus) -> None:
        self.loop_status = status

    def collect(self) -> Iterator[Metric]:
        """The metrics as they are now."""
        status = self.loop_status
        yield from self._partitions()
        yield _histogram(
            "tidegauge_batch_events", "Records that were worked on and committed together.", status.batch_events
        )
        if status.committed_at is not None:
            age_s = time.monotonic() - status.committed_at
            yield GaugeMetricFamily("tidegauge_commit_age_seconds", "Since the last commit.", age_s)
        done, total = status.restored
        yield GaugeMetricFamily("tidegauge_restore_offsets", "Offsets to read until all partitions are live.", total)
        yield GaugeMetricFamily("tidegauge_restored_offsets", "Of these, those that have been read.", done)
        yield GaugeMetricFamily("tidegauge_ready", "1 while /readyz is 200.", status.readiness()[0])

    def _partitions(self) -> Iterator[Metric]:
        now_ms = time.time_ns() // 1_000_000
        families = {
            "lag": GaugeMetricFamily("tidegauge_lag_records", "Records behind the topic's end.", labels=["partition"]),
            "lag_s": GaugeMetricFamily(
                "tidegauge_lag_seconds", "The same in event time; 0 at the end.", labels=["partition"]
            ),
            "delay_s": GaugeMetricFamily(
                "tidegauge_watermark_delay_seconds", "Now minus the greatest event time.", labels=["partition"]
            ),
            "keys": GaugeMetricFamily("tidegauge_state_keys", "Keys that are remembered.", labels=["partition"]),
            "bytes": GaugeMetricFamily(
                "tidegauge_state_bytes", "What their windows take, by a sample.", labels=["partition"]
            ),
        }
        for number, partition in self.loop_status.partitions.items():
            place = [str(number)]
            families["lag"].add_metric(place, partition.lag)
            families["keys"].add_metric(place, partition.keys)
            families["bytes"].add_metric(place, partition.state_bytes)
            if partition.clock_ms is not None:
                delay_s = (now_ms - partition.clock_ms) / 1_000
                families["delay_s"].add_metric(place, delay_s)
                families["lag_s"].add_metric(place, max(delay_s, 0.0) if partition.lag else 0.0)
        yield from families.values()


class LiveCollector(LoopCollector):
    """Turns the consumer's status into metrics."""

    def __init__(self, status: LiveStatus) -> None:
        super().__init__(status)
        self._status = status

    def collect(self) -> Iterator[Metric]:
        """The metrics as they are now."""
        status = self._status
        yield from super().collect()
        yield from self._counts()
        yield _histogram("tidegauge_request_windows", "Windows in a request that was answered.", status.request_windows)
        yield _histogram(
            "tidegauge_request_seconds", "How long the model server took for a request.", status.request_seconds
        )
        if status.model_version is not None:
            yield GaugeMetricFamily("tidegauge_model_version", "The version that answered last.", status.model_version)
        breaker = "The circuit breaker to the model server: 0 closed, 1 half-open, 2 open."
        yield GaugeMetricFamily("tidegauge_breaker_state", breaker, _BREAKER[status.breaker.state])

    def _counts(self) -> Iterator[Metric]:
        counts = dict(self._status.counts)
        yield CounterMetricFamily("tidegauge_events_in", "Events read.", counts.get("in", 0))
        outcomes = CounterMetricFamily("tidegauge_events", "Events by what became of them.", labels=["outcome"])
        for outcome in ("used", "duplicate", "late", "dead"):
            outcomes.add_metric([outcome], counts.get(outcome, 0))
        yield outcomes
        windows = CounterMetricFamily("tidegauge_windows", "Windows by what became of them.", labels=["outcome"])
        for outcome, name in _WINDOW_OUTCOMES.items():
            windows.add_metric([outcome], counts.get(name, 0))
        yield windows
        shadow = CounterMetricFamily(
            "tidegauge_shadow_windows", "Windows that were given to an older version too.", labels=["outcome"]
        )
        shadow.add_metric(["predicted"], counts.get("shadow", 0))
        shadow.add_metric(["missed"], counts.get("shadow_missed", 0))
        yield shadow


_WINDOW_OUTCOMES = {
    "predicted": "predictions",
    "canary": "canary",
    "provisional": "provisional",
    "warming": "warming",
    "refused": "refused",
}


def _histogram(name: str, text: str, values: Distribution) -> Metric:
    bounds = [*(str(bound) for bound in values.bounds), "+Inf"]
    buckets = list(zip(bounds, accumulate(list(values.counts)), strict=True))
    return HistogramMetricFamily(name, text, buckets=buckets, sum_value=values.sum)


class MetricsServer(HttpThread):
    """Serves a status over HTTP until it is closed. A context manager.

    Args:
      collector: the metrics; it is its status whose health and readiness are told.
      port: where, on all addresses of the machine; 0 for a free one.
    Raises:
      InputError: the port is taken.
    """

    def __init__(self, collector: LoopCollector, port: int) -> None:
        registry = CollectorRegistry()
        registry.register(collector)

        class Handler(_Handler):
            answers = {
                "/metrics": lambda: (200, CONTENT_TYPE_LATEST, generate_latest(registry)),
                "/healthz": lambda: _answer(*collector.loop_status.health()),
                "/readyz": lambda: _answer(*collector.loop_status.readiness()),
            }

        try:
            super().__init__("metrics", "", port, Handler)
        except OSError as exc:
            raise InputError(f"--metrics-port: expected a free port, got {port}: {exc.strerror}") from exc


def _answer(holds: bool, sentence: str) -> tuple[int, str, bytes]:
    return 200 if holds else 503, "text/plain; charset=utf-8", f"{sentence}\n".encode()


class _Handler(BaseHTTPRequestHandler):
    answers: dict[str, Callable[[], tuple[int, str, bytes]]]
    timeout = 10

    def do_GET(self) -> None:
        """Answers one of the paths."""
        answer = self.answers.get(self.path.partition("?")[0])
        code, kind, body = answer() if answer else (404, "text/plain", b"expected /metrics, /healthz or /readyz\n")
        self.send_response(code)
        self.send_header("Content-Type", kind)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *_: object) -> None:
        """Says nothing: a scrape every few seconds is no news."""
