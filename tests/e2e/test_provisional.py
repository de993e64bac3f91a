"""Steps of idle keys that the wall clock closes, where the spec says so."""

from __future__ import annotations

import signal
import time
from collections.abc import Callable

import pytest

from deploy.local.ports import free_port
from tests.benchmarks.instant_model import serve
from tests.e2e.conftest import LiveStream, Message
from tests.e2e.test_stream import expected_windows, payload, send, wait_for_predictions

STEP_MS = 2_000


def test_idle_keys_get_provisional_predictions_that_change_nothing(
    live_with: Callable[..., LiveStream], request: pytest.FixtureRequest
) -> None:
    port = free_port()
    live = live_with(
        kafka={"idle_close": "500ms"},
        grid={"step": "2s", "max_gap": 1, "lateness": "0ms", "max_disorder": "1h"},
        serving={"address": f"127.0.0.1:{port}"},
    )
    server = serve(live.spec, port)
    request.addfinalizer(lambda: server.stop(None))

    def provisional() -> list[Message]:
        return [m for m in live.predictions() if m.document["role"] == "provisional"]

    old_ms = time.time_ns() // 10**6 - 60_000
    process = live.start()
    send(live, [("y", time_ms, payload("y", time_ms, 1.0)) for time_ms in range(old_ms, old_ms + 20_000, STEP_MS)])
    wait_for_predictions(live)
    now_ms = time.time_ns() // 10**6
    times = [now_ms - STEP_MS * (30 - n) for n in range(31)]
    send(live, [("x", time_ms, payload("x", time_ms, float(n))) for n, time_ms in enumerate(times)])
    # The step of the last event, and one more (`max_gap`) at whose end a window may be, each once; nothing of key y,
    # which has been silent for so long that its next event starts it anew.
    last = times[-1] // STEP_MS
    until = time.monotonic() + 30
    while len(provisional()) < 2:
        assert time.monotonic() < until
        time.sleep(0.3)
    time.sleep(2.5)
    found = [(m.document["key"], m.document["origin_ms"] // STEP_MS) for m in provisional()]
    assert found == [("x", last + 1), ("x", last + 2)]

    later_ms = times[-1] + STEP_MS  # it had not ended after all
    send(live, [("x", later_ms, payload("x", later_ms, 1.0))])
    until = time.monotonic() + 30
    while (wanted := expected_windows(live)) != {
        (m.document["key"], m.document["origin_ms"]): m.document["window_digest"]
        for m in live.predictions()
        if m.document["role"] == "champion"
    }:
        assert time.monotonic() < until
        time.sleep(0.3)
    assert len(wanted) > 25
    ids = [m.headers["ce_id"] for m in live.predictions()]
    assert len(set(ids)) == len(ids)
    process.send_signal(signal.SIGTERM)
    assert process.wait(timeout=20) == 0
