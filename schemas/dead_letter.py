"""Dead letters: what was no valid event, kept with its bytes, its source and the reason."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class DeadLetter:
    """One refused record.

    `source` is `file:line` or `topic[partition]@offset`; `reason` is one of `schemas.event.BadEvent`'s codes; `payload`
    is None for a record without a value.
    """

    source: str
    reason: str
    detail: str
    payload: bytes | None
    key: bytes | None = None

    def headers(self) -> list[tuple[str, bytes]]:
        """Kafka headers that say what was wrong; the payload travels as the record's value, untouched."""
        return [
            ("tidegauge.error.source", self.source.encode()),
            ("tidegauge.error.reason", self.reason.encode()),
            ("tidegauge.error.detail", self.detail.encode()),
        ]
