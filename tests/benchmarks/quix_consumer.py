"""Quix Streams doing what the live path does without a model: a window of each key, and a record for each event.

PYTHON -m tests.benchmarks.quix_consumer BOOTSTRAP GROUP INPUT OUTPUT STATE_FOLDER PAST

Exactly once, with a commit every 0.1 seconds; the window is the last values of the event's first number, kept in Quix's
state store, and the record has as many numbers as a prediction. Quix is no dependency of this project: PYTHON is that
of an environment which has `quixstreams` (3.28), and this module imports nothing else.
"""

from __future__ import annotations

import sys
from typing import Any

from quixstreams import Application, State


def run(bootstrap: str, group: str, source: str, target: str, folder: str, past: int) -> None:
    """Consumes from the beginning, until it is killed."""
    application = Application(
        broker_address=bootstrap,
        consumer_group=group,
        auto_offset_reset="earliest",
        processing_guarantee="exactly-once",
        commit_interval=0.1,
        state_dir=folder,
        loglevel="ERROR",
    )
    events = application.topic(source, key_deserializer="str", value_deserializer="json")
    predictions = application.topic(target, key_serializer="str", value_serializer="json")

    def window(event: dict[str, Any], state: State) -> dict[str, Any] | None:
        values = state.get("window", [])
        values.append(event["f0"])
        del values[:-past]
        state.set("window", values)
        if len(values) < past:
            return None
        return {"key": event["key"], "time": event["time"], "last": values[-1], "mean": [0.0] * 24}

    frame = application.dataframe(events).apply(window, stateful=True)
    frame.filter(lambda prediction: prediction is not None).to_topic(predictions)
    application.run()


if __name__ == "__main__":
    run(*sys.argv[1:6], past=int(sys.argv[6]))
