import json
import logging
import os
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import psutil
import pytest

from deploy.local.process import DetachedProcess, Running, running_in
from deploy.local.state import claim
from schemas.errors import LocalStackError

SLEEP = [sys.executable, "-c", "import time; print('hello', flush=True); time.sleep(60)"]


@pytest.fixture
def state(tmp_path: Path) -> Iterator[Path]:
    state = claim(tmp_path / "state")
    yield state
    for running in running_in(state):
        DetachedProcess(running.name, state).stop(timeout_s=0)


def start(state: Path, name: str = "sleeper", command: list[str] = SLEEP) -> Running:
    process = DetachedProcess(name, state)
    return process.start(
        command, endpoints={"grpc": "127.0.0.1:1"}, ready=lambda: "hello" in process.log_tail(), timeout_s=10
    )


def test_starts_is_found_again_and_stops(state: Path) -> None:
    process = DetachedProcess("sleeper", state)
    assert process.running() is None
    running = start(state)
    assert running == DetachedProcess("sleeper", state).running()
    assert running.endpoints == {"grpc": "127.0.0.1:1"}
    assert abs(running.started_s - time.time()) < 10
    assert os.getsid(running.pid) == running.pid
    assert process.stop()
    assert not psutil.pid_exists(running.pid)
    assert not process.stop()
    assert process.running() is None


def test_starting_twice_starts_once(state: Path) -> None:
    assert start(state) == start(state)


def test_outlives_the_process_that_started_it(state: Path) -> None:
    code = (
        "import sys; from pathlib import Path; from tests.deploy.local.test_process import start; "
        "print(start(Path(sys.argv[1])).pid)"
    )
    done = subprocess.run([sys.executable, "-c", code, state], capture_output=True, text=True, check=True)
    running = DetachedProcess("sleeper", state).running()
    assert running is not None
    assert running.pid == int(done.stdout)
    assert DetachedProcess("sleeper", state).stop()
    assert DetachedProcess("sleeper", state).running() is None


def test_lists_what_runs_in_the_order_of_its_start(state: Path) -> None:
    names = ["late", "early"]
    for name in reversed(names):
        start(state, name)
        time.sleep(0.02)
    assert [running.name for running in running_in(state)] == ["early", "late"]
    DetachedProcess("early", state).stop()
    assert [running.name for running in running_in(state)] == ["late"]


def test_a_pid_that_belongs_to_another_process_now_is_left_alone(state: Path) -> None:
    running = start(state)
    process = DetachedProcess("sleeper", state)
    recorded = json.loads(process.pid_file.read_text())
    process.pid_file.write_text(json.dumps(recorded | {"started_s": running.started_s - 60}))
    assert process.running() is None
    assert not process.stop()
    assert psutil.pid_exists(running.pid)
    psutil.Process(running.pid).kill()


def test_a_pid_file_without_a_process_is_no_hindrance(state: Path) -> None:
    killed = start(state)
    psutil.Process(killed.pid).kill()
    process = DetachedProcess("sleeper", state)
    while process.running():
        time.sleep(0.01)
    assert process.pid_file.exists()
    assert start(state).pid != killed.pid


def test_a_damaged_pid_file_is_said_so(state: Path) -> None:
    process = DetachedProcess("sleeper", state)
    process.pid_file.parent.mkdir()
    process.pid_file.write_text("{")
    with pytest.raises(LocalStackError, match=r"sleeper\.json is damaged"):
        process.running()
    process.pid_file.unlink()


def test_a_process_that_ends_at_once_leaves_its_last_words(state: Path) -> None:
    with pytest.raises(LocalStackError, match=r"(?s)sleeper ended before it was ready.*sleeper\.log:\nno such model"):
        start(state, command=[sys.executable, "-c", "raise SystemExit('no such model')"])
    assert not DetachedProcess("sleeper", state).pid_file.exists()


def test_a_process_that_is_never_ready_is_ended(state: Path) -> None:
    process = DetachedProcess("sleeper", state)
    pids = []

    def never() -> bool:
        pids.append(json.loads(process.pid_file.read_text())["pid"])
        return False

    with pytest.raises(LocalStackError, match=r"not ready after 0\.5 s"):
        process.start(SLEEP, endpoints={}, ready=never, timeout_s=0.5)
    assert not psutil.pid_exists(pids[0])
    assert process.running() is None


def test_a_program_that_is_not_there(state: Path) -> None:
    with pytest.raises(LocalStackError, match="there is no program tidegauge-no-such-program"):
        start(state, command=["tidegauge-no-such-program"])


def test_the_log_of_the_run_before_is_kept(state: Path) -> None:
    for word in ("hello one", "hello two"):
        start(state, command=[sys.executable, "-c", f"import time; print('{word}', flush=True); time.sleep(60)"])
        DetachedProcess("sleeper", state).stop()
    assert (state / "log" / "sleeper.log").read_text() == "hello two\n"
    assert (state / "log" / "sleeper.log.1").read_text() == "hello one\n"


def test_one_that_will_not_end_is_killed_with_a_warning(state: Path, caplog: pytest.LogCaptureFixture) -> None:
    stubborn = "import signal, time; signal.signal(signal.SIGTERM, signal.SIG_IGN); print('hello', flush=True)"
    running = start(state, command=[sys.executable, "-c", f"{stubborn}; time.sleep(60)"])
    with caplog.at_level(logging.WARNING):
        assert DetachedProcess("sleeper", state).stop(timeout_s=0.3)
    assert "did not end within 0.3 s; killed it" in caplog.text
    assert not psutil.pid_exists(running.pid)
