"""Reads a predictions topic with kafka-python alone: pip install kafka-python crc32c.

python read_predictions.py BROKER TOPIC [GROUP] [--until-end]

Prints a line for each new prediction. With a group, a second run goes on where the first one ended.
"""

from __future__ import annotations

import json
import sys
from datetime import UTC, datetime
from typing import Any

from kafka import KafkaConsumer, TopicPartition


def main(broker: str, topic: str, group: str | None = None, *, until_end: bool = False) -> None:
    """Reads predictions, and prints each once."""
    consumer = KafkaConsumer(
        bootstrap_servers=broker,
        group_id=group,
        isolation_level="read_committed",  # not the default: without it you see predictions that were taken back
        auto_offset_reset="earliest",
        enable_auto_commit=False,
    )
    partitions = [TopicPartition(topic, number) for number in sorted(consumer.partitions_for_topic(topic) or ())]
    if not partitions:
        sys.exit(f"no topic {topic} at {broker}")
    consumer.assign(partitions)
    if group is None:
        consumer.seek_to_beginning(*partitions)
    ends = consumer.end_offsets(partitions)
    newest: dict[tuple[str, str], tuple[int, str]] = {}  # by key and role: origin and id of the newest prediction
    while not until_end or any(consumer.position(place) < end for place, end in ends.items()):
        for records in consumer.poll(timeout_ms=500).values():
            for record in records:
                headers = dict(record.headers)
                if headers["ce_type"] != b"tidegauge.prediction.v1":
                    continue  # a later major version: its members may mean something else
                prediction = json.loads(record.value)
                place, identity = (prediction["key"], prediction["role"]), headers["ce_id"].decode()
                origin_ms, known = newest.get(place, (-1, ""))
                if identity == known:
                    what = "re-issued"  # the same window again, say by another version of the model: it replaces
                elif prediction["origin_ms"] < origin_ms:
                    continue  # of an earlier window than we have: a replay of history
                else:
                    what = "new"
                newest[place] = (prediction["origin_ms"], identity)
                print(describe(prediction, what), flush=True)
        if group is not None:
            consumer.commit()  # after the work: what was not finished is read again
    consumer.close()


def describe(prediction: dict[str, Any], what: str) -> str:
    """One line of text."""
    origin = datetime.fromtimestamp(prediction["origin_ms"] / 1_000, UTC).isoformat()
    forecasts = [f"{target['name']} {target['mean'][0]:.3f} {target['unit']}" for target in prediction["targets"]]
    return f"{what} {prediction['key']} {origin} {', '.join(forecasts)} (version {prediction['model']['version']})"


if __name__ == "__main__":
    arguments = [argument for argument in sys.argv[1:] if argument != "--until-end"]
    if not 2 <= len(arguments) <= 3:
        sys.exit(__doc__)
    main(*arguments, until_end="--until-end" in sys.argv)
