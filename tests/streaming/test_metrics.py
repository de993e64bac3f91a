"""Metrics, health and readiness as they come over HTTP, and their documentation."""

from __future__ import annotations

import re
import time
import urllib.error
import urllib.request
from pathlib import Path

import pytest
from prometheus_client.parser import text_string_to_metric_families

from schemas.errors import InputError
from streaming.accuracy.metrics import AccuracyCollector
from streaming.live_status import HEALTHY_S, Distribution, LiveStatus, PartitionStatus
from streaming.metrics import LiveCollector, MetricsServer
from tests.streaming.accuracy.test_metrics import scoring


def get(port: int, path: str) -> tuple[int, str]:
    try:
        with urllib.request.urlopen(f"http://127.0.0.1:{port}{path}", timeout=5) as response:
            return response.status, response.read().decode()
    except urllib.error.HTTPError as error:
        with error:
            return error.code, error.read().decode()


def busy() -> LiveStatus:
    status = LiveStatus(joined=True, committed_at=time.monotonic() - 3, model_version=4, restored=(2, 9))
    status.counts.update({"in": 10, "used": 6, "duplicate": 1, "late": 2, "dead": 1, "predictions": 5, "warming": 3})
    status.partitions = {0: PartitionStatus(7, time.time_ns() // 1_000_000 - 60_000, 11, 1_234)}
    for latency_ms in (0.5, 30.0, 40.0, 99_000.0):
        status.answered(100, latency_ms)
    return status


def test_what_is_scraped() -> None:
    with MetricsServer(LiveCollector(busy()), 0) as server:
        code, text = get(server.port, "/metrics")
    assert code == 200
    samples = {
        (sample.name, *sample.labels.values()): sample.value
        for family in text_string_to_metric_families(text)
        for sample in family.samples
    }
    assert samples["tidegauge_events_in_total",] == 10
    assert sum(samples["tidegauge_events_total", name] for name in ("used", "duplicate", "late", "dead")) == 10
    assert samples["tidegauge_windows_total", "predicted"] == 5
    assert samples["tidegauge_windows_total", "warming"] == 3
    assert samples["tidegauge_lag_records", "0"] == 7
    assert 60 <= samples["tidegauge_lag_seconds", "0"] < 70
    assert 60 <= samples["tidegauge_watermark_delay_seconds", "0"] < 70
    assert samples["tidegauge_state_bytes", "0"] == 1_234
    assert 3 <= samples["tidegauge_commit_age_seconds",] < 10
    assert samples["tidegauge_request_seconds_bucket", "0.001"] == 1
    assert samples["tidegauge_request_seconds_bucket", "0.05"] == 3
    assert samples["tidegauge_request_seconds_bucket", "+Inf"] == samples["tidegauge_request_seconds_count",] == 4
    assert samples["tidegauge_request_seconds_sum",] == pytest.approx(99.0705)


def test_a_value_is_counted_up_to_its_bound() -> None:
    values = Distribution([1.0, 2.0])
    for value in (0.5, 1.0, 1.5, 3.0):
        values.add(value)
    assert (values.counts, values.sum) == ([2, 1, 1], 6.0)


def test_readiness_says_why_not() -> None:
    status = LiveStatus()
    with MetricsServer(LiveCollector(status), 0) as server:
        assert get(server.port, "/readyz") == (503, "joining the consumer group\n")
        status.joined, status.restoring, status.restored = True, 2, (5, 50)
        assert get(server.port, "/readyz") == (503, "restoring 2 partitions: 5 of 50 offsets\n")
        status.setback = "the broker did not answer in time"
        assert get(server.port, "/readyz")[1] == "going back to the last commit: the broker did not answer in time\n"
        status.restoring, status.setback = 0, ""
        assert get(server.port, "/readyz") == (200, "0 partitions are live\n")
        status.breaker.trip("nobody there")
        assert get(server.port, "/readyz") == (503, "waiting for the model server: nobody there\n")
        status.breaker.close()
        assert get(server.port, "/readyz")[0] == 200
        assert get(server.port, "/healthz")[0] == 200
        status.turned_at -= HEALTHY_S
        assert get(server.port, "/healthz")[0] == 503
        assert get(server.port, "/elsewhere")[0] == 404


def test_a_port_that_is_taken() -> None:
    with (
        MetricsServer(LiveCollector(LiveStatus()), 0) as server,
        pytest.raises(InputError, match=f"free port, got {server.port}"),
    ):
        MetricsServer(LiveCollector(LiveStatus()), server.port)


def test_every_metric_is_documented_and_no_other() -> None:
    table = re.findall(r"^\| `(tidegauge_\w+)` \| (\w+) \|", Path("docs/operations.md").read_text(), re.MULTILINE)
    exported = {
        (f"{family.name}_total" if family.type == "counter" else family.name, family.type)
        for collector in (LiveCollector(busy()), AccuracyCollector(scoring()))
        for family in collector.collect()
    }
    assert sorted(table) == sorted(exported)
