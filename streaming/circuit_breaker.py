"""The circuit breaker between the consumer and the model server.

    closed ──a request failed for good──▶ open ──a while later──▶ half-open ──the probe is answered──▶ closed
                                           ▲                          │
                                           └──────── it is not ───────┘

While it is open nothing is asked. The waits between probes double, with jitter so that the members of a group do not
come all at once, until a request is answered again.
"""

from __future__ import annotations

import random
import time
from collections.abc import Callable
from typing import Literal

State = Literal["closed", "half-open", "open"]

FIRST_WAIT_S = 0.2
LONGEST_WAIT_S = 5.0


class CircuitBreaker:
    """Closed at first.

    Args:
      clock: seconds, from any start.
    """

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self.state: State = "closed"
        self.reason = ""
        """Why it is not closed."""
        self._clock = clock
        self._wait_s = FIRST_WAIT_S
        self._probe_at = 0.0

    def trip(self, reason: str) -> None:
        """Opens it, for twice as long as the last time."""
        self.state, self.reason = "open", reason
        self._probe_at = self._clock() + self._wait_s * random.uniform(0.5, 1.0)  # noqa: S311 (jitter)
        self._wait_s = min(2 * self._wait_s, LONGEST_WAIT_S)

    def may_probe(self) -> bool:
        """Whether it is time for a probe; if so, it is half-open until `trip` or `close`."""
        if self.state == "open" and self._clock() >= self._probe_at:
            self.state = "half-open"
        return self.state == "half-open"

    def close(self) -> None:
        """The probe was answered: requests may be sent."""
        self.state, self.reason = "closed", ""

    def answered(self) -> None:
        """A request was answered: the next failure begins with a short wait again."""
        self._wait_s = FIRST_WAIT_S
