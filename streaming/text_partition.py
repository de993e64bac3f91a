"""One input partition of a stream of texts: every document stands alone, so there is nothing to remember."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import NamedTuple

from pipelines.kernels.windowing import KeyState
from schemas.dead_letter import DeadLetter
from schemas.event import BadEvent
from schemas.text_event import TextEvent, TextEventReader
from streaming.checkpoint import Checkpoint
from streaming.stage import Record, Stage, valid_ms

REFUSED = "refused"


class Document(NamedTuple):
    """A document to be classified: its record, where that is, and its time as a topic is sure to take it."""

    record: Record
    event: TextEvent
    origin: str
    time_ms: int


@dataclass(slots=True, kw_only=True)
class TextStage(Stage):
    """The documents of a batch of records."""

    clock_ms: int | None
    documents: list[Document] = field(default_factory=list)

    def refuse(self, document: Document, detail: str) -> None:
        """The model does not take a document: it is a dead letter, of the stage `rpc`, and not used."""
        record = document.record
        self.dead.append(
            (record, DeadLetter(document.origin, REFUSED, detail, record.value, record.key, "rpc")),
        )
        self.counts.update({"used": -1, "dead": 1, REFUSED: 1})


class TextPartition:
    """Where one partition stands; see `streaming.stage.LivePartition`.

    Args:
      reader: reads its documents.
      name: `topic[partition]`.
      offset: of the first record.
      fingerprint: of the texts, for the commit.
      partitions: how many the topic has, for the same.
    """

    def __init__(self, reader: TextEventReader, *, name: str, offset: int, fingerprint: str, partitions: int) -> None:
        self.name, self.next_offset = name, offset
        self.clock_ms: int | None = None
        self._reader = reader
        self._fingerprint, self._partitions = fingerprint, partitions

    @property
    def keys(self) -> Mapping[str, KeyState]:
        """None."""
        return {}

    def stage(self, records: Sequence[Record], now_ms: int) -> TextStage:
        """Reads records: the partition's next ones, in order.

        Args:
          records: at `next_offset` or after it.
          now_ms: the wall clock, epoch milliseconds.
        """
        stage = self.idle(records[-1].offset + 1)
        read, documents = self._reader.read_json, stage.documents
        for record in records:
            origin = f"{self.name}@{record.offset}"
            try:
                documents.append(Document(record, read(record.value), origin, valid_ms(record, now_ms)))
            except BadEvent as bad:
                stage.dead.append((record, DeadLetter(origin, bad.reason, str(bad), record.value, record.key)))
        stage.counts.update({"in": len(records), "used": len(documents), "dead": len(stage.dead)})
        times = [document.time_ms for document in documents]
        stage.clock_ms = max(times if self.clock_ms is None else [self.clock_ms, *times], default=None)
        return stage

    def idle(self, position: int = 0) -> TextStage:
        """A stage of no records; the offset moves to `position`, over what is none, such as a transaction's end."""
        return TextStage(next_offset=max(self.next_offset, position), clock_ms=self.clock_ms)

    def apply(self, stage: TextStage) -> None:
        """Goes on behind a staged batch, which is committed by now."""
        self.next_offset, self.clock_ms = stage.next_offset, stage.clock_ms

    def checkpoint(self, stage: TextStage) -> Checkpoint:
        """Where the partition will stand once `stage` is applied: nothing before it is needed again."""
        return Checkpoint(stage.next_offset, stage.next_offset, None, (), self._fingerprint, self._partitions)
