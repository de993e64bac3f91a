"""What is asked beside the champion: a canary, and a shadow.

The canary answers for some of the keys in the champion's place; the shadow, an older version, predicts some of the
windows too. Which versions the server has is looked up every few seconds, and both are asked, on threads of their own.
What the canary does not answer, the champion does. What the shadow does not answer in about the time that the others
took is left out, and then nothing is asked beside the champion until the versions have been looked up again: so neither
can fail a batch, nor hold up more than one in a few seconds.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from typing import Generic, Protocol, Self, TypeVar

import numpy as np
from numpy.typing import NDArray

from schemas.errors import ServingError, ServingRefused
from schemas.prediction import Role
from schemas.settings_spec import Serving
from streaming.model_client import Answer, Arrays, SignatureClient, Waiting
from streaming.requests import Asks, OnRefused, Rows
from streaming.serving_client import ServingClient
from streaming.shares import in_share

LOOK_S = 3.0
"""How often the server is asked which versions it has."""
WORKERS = 8
"""Threads, made as they are needed. A shadow that hangs has one until its deadline; a canary must not wait for it."""
LEAST_PATIENCE_S = 0.1
"""What the shadow may take after the others, also where they took less."""


class SharedRows(Rows, Protocol):
    """Rows that a share can be taken of."""

    def only(self, chosen: NDArray[np.bool_]) -> Self:
        """Those that are chosen."""
        ...

    def key_names(self) -> Sequence[str]:
        """The name of each row's key."""
        ...

    def names(self) -> Sequence[str]:
        """The name of each row."""
        ...


R = TypeVar("R", bound=SharedRows)
Asking = Callable[[SignatureClient], Asks[R]]
"""Makes what asks a client, once and without patience."""


@dataclass(frozen=True, slots=True)
class Versions:
    """The versions of the right windows that are AVAILABLE, and the one of them that has the canary's label."""

    available: tuple[int, ...] = ()
    canary: int | None = None

    def before(self, version: int | None) -> int | None:
        """The newest of those that are older than `version`."""
        return max((one for one in self.available if version is not None and one < version), default=None)


class Beside:
    """Knows which versions the server has, and asks them. A context manager.

    Args:
      serving: the shares.
      client: the model, at which a version answers by now.
      report: is told, in words, which versions are asked and what goes wrong.
      on_missed: is told of how many rows the shadow gave no answer.
    """

    def __init__(
        self,
        serving: Serving,
        client: ServingClient,
        *,
        report: Callable[[str], None],
        on_missed: Callable[[int], None],
    ) -> None:
        self._serving, self._client = serving, client
        self._report, self.on_missed = report, on_missed
        self.shadow_share = 0.0 if serving.shadow is None else serving.shadow.share
        self.canary_share = 0.0 if serving.canary is None else serving.canary.share
        self._workers = ThreadPoolExecutor(WORKERS, thread_name_prefix="beside")
        self._looking: Future[None] | None = None
        self._told = ""
        self.versions = Versions()
        self._look()
        self._look_at = time.monotonic() + LOOK_S

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._workers.shutdown(wait=False, cancel_futures=True)

    @property
    def champion(self) -> int | None:
        """The version that answered last."""
        return self._client.version

    def look(self) -> None:
        """Has the versions looked up, if it is time; does not wait for it."""
        now = time.monotonic()
        if now >= self._look_at and (self._looking is None or self._looking.done()):
            self._look_at = now + LOOK_S
            self._looking = self._workers.submit(self._look)

    def give_up(self, reason: str) -> None:
        """Asks nothing until the versions have been looked up again."""
        self.versions = Versions()
        self._tell(reason)

    def ask(self, rows: R, version: int, asking: Asking[R]) -> Future[list[tuple[R, Answer]] | None]:
        """Asks a version for the answers to all rows; None where one failed. Does not wait for it."""
        return self._workers.submit(self._ask, rows, version, asking)

    def _ask(self, rows: R, version: int, asking: Asking[R]) -> list[tuple[R, Answer]] | None:
        try:
            return list(asking(_OneVersion(self._client, version)).ask(rows))
        except ServingError as exc:
            self.give_up(str(exc))
            return None

    def _look(self) -> None:
        try:
            available = tuple(self._client.versions_of_ours())
            canary = self._labelled()
        except ServingError:
            self.versions = Versions()  # what is wrong, the champion's requests say
            return
        self.versions = Versions(available, canary if canary in available else None)
        shadow = self.versions.before(self.champion) if self.shadow_share else None
        self._tell(f"shadow: version {shadow or 'none'}, canary: version {self.versions.canary or 'none'}")

    def _labelled(self) -> int | None:
        if self._serving.canary is None:
            return None
        try:
            return self._client.version_of_label(self._serving.canary.label)
        except ServingRefused:  # no version has the label
            return None

    def _tell(self, line: str) -> None:
        if line != self._told:
            self._told = line
            self._report(f"beside the champion: {line}")


class _OneVersion:
    """Asks one version and no other."""

    def __init__(self, client: ServingClient, version: int) -> None:
        self.model, self.version, self._client = client.model, version, client

    def ask(self, inputs: Arrays) -> Waiting:
        return self._client.ask_version(self.version, inputs)

    def ask_signature(self, signature: str, inputs: Arrays) -> Waiting:
        return self._client.ask_version(self.version, inputs, signature)


@dataclass(slots=True)
class _Group(Generic[R]):
    """Rows that one version answers; the canary's answers, if it is that one, and the shadow's to some of the rows."""

    rows: R
    answered_by: int | None
    canary: Future[list[tuple[R, Answer]] | None] | None = None
    shadow: Future[list[tuple[R, Answer]] | None] | None = None
    shadowed: int = 0


class Panel(Generic[R]):
    """Asks the champion and, where the spec says so, what is beside it.

    Args:
      champion: asks the version that is to answer.
      beside: what else is asked.
      asking: makes what asks it.
    """

    def __init__(self, champion: Asks[R], beside: Beside | None, asking: Asking[R]) -> None:
        self._champion, self._beside, self._asking = champion, beside, asking

    def ask(self, rows: R, on_refused: OnRefused[R] | None = None) -> Iterator[tuple[R, Answer, Role]]:
        """The answers to all rows, those to each key's in their order, and to some a second one, by the shadow.

        Args:
          rows: what to ask.
          on_refused: as for `Requests.ask`.
        Raises:
          ServingError: as `Requests.ask`, of the champion only.
        """
        if self._beside is None:
            yield from self._by_champion(rows, on_refused)
        else:
            yield from self._by_all(self._beside, rows, on_refused)

    def _by_champion(self, rows: R, on_refused: OnRefused[R] | None) -> Iterator[tuple[R, Answer, Role]]:
        for part, answer in self._champion.ask(rows, on_refused):
            yield part, answer, "champion"

    def _by_all(self, beside: Beside, rows: R, on_refused: OnRefused[R] | None) -> Iterator[tuple[R, Answer, Role]]:
        began = time.monotonic()
        beside.look()
        groups = self._groups(beside, rows)
        for group in groups:
            answers = None if group.canary is None else group.canary.result()
            found = self._by_champion(group.rows, on_refused) if answers is None else _as("canary", answers)
            for part, answer, role in found:
                group.answered_by = answer.version
                yield part, answer, role
        now = time.monotonic()
        give_up = now + max(now - began, LEAST_PATIENCE_S)
        for group in groups:
            yield from _as("shadow", _by_shadow(beside, group, give_up))

    def _groups(self, beside: Beside, rows: R) -> list[_Group[R]]:
        """The rows by who is to answer them; the canary and the shadow have been asked."""
        versions, champion = beside.versions, beside.champion
        groups = [_Group(rows, champion)]
        if versions.canary is not None and versions.canary != champion:
            theirs = in_share(rows.key_names(), beside.canary_share, b"canary")
            chosen = rows.only(theirs)
            groups = [
                _Group(rows.only(~theirs), champion),
                _Group(chosen, versions.canary, canary=beside.ask(chosen, versions.canary, self._asking)),
            ]
        for group in groups:
            version = versions.before(group.answered_by)
            if beside.shadow_share and version is not None:
                shadowed = group.rows
                if beside.shadow_share < 1:
                    shadowed = shadowed.only(in_share(shadowed.names(), beside.shadow_share, b"shadow"))
                group.shadowed, group.shadow = len(shadowed), beside.ask(shadowed, version, self._asking)
        return groups


def _by_shadow(beside: Beside, group: _Group[R], give_up: float) -> list[tuple[R, Answer]]:
    """The shadow's answers, of a version that is older than the one that answered; none where they are not there yet.

    Args:
      beside: is told.
      group: the rows.
      give_up: how long to wait, by the monotonic clock.
    """
    if group.shadow is None:
        return []
    try:
        answers = group.shadow.result(timeout=max(give_up - time.monotonic(), 0.0))
    except TimeoutError:
        group.shadow.cancel()
        beside.give_up("the shadow took too long")
        answers = None
    if answers is None:
        beside.on_missed(group.shadowed)
        return []
    newest = group.answered_by or 0
    return [(part, answer) for part, answer in answers if answer.version < newest]


def _as(role: Role, answers: list[tuple[R, Answer]]) -> Iterator[tuple[R, Answer, Role]]:
    return ((part, answer, role) for part, answer in answers)
