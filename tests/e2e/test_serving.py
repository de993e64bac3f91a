"""The consumer and a model server that goes away, or that does not take a window."""

from __future__ import annotations

import signal
import time
import urllib.error
import urllib.request
from collections.abc import Callable

import yaml

from tests.e2e.conftest import LiveStream
from tests.e2e.persistence_model import REFUSED
from tests.e2e.proxy import Proxy
from tests.e2e.test_stream import assert_exactly_once, expected_windows, history, payload, send


def ready(port: int) -> tuple[int, str]:
    try:
        with urllib.request.urlopen(f"http://127.0.0.1:{port}/readyz", timeout=5) as response:
            return response.status, response.read().decode()
    except urllib.error.HTTPError as error:
        with error:
            return error.code, error.read().decode()


def wait_until(holds: Callable[[], bool], timeout_s: float = 90.0) -> None:
    until = time.monotonic() + timeout_s
    while not holds():
        assert time.monotonic() < until
        time.sleep(0.1)


def metrics_port(live: LiveStream) -> int:
    """Where the first process says that it serves its metrics."""
    prefix, found = "metrics on port ", []

    def said() -> bool:
        lines = live.spec_file.with_suffix(".0.err").read_text().splitlines()
        found[:] = [int(line.removeprefix(prefix)) for line in lines if line.startswith(prefix)]
        return bool(found)

    wait_until(said)
    return found[0]


def test_a_model_server_that_goes_away_and_comes_back(live: LiveStream) -> None:
    """The consumer stays in its group, is not ready and says why, and goes on by itself; nothing is lost."""
    proxy = Proxy(live.spec.serving.address)
    document = yaml.safe_load(live.spec_file.read_text())
    document["serving"] |= {"address": proxy.address, "deadline": "1s"}
    live.spec_file.write_text(yaml.safe_dump(document))
    events = history(50, 600, "xyz")
    send(live, events[:200])
    process = live.start("--metrics-port", "0", "--progress")
    port = metrics_port(live)
    wait_until(lambda: ready(port)[0] == 200 and len(live.predictions()) > 0)

    proxy.cut()
    send(live, events[200:400])
    wait_until(lambda: "model server" in ready(port)[1])
    code, reason = ready(port)
    assert code == 503
    assert f"model 'last-value' at {proxy.address}: UNAVAILABLE" in reason
    before = len(live.predictions())
    send(live, events[400:])
    time.sleep(1)
    assert process.poll() is None
    assert len(live.predictions()) == before

    proxy.mend()
    wait_until(lambda: ready(port)[0] == 200)
    wait_until(lambda: len(live.predictions()) > before)
    with urllib.request.urlopen(f"http://127.0.0.1:{port}/metrics", timeout=5) as response:
        text = response.read().decode()
    assert "tidegauge_breaker_state 0.0" in text
    assert 'tidegauge_state_keys{partition="0"}' in text
    process.send_signal(signal.SIGTERM)
    assert process.wait(timeout=20) == 0
    proxy.cut()
    document["serving"]["address"] = live.spec.serving.address
    live.spec_file.write_text(yaml.safe_dump(document))
    live.run_to_end()
    assert_exactly_once(live)


def test_a_window_that_the_model_does_not_take(live: LiveStream) -> None:
    """It is a dead letter with its key and origin; all others are predicted, and every event is accounted for."""
    events = history(51, 300, "xyz")
    bad_ms = events[150][1]
    events.insert(150, ("x", bad_ms + 7, payload("x", bad_ms + 7, 2 * REFUSED)))
    send(live, events)
    counts = live.run_to_end()
    assert counts["in"] == 301 == counts["used"] + counts["duplicate"] + counts["late"] + counts["dead"]
    letters = live.read(live.spec.topics.dead_letters.name)
    documents = [letter.document for letter in letters]
    assert 0 < len(letters) == counts["refused"] < 10
    for letter, document in zip(letters, documents, strict=True):
        assert letter.headers["tidegauge.error.stage"] == b"rpc"
        assert letter.headers["tidegauge.error.reason"] == b"refused"
        assert b"a value that I do not take" in letter.headers["tidegauge.error.detail"]
        assert letter.headers["tidegauge.error.source"].startswith(live.spec.topics.input.name.encode() + b"[")
        assert (letter.key, letter.timestamp) == (b"x", document["origin_ms"])
        assert max(value or 0 for step in document["inputs"]["past_values"] for value in step) >= REFUSED
    expected = expected_windows(live)
    found = {(m.document["key"], m.document["origin_ms"]): m.document["window_digest"] for m in live.predictions()}
    refused = {("x", document["origin_ms"]) for document in documents}
    assert found == {place: digest for place, digest in expected.items() if place not in refused}
    assert refused < set(expected)
