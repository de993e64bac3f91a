"""The checkpoint: what a commit must hold so that another process can go on as if nothing had happened.

The windows of a partition are rebuilt from its input, or read from the changelog topic. The committed offset says where
output goes on; the metadata that Kafka keeps with it says from which earlier offset to read, with output suppressed, to
have the same windows by then.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import orjson

MAX_METADATA_BYTES = 4096
"""What a broker takes by default (`offset.metadata.max.bytes`)."""


@dataclass(frozen=True, slots=True)
class Checkpoint:
    """Where a partition stands.

    `offset` is the first one whose output is not committed; `replay_offset` the lowest one of an event that a window
    can still need; `clock_ms` the partition's clock just before it, None where there was none; `refused` the offsets
    from `replay_offset` on that the wall clock refused (`grid.max_skew`), since a replay has another wall clock: None
    where they are too many to be written here and must be looked up among the dead letters.

    `whole_from_ms`: events before this time may be missing from what can be replayed, None where none can. `changelog`:
    the offset in the changelog's partition behind which no row is part of this commit; None where the windows are not
    all in the changelog. Where they are, nothing is replayed. `seeded`: some windows came from a dataset, and a replay
    needs it again. `notes`: JSON values, few, that the one who commits wants to have again.
    """

    offset: int
    replay_offset: int
    clock_ms: int | None
    refused: tuple[int, ...] | None
    window_fingerprint: str
    partitions: int
    whole_from_ms: int | None = None
    changelog: int | None = None
    seeded: bool = False
    notes: Mapping[str, Any] | None = None

    def metadata(self) -> str:
        """The checkpoint without its offset, as the text that Kafka keeps; at most `MAX_METADATA_BYTES`."""
        form = {
            "w": self.window_fingerprint,
            "n": self.partitions,
            "r": self.replay_offset,
            "c": self.clock_ms,
            "x": None if self.refused is None else [offset - self.replay_offset for offset in self.refused],
        }
        optional = {"t": self.whole_from_ms, "l": self.changelog, "s": self.seeded or None, "o": self.notes}
        form |= {name: value for name, value in optional.items() if value is not None}
        text = orjson.dumps(form)
        if len(text) > MAX_METADATA_BYTES:
            text = orjson.dumps(form | {"x": None})
        return text.decode()

    @classmethod
    def read(cls, offset: int, metadata: str) -> Checkpoint | None:
        """Reads what `metadata` wrote; None where somebody else committed."""
        try:
            form = orjson.loads(metadata)
            refused = None if form["x"] is None else tuple(form["r"] + delta for delta in form["x"])
            return cls(
                offset,
                form["r"],
                form["c"],
                refused,
                form["w"],
                form["n"],
                form.get("t"),
                form.get("l"),
                form.get("s", False),
                form.get("o"),
            )
        except (orjson.JSONDecodeError, KeyError, TypeError, AttributeError):
            return None
