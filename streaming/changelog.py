"""The changelog: a compacted topic that holds the state of every key, in place of a replay.

A commit writes the states of the keys that it changes, and a tombstone for each key that is forgotten, into the
partition of the same number; compaction keeps the last row of each key. The commit's metadata says up to where the
rows belong to it: under transactions that makes sure that all of them can be seen before they are read, since the
broker shows a transaction's end to one partition after the other. Where a process that commits at least once died
before its commit, there are rows newer than the last one; each row has its offset, and those are passed over. The
broker must not compact the rows that they would hide, so what is written is left alone for a while.

Rows are stamped with the wall clock, by which compaction waits.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from kafka import TopicPartition

from pipelines.kernels.windowing import KeyState
from schemas.errors import BrokerError
from streaming.checkpoint import Checkpoint
from streaming.commits import COMMIT_TIMEOUT_S, PRODUCER_SETTINGS, Outbox
from streaming.key_states import decode_state, encode_state, row_offset
from streaming.partition import Partition, WindowStage
from streaming.stage import Record
from streaming.topics import NewTopic, TopicAdmin

COMPACTION_LAG_MS = 3_600_000
SEGMENT_BYTES = 50 * 2**20
"""Only closed segments are compacted; a restored partition reads what is not."""
ROWS_A_COMMIT = 2_000
"""Beyond the keys that a commit changes anyway: after a replay the rows of all others follow little by little, and
until they are there a restart replays again."""


def changelog_topic(name: str, partitions: int) -> NewTopic:
    """The topic as we create it."""
    config = {
        "cleanup.policy": "compact",
        "message.timestamp.type": "CreateTime",
        "segment.bytes": str(SEGMENT_BYTES),
        "min.compaction.lag.ms": str(COMPACTION_LAG_MS),
        "min.cleanable.dirty.ratio": "0.3",
        "max.message.bytes": str(PRODUCER_SETTINGS["max_request_size"]),
    }
    return NewTopic(name, partitions, config)


def prepare_changelog(admin: TopicAdmin, name: str, partitions: int) -> None:
    """Creates the topic where it does not exist, and looks at one that does.

    Raises:
      BrokerError: it cannot serve: it is not compacted, or has fewer partitions than the input topic.
    """
    admin.create([changelog_topic(name, partitions)])
    found = admin.describe(name)
    if found is None or found.cleanup_policy != "compact" or found.partitions < partitions:
        got = "no such topic" if found is None else f"{found.partitions} with cleanup.policy={found.cleanup_policy}"
        raise BrokerError(
            f"topic {name}: expected a changelog of {partitions} partitions with cleanup.policy=compact, got {got}"
        )


class Changelog:
    """Writes and reads the rows of the partitions of one process.

    Args:
      topic: the changelog's name.
      fingerprint: of the windows; rows of others are not ours.
    """

    def __init__(self, topic: str, fingerprint: str) -> None:
        self._topic, self._fingerprint = topic, fingerprint
        self._ends: dict[int, int] = {}

    def place(self, tp: TopicPartition) -> TopicPartition:
        """Where the rows of an input partition are."""
        return TopicPartition(self._topic, tp.partition)

    def save(
        self,
        outbox: Outbox,
        stages: Mapping[TopicPartition, WindowStage],
        partitions: Mapping[TopicPartition, Partition],
    ) -> dict[TopicPartition, Checkpoint]:
        """Sends the rows of some stages, and waits for the broker to have them.

        Returns:
          The checkpoint of each, which says where its rows end.
        Raises:
          KafkaError: the broker does not take them.
        """
        last: dict[TopicPartition, Any] = {}
        for tp, stage in stages.items():
            for key, state in partitions[tp].rows(stage, ROWS_A_COMMIT):
                row = None
                if state is not None:
                    row = encode_state(state, offset=stage.next_offset, fingerprint=self._fingerprint)
                last[tp] = outbox.send(self._topic, row, key=key.encode(), partition=tp.partition)
        outbox.flush()
        for tp, future in last.items():
            self._ends[tp.partition] = future.get(timeout=COMMIT_TIMEOUT_S).offset + 1
        return {tp: self._checkpoint(tp, partitions[tp], stage) for tp, stage in stages.items()}

    def _checkpoint(self, tp: TopicPartition, partition: Partition, stage: WindowStage) -> Checkpoint:
        if partition.is_saved_by(stage):
            return partition.saved_checkpoint(stage, self._ends.get(tp.partition, 0))
        return partition.checkpoint(stage)

    def reader(self, tp: TopicPartition, checkpoint: Checkpoint) -> Rows:
        """Reads the rows that belong to a commit."""
        assert checkpoint.changelog is not None
        self._ends[tp.partition] = checkpoint.changelog
        return Rows(checkpoint, self._fingerprint)


class Rows:
    """The rows of one partition that belong to a commit, as they are read."""

    def __init__(self, checkpoint: Checkpoint, fingerprint: str) -> None:
        self._offset, self._fingerprint = checkpoint.offset, fingerprint
        self._rows: dict[bytes, bytes] = {}

    def take(self, records: Sequence[Record]) -> None:
        """Takes the next records of the changelog."""
        for record in records:
            if record.key is None:
                continue
            if record.value is None:
                self._rows.pop(record.key, None)
            elif (offset := row_offset(record.value, self._fingerprint)) is not None and offset <= self._offset:
                self._rows[record.key] = record.value

    def states(self) -> dict[str, KeyState]:
        """The state of each key; the rows are gone then."""
        states = {}
        while self._rows:
            key, row = self._rows.popitem()
            states[key.decode()] = decode_state(row)
        return states
