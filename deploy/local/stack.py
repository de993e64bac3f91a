"""The local stack: what `up` starts, what runs in a state folder, and `down`, which stops it all.

Kafka is started here. Whatever else a `DetachedProcess` of the same state folder runs, such as the model server,
belongs to the stack too: `status` shows it and `down` stops it.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from deploy.local.kafka import KafkaNode, Ports
from deploy.local.process import DetachedProcess, Running, running_in
from deploy.local.state import claim, default_state_dir, is_claimed


@dataclass(frozen=True, slots=True)
class Stack:
    """What runs in a state folder, in the order of its start."""

    state_dir: Path
    processes: tuple[Running, ...]

    @property
    def bootstrap(self) -> str | None:
        """Kafka's `host:port`, if it runs."""
        return next((p.endpoints["bootstrap"] for p in self.processes if "bootstrap" in p.endpoints), None)


def up(
    state_dir: Path | None = None,
    *,
    ports: Ports | None = None,
    jars_dir: Path | None = None,
    timeout_s: float = 60.0,
    report: Callable[[str], None] = lambda _: None,
) -> Stack:
    """Starts Kafka, unless it runs already, and waits until it answers.

    Args:
        state_dir: Where everything is kept; `default_state_dir()` by default.
        ports: Where Kafka listens. None: the default ports, or where it runs already.
        jars_dir: As for `KafkaNode`.
        timeout_s: How long Kafka may take to answer, in seconds; a first download does not count.
        report: Is told, in words, what takes time.

    Raises:
        LocalStackError: See `KafkaNode.start` and `claim`.
    """
    state_dir = claim(state_dir or default_state_dir())
    KafkaNode(state_dir, jars_dir=jars_dir).start(ports, timeout_s=timeout_s, report=report)
    return status(state_dir)


def status(state_dir: Path | None = None) -> Stack:
    """What runs; nothing, where there is no state folder of ours."""
    state_dir = (state_dir or default_state_dir()).absolute()
    return Stack(state_dir, tuple(running_in(state_dir)) if is_claimed(state_dir) else ())


def down(state_dir: Path | None = None, *, timeout_s: float = 20.0) -> list[str]:
    """Stops everything that runs in a state folder, the last started first; the data stays.

    Args:
        state_dir: As for `up`.
        timeout_s: How long each process may take to end before it is killed, in seconds.

    Returns:
        The names of what was stopped.
    """
    stack = status(state_dir)
    stopped = reversed(stack.processes)
    return [p.name for p in stopped if DetachedProcess(p.name, stack.state_dir).stop(timeout_s=timeout_s)]
