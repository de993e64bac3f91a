"""Requests: rows of any kind, asked for in batches, and what becomes of those that the model does not take."""

from __future__ import annotations

import logging
import random
import time
from collections import deque
from collections.abc import Callable, Iterator
from threading import Event as StopFlag
from typing import Generic, Protocol, Self, TypeVar

from schemas.errors import ServingError, ServingRefused, ServingTooLarge, ServingUnavailable
from schemas.settings_spec import Serving
from streaming.model_client import Answer, Arrays, ModelClient, Waiting

logger = logging.getLogger(__name__)

FIRST_BACKOFF_S = 0.05
MAX_BACKOFF_S = 5.0


class Rows(Protocol):
    """What is asked for together, such as windows or documents."""

    def __len__(self) -> int:
        """How many there are."""
        ...

    def part(self, rows: slice) -> Self:
        """Some of them."""
        ...

    def head(self, start: int, most: int) -> Self:
        """Those of one request: from `start` on, at least one and at most so many."""
        ...

    def plain(self) -> Self:
        """One row that every model takes, of the shape of the first."""
        ...

    def inputs(self) -> Arrays:
        """The model's inputs by name."""
        ...


R = TypeVar("R", bound=Rows)
OnRefused = Callable[[R, str], None]
"""Is given a row that the model does not take while it takes others, and what the server said."""


class Asks(Protocol[R]):
    """Asks a model for rows, in whatever way."""

    def ask(self, rows: R, on_refused: OnRefused[R] | None = None) -> Iterator[tuple[R, Answer]]:
        """As `Requests.ask`."""
        ...


class Requests(Generic[R]):
    """Asks a model.

    Several requests are under way at once; what they give is put back in order. A batch that is too large for the
    server is halved, and so are all that follow. One that the model refuses is halved until the row that it refuses
    stands alone.

    Args:
      serving: how many rows a request may have, and how many requests may be under way.
      client: the model.
      patience_s: how long to keep trying while the server is away, in seconds.
      stopping: ends the trying.
      on_answer: is told of each answered request its rows and how long it took, in milliseconds.
    """

    def __init__(
        self,
        serving: Serving,
        client: ModelClient,
        *,
        patience_s: float = 0.0,
        stopping: StopFlag | None = None,
        on_answer: Callable[[int, float], None] = lambda _rows, _latency_ms: None,
    ) -> None:
        self._client = client
        self._patience_s, self._stopping = patience_s, stopping or StopFlag()
        self._on_answer = on_answer
        self._max_batch, self._max_in_flight = serving.max_batch, serving.max_in_flight

    def ask(self, rows: R, on_refused: OnRefused[R] | None = None) -> Iterator[tuple[R, Answer]]:
        """The answers to all rows, in their order, each with the rows that it is of.

        Args:
          rows: what to ask.
          on_refused: is given each row that the model does not take while it takes others; without it that is an
            error.
        Raises:
          ServingUnavailable: the server stayed away.
          ServingError: it refuses us, or every row.
        """
        under_way: deque[tuple[R, Waiting]] = deque()
        start = 0
        while under_way or start < len(rows):
            while start < len(rows) and len(under_way) < self._max_in_flight:
                part = rows.head(start, self._max_batch)
                under_way.append((part, self._client.ask(part.inputs())))
                start += len(part)
            yield from self._settle(*under_way.popleft(), on_refused)

    def _settle(self, batch: R, waiting: Waiting, on_refused: OnRefused[R] | None) -> Iterator[tuple[R, Answer]]:
        """The answers to a batch, in order: one, or several where it had to be cut."""
        try:
            answer = self._patiently(batch, waiting)
        except ServingRefused as refusal:
            if isinstance(refusal, ServingTooLarge):
                self._max_batch = max(1, len(batch) // 2)
            if len(batch) == 1:
                yield from self._settle_alone(batch, refusal, on_refused)
                return
            middle = len(batch) // 2
            for part in (batch.part(slice(middle)), batch.part(slice(middle, None))):
                yield from self._settle(part, self._client.ask(part.inputs()), on_refused)
        else:
            self._on_answer(len(batch), answer.latency_ms)
            yield batch, answer

    def _settle_alone(
        self, row: R, refusal: ServingRefused, on_refused: OnRefused[R] | None
    ) -> Iterator[tuple[R, Answer]]:
        """Makes sure that it is the row: the model takes a plain one, and refuses this one again."""
        if on_refused is None:
            raise refusal
        plain = row.plain()
        try:
            self._patiently(plain, self._client.ask(plain.inputs()))
        except ServingRefused as exc:
            raise ServingError(f"the model takes nothing, not even a plain row: {exc}") from refusal
        try:
            yield row, self._patiently(row, self._client.ask(row.inputs()))
        except ServingRefused as exc:
            on_refused(row, str(exc))

    def _patiently(self, batch: R, waiting: Waiting) -> Answer:
        """Waits for an answer; asks again, less and less often, while the server is away."""
        give_up = time.monotonic() + self._patience_s
        backoff_s = FIRST_BACKOFF_S
        while True:
            try:
                return waiting()
            except ServingUnavailable as exc:
                if time.monotonic() >= give_up or self._stopping.is_set():
                    raise
                logger.info("%s; trying again", exc)
            self._stopping.wait(backoff_s * random.uniform(0.5, 1.0))  # noqa: S311 (jitter)
            backoff_s = min(2 * backoff_s, MAX_BACKOFF_S)
            waiting = self._client.ask(batch.inputs())
