"""Late events and dead letters: how many of which reason, and the newest ones in words."""

from __future__ import annotations

from collections import Counter, deque
from typing import Any

from schemas.trigger import Trigger
from streaming.letter_box import RECEIPT, Letter
from streaming.stage import Record

NEWEST = 20
MOST_REASONS = 20
MOST_CHARACTERS = 300


class LetterView:
    """What was refused, or came too late."""

    def __init__(self) -> None:
        self._late = 0
        self._reasons: Counter[str] = Counter()
        self._newest: deque[dict[str, Any]] = deque(maxlen=NEWEST)

    def late(self, count: int) -> None:
        """So many events were late."""
        self._late += count

    def dead(self, partition: int, record: Record) -> None:
        """Takes a record of the dead letters' topic."""
        headers = tuple((name, value or b"") for name, value in record.headers)
        if record.value is None and RECEIPT in dict(headers):
            return
        letter = Letter(partition, record.offset, record.timestamp, record.key, record.value, headers)
        reason = letter.error("reason")[:MOST_CHARACTERS]
        self._reasons[reason if reason in self._reasons or len(self._reasons) < MOST_REASONS else "other"] += 1
        found = {"letter": letter.place, "time_ms": record.timestamp, "reason": reason}
        self._newest.append(found | {name: letter.error(name)[:MOST_CHARACTERS] for name in ("detail", "source")})

    def document(self) -> dict[str, Any]:
        """What was read of both topics."""
        return {
            "late": self._late,
            "dead": self._reasons.total(),
            "reasons": dict(self._reasons.most_common()),
            "newest": list(reversed(self._newest)),
        }


class TriggerView:
    """Drift, as the triggers topic tells it."""

    def __init__(self) -> None:
        self._newest: deque[Trigger] = deque(maxlen=NEWEST)

    def add(self, trigger: Trigger) -> None:
        """Takes one."""
        self._newest.append(trigger)

    def document(self) -> list[dict[str, Any]]:
        """The newest ones, the newest first."""
        return [
            {"time_ms": one.time_ms, "kind": one.kind, "reason": one.reason[:MOST_CHARACTERS]}
            for one in reversed(self._newest)
        ]
