"""Triggers: the records of the triggers topic, each of which may start a retraining.

One record for each excursion of a drift measure above its threshold; the next one of the same measure follows only
after it has come back. The Kafka key is the stream's name and the record time `time_ms`.

The value, as JSON:

    {"schema_version": 1, "stream": "nyc-weather", "kind": "input_drift", "time_ms": 1380000000000,
     "reason": "temp: Jensen-Shannon 0.61 > 0.5 against the dataset of version 3",
     "feature": "temp", "key": null, "measure": "jensen_shannon", "value": 0.61, "threshold": 0.5, "model_version": 3}

`time_ms` is the end of the time that was looked at, in event time; `feature` and `key` are null where the measure is of
all of them. A reader must ignore members that it does not know.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Literal

import orjson

SCHEMA_VERSION = 1

TriggerKind = Literal["input_drift", "error_drift"]
Measure = Literal["jensen_shannon", "psi", "page_hinkley"]


@dataclass(frozen=True, slots=True)
class Trigger:
    """One excursion: `value` of a `measure` was above `threshold`; `reason` says so to a person."""

    stream: str
    kind: TriggerKind
    time_ms: int
    reason: str
    measure: Measure
    value: float
    threshold: float
    model_version: int
    feature: str | None = None
    key: str | None = None

    def record(self) -> bytes:
        """The record's value."""
        return orjson.dumps({"schema_version": SCHEMA_VERSION, **asdict(self)})


def read_trigger(value: bytes) -> Trigger:
    """Reads the value of a record.

    Raises:
      ValueError: it is none of the triggers topic's.
    """
    try:
        document = orjson.loads(value)
        return Trigger(**{name: document[name] for name in Trigger.__slots__})
    except (orjson.JSONDecodeError, KeyError, TypeError) as exc:
        raise ValueError(f"expected a trigger: {exc!r}") from exc
