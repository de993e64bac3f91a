"""One request among others: until when it is worth working on, who waits for it, and who waits behind it."""

from __future__ import annotations

import math
import time
from collections.abc import Callable
from dataclasses import dataclass

from streaming.model_server.status import Code, StatusError


def _never() -> bool:
    return False


def _nothing() -> None:
    pass


@dataclass(frozen=True, slots=True)
class Call:
    """What execution needs to know of the caller.

    Attributes:
      expires_s: `time.monotonic()` at which the caller's deadline passes; infinite without one.
      cancelled: whether the caller has gone away.
      api: the method that was called, for the metrics.
      step_aside: to be called before its thread waits for long, so that another request may be worked on.
    """

    expires_s: float = math.inf
    cancelled: Callable[[], bool] = _never
    api: str = ""
    step_aside: Callable[[], None] = _nothing

    def check(self) -> None:
        """Raises a `StatusError` if the result would reach nobody, so that no work is spent on it."""
        if time.monotonic() >= self.expires_s:
            raise StatusError(Code.DEADLINE_EXCEEDED, "Deadline exceeded before the request was executed")
        if self.cancelled():
            raise StatusError(Code.CANCELLED, "The request was cancelled before it was executed")


UNBOUNDED = Call()
"""A call without deadline that nobody cancels: warm-up."""
