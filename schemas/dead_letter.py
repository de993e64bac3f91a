"""Dead letters: what was no valid event, or a window that the model does not take, with the reason.

| header | |
|---|---|
| `tidegauge.error.stage` | `event`: the record is no event; `rpc`: the model server refused a window |
| `tidegauge.error.reason` | a code of `schemas.event.BadEvent`, or `refused` |
| `tidegauge.error.detail` | what was expected, and what came |
| `tidegauge.error.source` | `topic[partition]@offset`, or `file:line`; of a window `topic[partition]` |
| `tidegauge.error.size`, `tidegauge.error.sha256` | of the whole value, where it was cut |

An event's letter holds the refused record's own bytes, key, headers and time. A window comes of many records, all of
which were events: its letter holds a JSON object with `stream`, `key`, `origin_ms`, `step_ms` and the `inputs` of the
request by name, null where a value is missing; its Kafka key is the stream's key and its record time the origin.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal

import orjson

Stage = Literal["event", "rpc"]


@dataclass(frozen=True, slots=True)
class DeadLetter:
    """One refused record or window; `payload` is None for a record without a value."""

    source: str
    reason: str
    detail: str
    payload: bytes | None
    key: bytes | None = None
    stage: Stage = "event"

    def headers(self) -> list[tuple[str, bytes]]:
        """Kafka headers that say what was wrong; the payload travels as the record's value, untouched."""
        return [
            ("tidegauge.error.stage", self.stage.encode()),
            ("tidegauge.error.source", self.source.encode()),
            ("tidegauge.error.reason", self.reason.encode()),
            ("tidegauge.error.detail", self.detail.encode()),
        ]


def window_letter(
    *, stream: str, key: str, origin_ms: int, step_ms: int, inputs: Mapping[str, Any], source: str, detail: str
) -> DeadLetter:
    """The letter of a window that the model does not take.

    Args:
      stream: the stream's name.
      key: the window's.
      origin_ms: the window's origin, epoch milliseconds.
      step_ms: the length of its steps.
      inputs: the model's inputs by name, of this window alone, as arrays or lists.
      source: the input partition that the window's events came from.
      detail: what the server said.
    """
    document = {"stream": stream, "key": key, "origin_ms": origin_ms, "step_ms": step_ms, "inputs": dict(inputs)}
    payload = orjson.dumps(document, option=orjson.OPT_SERIALIZE_NUMPY)
    return DeadLetter(source, "refused", detail, payload, key.encode(), "rpc")
