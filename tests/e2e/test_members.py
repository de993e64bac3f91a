"""Several processes of one group under one command."""

from __future__ import annotations

import json
import signal
import subprocess
import time
from collections.abc import Callable

from tests.e2e.conftest import LiveStream
from tests.e2e.test_stream import assert_exactly_once, history, send, wait_for_predictions


def test_two_members_share_the_work(live: LiveStream) -> None:
    """They predict everything once, and the command tells the counts of both together."""
    events = history(21, 900, "uvwxyz")
    send(live, events)
    counts = live.run_to_end("--processes", "2")
    assert counts["in"] == 900 == sum(counts[name] for name in ("used", "duplicate", "late", "dead"))
    assert counts["predictions"] == len(live.predictions())
    assert_exactly_once(live)


def test_told_to_end_all_end_soon_and_nothing_is_lost(live: LiveStream) -> None:
    command = live.command("--from", "earliest", "--processes", "2", "--progress")
    process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    try:
        send(live, history(22, 900, "uvwxyz"))
        wait_for_predictions(live)
        began = time.monotonic()
        process.send_signal(signal.SIGTERM)
        said, lines = process.communicate(timeout=20)
        assert time.monotonic() - began < 10
    finally:
        process.kill()
    assert process.returncode == 0
    assert json.loads(said)["predictions"] == len(live.predictions())
    assert {line[:9] for line in lines.splitlines() if line.startswith("member ")} == {"member 0:", "member 1:"}
    live.run_to_end()
    assert_exactly_once(live)


def test_a_member_that_dies_ends_the_whole_with_its_reason(live_with: Callable[..., LiveStream]) -> None:
    live = live_with(serving={"model": "nobody"})
    done = subprocess.run(
        live.command("--processes", "2", "--member", "m", "--wait", "0.2"), capture_output=True, text=True, timeout=60
    )
    assert done.returncode == 2
    [line] = done.stderr.splitlines()
    assert line.startswith("tidegauge: member m-")
    assert "ended with 2: model 'nobody' at" in line
