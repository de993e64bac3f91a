"""A detached child process: started once, found again by its pid file, stopped cleanly.

    server = DetachedProcess("model-server", claim(default_state_dir()))
    server.start(
        ["tidegauge-model-server", "--port=8500", "--model_base_path=/models/demand"],
        endpoints={"grpc": "127.0.0.1:8500"},
        ready=lambda: answers("127.0.0.1:8500"),
        timeout_s=30,
    )
    ...
    server.stop()

The child has a session of its own and outlives us. A later process with the same name and state folder finds it, and
`running_in(state_dir)` lists all of them, which is how `down` and `status` know what `up` and others have started.
"""

from __future__ import annotations

import json
import logging
import os
import shutil
import signal
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING

import psutil  # type: ignore[import-untyped]

from schemas.errors import LocalStackError

if TYPE_CHECKING:
    from filelock import BaseFileLock

logger = logging.getLogger(__name__)

POLL_S = 0.1
KILL_S = 10.0
TAIL_LINES = 12
START_TOLERANCE_S = 2.0
"""The system derives a start time from its boot time, which moves a little when the clock is set."""


@dataclass(frozen=True, slots=True)
class Running:
    """A process that runs.

    Attributes:
        name: `kafka`, `model-server`, …
        pid: Its process id.
        started_s: When it was started, in seconds since the epoch. With `pid` it identifies the process: a pid alone
            may have been given to another one since.
        endpoints: Where it answers, by name: `{"bootstrap": "127.0.0.1:19092"}`.
    """

    name: str
    pid: int
    started_s: float
    endpoints: Mapping[str, str]


class DetachedProcess:
    """The one process of a name in a state folder, whether it runs now or not.

    Args:
        name: Names the pid file and the log.
        state_dir: A claimed state folder (`deploy.local.state`).
    """

    def __init__(self, name: str, state_dir: Path) -> None:
        self.name = name
        self.pid_file = _run_dir(state_dir) / f"{name}.json"
        self.log_file = state_dir / "log" / f"{name}.log"

    @cached_property
    def lock(self) -> BaseFileLock:
        """Held while it is started or stopped; take it around `start` if that needs preparation of its own.

        It may be taken again by who holds it.
        """
        from filelock import FileLock

        self.pid_file.parent.mkdir(parents=True, exist_ok=True)
        return FileLock(self.pid_file.with_suffix(".lock"))

    def running(self) -> Running | None:
        """The process if it runs; None if it does not, be there a pid file left over or not."""
        found = self._find()
        return found[0] if found else None

    def start(
        self,
        command: Sequence[str | os.PathLike[str]],
        *,
        endpoints: Mapping[str, str],
        ready: Callable[[], bool],
        timeout_s: float,
        env: Mapping[str, str] | None = None,
    ) -> Running:
        """Starts the process and waits until it is ready; one that runs already is left alone and returned.

        Unless this returns, nothing is left running.

        Args:
            command: The program, by path or looked up in PATH, and its arguments.
            endpoints: Where it will answer, by name; kept in the pid file.
            ready: Whether it answers by now. Asked every 100 ms; must not wait long itself.
            timeout_s: How long it may take, in seconds.
            env: Its environment, all of it; ours by default.

        Raises:
            LocalStackError: The program was not found, ended, or was not ready in time. The message ends with the last
                lines that it printed.
        """
        with self.lock:
            if running := self.running():
                return running
            child = psutil.Process(self._spawn(command, os.environ if env is None else env))
            try:
                running = Running(self.name, child.pid, child.create_time(), dict(endpoints))
                _write_atomically(self.pid_file, json.dumps(asdict(running)))
                self._await(child, ready, timeout_s)
            except BaseException:
                _end(child, grace_s=2.0)
                self.pid_file.unlink(missing_ok=True)
                raise
            return running

    def stop(self, *, timeout_s: float = 20.0) -> bool:
        """Asks the process to end (SIGTERM), and ends it (SIGKILL) if it has not after `timeout_s` seconds.

        Returns:
            Whether it ran.
        """
        with self.lock:
            found = self._find()
            if found:
                _, process = found
                if not _end(process, grace_s=timeout_s):
                    logger.warning("%s (pid %d) did not end within %g s; killed it", self.name, process.pid, timeout_s)
            self.pid_file.unlink(missing_ok=True)
            return found is not None

    def log_tail(self) -> str:
        """The last lines that it printed."""
        try:
            return "\n".join(self.log_file.read_text(errors="replace").splitlines()[-TAIL_LINES:])
        except FileNotFoundError:
            return ""

    def _find(self) -> tuple[Running, psutil.Process] | None:
        try:
            recorded = Running(**json.loads(self.pid_file.read_text()))
            process = psutil.Process(recorded.pid)
            same = abs(process.create_time() - recorded.started_s) < START_TOLERANCE_S
        except (FileNotFoundError, psutil.NoSuchProcess, psutil.AccessDenied):
            return None  # AccessDenied: a process of someone else has the pid now
        except (ValueError, TypeError) as exc:
            raise LocalStackError(f"{self.pid_file} is damaged; see if its process runs, then delete it") from exc
        return (recorded, process) if same and _alive(process) else None

    def _spawn(self, command: Sequence[str | os.PathLike[str]], env: Mapping[str, str]) -> int:
        """Starts the program in a session of its own, with its output in the log file.

        `posix_spawn` rather than `subprocess`, whose `Popen` wants to be waited for by whoever started it.
        """
        executable = shutil.which(command[0], path=env.get("PATH"))
        if executable is None:
            raise LocalStackError(f"{self.name} cannot be started: there is no program {os.fspath(command[0])}")
        self.log_file.parent.mkdir(parents=True, exist_ok=True)
        if self.log_file.exists():
            self.log_file.replace(self.log_file.with_suffix(".log.1"))
        return os.posix_spawn(
            executable,
            [os.fspath(part) for part in command],
            env,
            file_actions=[
                (os.POSIX_SPAWN_OPEN, 0, os.devnull, os.O_RDONLY, 0),
                (os.POSIX_SPAWN_OPEN, 1, self.log_file, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o644),
                (os.POSIX_SPAWN_DUP2, 1, 2),
            ],
            setsid=True,
            setsigdef=[signal.SIGINT, signal.SIGPIPE],  # ignored by a shell's `&` and by Python; not by the child
        )

    def _await(self, child: psutil.Process, ready: Callable[[], bool], timeout_s: float) -> None:
        deadline = time.monotonic() + timeout_s
        while _alive(child):
            if ready():
                return
            if time.monotonic() > deadline:
                raise LocalStackError(f"{self.name} was not ready after {timeout_s:g} s; {self._last_words()}")
            time.sleep(POLL_S)
        raise LocalStackError(f"{self.name} ended before it was ready; {self._last_words()}")

    def _last_words(self) -> str:
        return f"the end of {self.log_file}:\n{self.log_tail() or '(nothing)'}"


def running_in(state_dir: Path) -> list[Running]:
    """What runs of a state folder, in the order of its start."""
    names = [pid_file.stem for pid_file in _run_dir(state_dir).glob("*.json")]
    found = (DetachedProcess(name, state_dir).running() for name in names)
    return sorted((running for running in found if running), key=lambda running: running.started_s)


def _run_dir(state_dir: Path) -> Path:
    return state_dir / "run"


def _alive(process: psutil.Process) -> bool:
    """Whether it still runs. If it is our child and has ended, it is reaped; another parent's zombie is not alive.

    A zombie whose threads have not all ended is: it still holds its ports.
    """
    try:
        process.wait(timeout=0)
    except psutil.TimeoutExpired:
        try:
            return bool(process.status() != psutil.STATUS_ZOMBIE or process.num_threads() > 1)
        except psutil.NoSuchProcess:
            return False
    return False


def _end(process: psutil.Process, *, grace_s: float) -> bool:
    """Ends a process; whether SIGTERM was enough. psutil refuses to signal a pid that was given away meanwhile."""
    try:
        process.terminate()
        if _ended_within(process, grace_s):
            return True
        process.kill()
        _ended_within(process, KILL_S)
    except psutil.NoSuchProcess:
        return True
    return False


def _ended_within(process: psutil.Process, timeout_s: float) -> bool:
    deadline = time.monotonic() + timeout_s
    while _alive(process):
        if time.monotonic() > deadline:
            return False
        time.sleep(POLL_S)
    return True


def _write_atomically(path: Path, text: str) -> None:
    partial = path.with_suffix(".partial")
    partial.write_text(text)
    partial.replace(path)
