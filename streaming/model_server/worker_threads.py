"""Threads that run gRPC's calls: a few at a time in Python, the others waiting for something else."""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable
from concurrent.futures import Executor
from queue import SimpleQueue
from typing import Any

_log = logging.getLogger(__name__)

_TURNS = 2
"""One thread runs Python, while the other is in gRPC's own code and the kernel's. More would only take the
interpreter's lock from each other."""


class WorkerThreads(Executor):
    """An executor that forgets what it has run, and in which few threads do the work of many.

    Only a thread that has a turn takes a call. A call that is going to wait, for the model or for a lock, says so by
    `step_aside`; another thread has its turn from then on.

    The library's own makes a future, with a lock and a condition, of everything it is given. gRPC looks at that future
    only to count the calls under way, which it compares with a `maximum_concurrent_rpcs` that this server does not
    set; and counting them takes the one lock under which it accepts calls.
    """

    def __init__(self, count: int, name: str) -> None:
        """Starts `count` threads."""
        self._mine = threading.local()
        self._turns: SimpleQueue[None] = SimpleQueue()
        for _ in range(_TURNS):
            self._turns.put(None)
        self._work: SimpleQueue[tuple[Callable[..., object], tuple[object, ...]] | None] = SimpleQueue()
        self._threads = [
            threading.Thread(target=self._run, name=f"{name}-{number}", daemon=True) for number in range(count)
        ]
        for thread in self._threads:
            thread.start()

    def submit(self, run: Callable[..., object], /, *arguments: object) -> Any:  # type: ignore[override]
        """Runs something in the next free thread; what comes of it is told to nobody."""
        self._work.put((run, arguments))
        return _UNTOLD

    def step_aside(self) -> None:
        """Says that the call of this thread waits, or is long under way outside of Python: the next may be taken."""
        if self._mine.turn:
            self._mine.turn = False
            self._turns.put(None)

    def shutdown(self, wait: bool = True, *, cancel_futures: bool = False) -> None:  # noqa: ARG002
        """Lets the threads end, once all that was submitted has run."""
        for _ in self._threads:
            self._work.put(None)
        if wait:
            for thread in self._threads:
                thread.join()

    def _run(self) -> None:
        while True:
            self._turns.get()
            self._mine.turn = True
            if not self._take_calls():
                self._turns.put(None)
                return

    def _take_calls(self) -> bool:
        """Runs calls until one has stepped aside; False if there will be no more."""
        while self._mine.turn:
            work = self._work.get()
            if work is None:
                return False
            run, arguments = work
            try:
                run(*arguments)
            except Exception:  # the thread must live on, whatever it ran
                _log.exception("a call has failed")
            # A call keeps its request and its connection alive: it must not stay until the next one comes.
            del work, run, arguments
        return True


class _Untold:
    """The future of everything: it is not told anything, and tells nobody."""

    def add_done_callback(self, callback: Callable[[Any], object]) -> None:
        """Never calls back."""


_UNTOLD = _Untold()
