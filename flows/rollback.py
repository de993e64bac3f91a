"""Rollback: the files of an earlier version come back as the next one, and the bad one stays out.

Every server and client that follows the latest version moves on to the new number, as it does with any push: none of
them needs to be told to go back, and no request fails.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any

from flows.notify import notify
from models.registry import Registry
from schemas.spec import Spec
from schemas.text_spec import TextSpec
from streaming.serving_client import ServingClient


@dataclass(frozen=True, slots=True)
class RolledBack:
    """What a rollback did: `version` has the files of `restored` and takes the place of `rollback_of`."""

    model: str
    version: int
    rollback_of: int
    restored: int
    reason: str

    def document(self) -> dict[str, Any]:
        """The rollback for machines."""
        return asdict(self)

    def lines(self) -> list[str]:
        """The rollback in words."""
        what = f"the files of version {self.restored}, in place of {self.rollback_of}"
        return [f"{self.model} version {self.version}: {what}: {self.reason}"]


def roll_back(
    spec: Spec | TextSpec,
    *,
    reason: str,
    version: int | None = None,
    bad: int | None = None,
    wait_s: float | None = None,
) -> RolledBack:
    """Republishes an earlier version in place of the champion, and waits until the server has it.

    Called again for the same `bad` version it does nothing but wait: a rollback that was killed goes on.

    Args:
      spec: whose model it is.
      reason: why, for people: it is kept in the registry.
      version: the version to go back to; the newest one before the champion that is another model and was not itself
        taken back when left out.
      bad: the version to take back, if it is still the champion; the champion, whichever it is, when left out.
      wait_s: how long the server may take to have it AVAILABLE, in seconds, 0 not to ask; the spec's `retrain.wait`
        when left out.
    Raises:
      ModelError: there is nothing to go back to, or `bad` is not the champion (any more).
      ServingError: the version is published, and the server does not have it in time: the message says what it said.
    """
    settings = None if isinstance(spec, TextSpec) else spec.retrain
    registry = Registry(spec.paths.models, spec.model_name)
    record = registry.restore(version, reason=reason, bad=bad)
    assert record.version is not None
    assert record.rollback_of is not None
    assert record.restored is not None
    done = RolledBack(spec.model_name, record.version, record.rollback_of, record.restored, record.reason)
    if settings is not None:
        notify(settings.notify, "rolled_back", {"stream": spec.stream.name, **done.document()})
    wait_until_served(spec, done.version, (settings.wait / 1_000 if settings else 60.0) if wait_s is None else wait_s)
    return done


def wait_until_served(spec: Spec | TextSpec, version: int, wait_s: float) -> None:
    """Waits until the server at `serving.address` has a version AVAILABLE, and checks its windows.

    Args:
      spec: where the server is.
      version: the version.
      wait_s: how long it may take, in seconds; 0 not to ask.
    Raises:
      ServingError: it is not within that time; the message says what the server last said.
    """
    if not wait_s:
        return
    pinned = spec.serving.model_copy(update={"version": version, "label": None})
    with ServingClient(spec.model_copy(update={"serving": pinned})) as client:
        client.wait_until_available(wait_s)
