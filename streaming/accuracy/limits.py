"""How far the live path has come: what the join may read of the input, and what it must have read of the predictions.

An event is read once its predictions are committed, so that actual values never run away from predictions that have
yet to be made: the limit of an input partition is what the group of `tidegauge stream` has committed. Every prediction
of an event before that limit lies before the end that the predictions topic has afterwards. That end is the high
watermark, not the last stable offset: the broker shows the end of a transaction to one partition after the other, and a
commit can be seen before the predictions that are part of it.
"""

from __future__ import annotations

import time
from collections import defaultdict
from collections.abc import Mapping
from dataclasses import dataclass, field

from kafka import KafkaAdminClient, KafkaConsumer, TopicPartition
from kafka.admin import OffsetSpec
from kafka.errors import CoordinatorNotAvailableError, GroupIdNotFoundError

from schemas.spec import Spec
from streaming.commits import CLOSE_TIMEOUT_S
from streaming.restore import REQUEST_TIMEOUT_MS
from streaming.topics import connect

LOOK_S = 0.2
"""How often it is looked at."""


@dataclass(frozen=True, slots=True)
class Limits:
    """How far each input partition may be read, and how far each predictions partition must be, to be caught up."""

    inputs: Mapping[TopicPartition, int] = field(default_factory=dict)
    predictions: Mapping[TopicPartition, int] = field(default_factory=dict)


class LivePath:
    """Looks at the live path of a stream; a KafkaError says that the broker does not answer. Needs to be closed.

    Args:
      spec: the stream's.
      client_id: for the broker's log.
    Raises:
      BrokerError: no broker answers.
    """

    def __init__(self, spec: Spec, client_id: str) -> None:
        self._group, self._topics = spec.group, spec.topics
        self._admin = connect(KafkaAdminClient, spec.kafka, client_id=client_id, request_timeout_ms=REQUEST_TIMEOUT_MS)
        self._letters = connect(
            KafkaConsumer,
            spec.kafka,
            client_id=f"{client_id}-letters",
            enable_auto_commit=False,
            isolation_level="read_committed",
            allow_auto_create_topics=False,
        )
        self._looked_at = 0.0
        self.limits = Limits()

    def close(self) -> None:
        """Closes the connections."""
        self._admin.close()
        self._letters.close(timeout_ms=int(CLOSE_TIMEOUT_S * 1_000))

    def look(self) -> dict[int, list[int]] | None:
        """Looks again, if it is time: brings `limits` up to date.

        Returns:
          The offsets of events that the wall clock has refused, by input partition, since the last look; None where it
          is not time.
        """
        if time.monotonic() < self._looked_at + LOOK_S:
            return None
        inputs = self._committed()
        predictions = self._ends(self._topics.predictions.name)
        refused = self._refused()
        self.limits = Limits(inputs, predictions)
        self._looked_at = time.monotonic()
        return refused

    def _committed(self) -> dict[TopicPartition, int]:
        places = self._places(self._topics.input.name)
        try:
            found = self._admin.list_group_offsets({self._group: places})[self._group]
        except (GroupIdNotFoundError, CoordinatorNotAvailableError):  # nobody has committed anything: a new broker
            return {}
        return {tp: committed.offset for tp, committed in found.items() if committed.offset >= 0}

    def _ends(self, topic: str) -> dict[TopicPartition, int]:
        found = self._admin.list_partition_offsets(dict.fromkeys(self._places(topic), OffsetSpec.LATEST))
        return {tp: int(end.offset) for tp, end in found.items()}

    def _places(self, topic: str) -> list[TopicPartition]:
        return [TopicPartition(topic, number) for number in sorted(self._letters.partitions_for_topic(topic) or ())]

    def _refused(self) -> dict[int, list[int]]:
        """Reads the dead letters that have come since the last look."""
        found: defaultdict[int, list[int]] = defaultdict(list)
        ends = self._ends(self._topics.dead_letters.name)
        if set(ends) != self._letters.assignment():
            self._letters.assign(list(ends))
            self._letters.seek_to_beginning(*ends)
        source = f"{self._topics.input.name}["
        while any(self._letters.position(tp, timeout_ms=REQUEST_TIMEOUT_MS) < end for tp, end in ends.items()):
            for records in self._letters.poll(timeout_ms=REQUEST_TIMEOUT_MS // 10).values():
                for record in records:
                    headers = dict(record.headers)
                    where = headers.get("tidegauge.error.source", b"").decode()
                    if headers.get("tidegauge.error.reason") == b"future" and where.startswith(source):
                        number, _, offset = where.removeprefix(source).partition("]@")
                        found[int(number)].append(int(offset))
        return found
