"""Several members of one consumer group, each a process of its own, under one that looks after them.

A member that dies ends the others too: it is for whatever runs the whole to start it again, and then every member takes
its partitions over under its old name within moments.
"""

from __future__ import annotations

import json
import signal
import subprocess
import time
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from threading import Event as StopFlag
from threading import Thread

from schemas.errors import TidegaugeError

DRAIN_S = 15.0
"""How long a member may take to end before it is killed; it ends within 10 s by itself."""
_LOOK_S = 0.1


class MemberError(TidegaugeError):
    """A member died. `exit_code` is its own."""

    def __init__(self, message: str, exit_code: int) -> None:
        super().__init__(message)
        self.exit_code = exit_code


@dataclass(slots=True)
class _Member:
    name: str
    process: subprocess.Popen[str]
    said: list[str] = field(default_factory=list)
    """The lines of its error stream, of which the last one says why it died."""
    listener: Thread | None = None


def run_members(
    commands: Mapping[str, Sequence[str]], *, stopping: StopFlag, report: Callable[[str], None]
) -> dict[str, int]:
    """Runs some members until all have ended.

    Args:
      commands: what starts each member, by its name; it prints its counts as JSON, and what it has to say as lines of
        the error stream.
      stopping: once set, every member is told to end (SIGTERM).
      report: is told what the members say.
    Returns:
      The counts of all members together.
    Raises:
      MemberError: one died; the others were told to end before.
    """
    members = [_start(command, name, report) for name, command in commands.items()]
    try:
        failed = _watch(members, stopping, report)
        _end(members)
        failed = failed or next((member for member in members if member.process.returncode), None)
    finally:
        for member in members:
            member.process.kill()
    if failed is not None:
        code = failed.process.returncode
        how = f"was ended by signal {-code}" if code < 0 else f"ended with {code}"
        reason = failed.said[-1].removeprefix("tidegauge: ") if failed.said else "it said nothing"
        raise MemberError(f"member {failed.name} {how}: {reason}", code if code > 0 else 128 - code)
    counts: Counter[str] = Counter()
    for member in members:
        assert member.process.stdout is not None
        counts.update(json.loads(member.process.stdout.read()))
    return dict(counts)


def _start(command: Sequence[str], name: str, report: Callable[[str], None]) -> _Member:
    process = subprocess.Popen(
        command, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )
    member = _Member(name, process)

    def listen() -> None:
        assert process.stderr is not None
        for line in process.stderr:
            member.said.append(line.rstrip())
            del member.said[:-20]
            report(f"member {name}: {line.rstrip()}")

    member.listener = Thread(target=listen, daemon=True, name=f"member-{name}")
    member.listener.start()
    return member


def _watch(members: Sequence[_Member], stopping: StopFlag, report: Callable[[str], None]) -> _Member | None:
    """Waits until all members have ended, one has died, or all are to end; the one that died."""
    running = list(members)
    while running and not stopping.is_set():
        for member in [member for member in running if member.process.poll() is not None]:
            running.remove(member)
            if member.process.returncode:
                return member
            report(f"member {member.name} has ended")
        stopping.wait(_LOOK_S)
    return None


def _end(members: Sequence[_Member]) -> None:
    for member in members:
        if member.process.poll() is None:
            member.process.send_signal(signal.SIGTERM)
    give_up = time.monotonic() + DRAIN_S
    for member in members:
        try:
            member.process.wait(max(give_up - time.monotonic(), 0))
        except subprocess.TimeoutExpired:
            member.process.kill()
            member.process.wait()
        if member.listener is not None:
            member.listener.join(timeout=1)
