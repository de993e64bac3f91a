"""The metrics of processes, as they are really served."""

from __future__ import annotations

import pytest

from deploy.local.ports import free_port
from schemas.errors import InputError
from streaming.dashboard.endpoints import Endpoint, Endpoints
from streaming.dashboard.vitals import Look, Vitals
from streaming.live_status import LiveStatus
from streaming.metrics import LiveCollector, MetricsServer
from tests.streaming.test_metrics import busy


def test_what_processes_say() -> None:
    waiting = LiveStatus()
    with MetricsServer(LiveCollector(busy()), 0) as first, MetricsServer(LiveCollector(waiting), 0) as second:
        addresses = [f"127.0.0.1:{first.port}", f"http://localhost:{second.port}/metrics/", f"127.0.0.1:{free_port()}"]
        endpoints = Endpoints([Endpoint.parse(address) for address in addresses])
        scrapes = endpoints.scrape()
        endpoints.close()
    assert [scrape.kind for scrape in scrapes] == ["consumer", "consumer", "unknown"]
    assert [bool(scrape.problem) for scrape in scrapes] == [False, False, True]
    assert [scrape.unready for scrape in scrapes] == ["", "joining the consumer group", ""]
    assert scrapes[2].problem.startswith("does not answer")
    vitals = Vitals()
    vitals.add(Look(0.0, 0, 0, 0, None), None, scrapes)
    assert vitals.now["outcomes"] == {"in": 10, "used": 6, "duplicate": 1, "late": 2, "dead": 1}
    assert 60 <= vitals.now["lag_s"] < 70


@pytest.mark.parametrize(
    ("text", "url"),
    [
        ("consumer:9100", "http://consumer:9100/metrics"),
        ("[::1]:9100", "http://[::1]:9100/metrics"),
        ("https://host/monitoring/prometheus/metrics", "https://host/monitoring/prometheus/metrics"),
    ],
)
def test_where_metrics_are(text: str, url: str) -> None:
    assert Endpoint.parse(text).url == url


@pytest.mark.parametrize(
    "text", ["", "file:///etc/passwd", "ftp://host", "http://user:word@host/", "host:99999", "a b"]
)
def test_what_is_no_endpoint(text: str) -> None:
    with pytest.raises(InputError, match="--metrics: expected HOST:PORT or a URL"):
        Endpoint.parse(text)
