"""A history that goes into the input topic bit by bit, in the order of time."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from threading import Event as StopFlag
from threading import Thread
from time import sleep

from flows.history import History
from flows.replay import Sender
from schemas.errors import InputError
from schemas.spec import Spec
from schemas.units import ms_to_iso


class EventFeed:
    """Sends the events of a history as time goes by, which is told to it.

    Args:
      spec: the stream.
      history: its events.
      sender: to its input topic.
    """

    def __init__(self, spec: Spec, history: History, sender: Sender) -> None:
        self._events = zip(history.key, history.time_ms.tolist(), history.payloads(spec), strict=True)
        self._next = next(self._events, None)
        self._step_ms, self._sender = spec.grid.step, sender
        self.clock_ms = int(history.time_ms[0]) - 1 if len(history) else 0
        """Every event up to this time is sent."""

    def send_through(self, time_ms: int, *, pause_s: float = 0.0) -> None:
        """Sends what is left of the events up to a time, those at that time too, and waits for the broker.

        Args:
          time_ms: the time.
          pause_s: how long to wait after each step, in seconds.
        Raises:
          InputError: the history ends before it.
        """
        while self.clock_ms < time_ms:
            self.clock_ms = min(self.clock_ms + self._step_ms, time_ms) if pause_s else time_ms
            while self._next is not None and self._next[1] <= self.clock_ms:
                key, at_ms, payload = self._next
                self._sender.send(payload, key=key.encode(), time_ms=at_ms)
                self._next = next(self._events, None)
            self._sender.flush()
            if self._next is None:
                raise InputError(f"expected events beyond {ms_to_iso(time_ms)}, got none")
            sleep(pause_s)

    @contextmanager
    def going_on(self, pause_s: float, most_ms: int) -> Iterator[None]:
        """Sends a step after the other while the context lasts, on a thread of its own.

        Args:
          pause_s: how long to wait before each step, in seconds.
          most_ms: so much event time at most.
        Raises:
          InputError: as `send_through`.
        """
        stop, failures, until_ms = StopFlag(), list[BaseException](), self.clock_ms + most_ms

        def send() -> None:
            try:
                while self.clock_ms < until_ms and not stop.wait(pause_s):
                    self.send_through(self.clock_ms + self._step_ms)
            except BaseException as exc:
                failures.append(exc)

        thread = Thread(target=send, name="feed", daemon=True)
        thread.start()
        try:
            yield
        finally:
            stop.set()
            thread.join()
        if failures:
            raise failures[0]
