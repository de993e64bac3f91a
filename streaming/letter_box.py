"""The letter box: dead letters read back, and sent to the input topic again.

A letter is sent again once, whatever happens: the event and a receipt go out in one transaction. A receipt is a record
without a value in the dead letters' topic whose header `tidegauge.letter` names the letter (`partition@offset`). What
was sent again carries the header `tidegauge.replays`, a count that stays with it if it dies again, so that a letter
which cannot be cured does not go round for ever.
"""

from __future__ import annotations

import base64
import re
from collections import Counter, deque
from collections.abc import Collection, Iterator
from dataclasses import dataclass, field
from typing import Any

from kafka import KafkaConsumer, KafkaProducer, TopicPartition

from schemas.errors import BrokerError, InputError
from schemas.spec import Spec
from schemas.text_spec import TextSpec
from schemas.units import iso_to_ms, ms_to_iso
from streaming.topics import broker_errors, connect

RECEIPT = "tidegauge.letter"
REPLAYS = "tidegauge.replays"
_ERROR = "tidegauge.error."
_SOURCE = re.compile(r"(?P<topic>[A-Za-z0-9._-]+)\[(?P<partition>\d+)\]@(?P<offset>\d+)")
_PLACE = re.compile(r"(\d+)@(\d+)")
_TIMEOUT_MS = 30_000
_POLL_MS = 500
_TRANSACTION_LETTERS = 500


@dataclass(frozen=True, slots=True)
class Letter:
    """A dead letter as it lies in its topic; `time_ms` is its record time, epoch milliseconds."""

    partition: int
    offset: int
    time_ms: int
    key: bytes | None
    payload: bytes | None
    headers: tuple[tuple[str, bytes], ...]

    @property
    def place(self) -> str:
        """`partition@offset` in the dead letters' topic."""
        return f"{self.partition}@{self.offset}"

    def error(self, name: str) -> str:
        """What a header `tidegauge.error.NAME` says; nothing where there is none."""
        return dict(self.headers).get(_ERROR + name, b"").decode(errors="replace")

    @property
    def replays(self) -> int:
        """How often the event has been sent again before it died here."""
        found = dict(self.headers).get(REPLAYS, b"0")
        return int(found) if found.isdigit() else 0

    def document(self, *, whole: bool) -> dict[str, Any]:
        """The letter by name; with its bytes, as text or else as base64, where the whole of it is wanted."""
        names = ("stage", "reason", "detail", "source", "size", "sha256")
        found: dict[str, Any] = {"letter": self.place, "time": ms_to_iso(self.time_ms), "key": _text(self.key)}
        found |= {name: text for name in names if (text := self.error(name))}
        if self.replays:
            found["replays"] = self.replays
        if whole:
            found["headers"] = {name: _text(value) for name, value in self.headers if not name.startswith(_ERROR)}
            found["payload"] = _text(self.payload)
        return found


@dataclass(frozen=True, slots=True)
class Choice:
    """Which letters are wanted; what is left out does not matter. Times are record times, epoch milliseconds."""

    reasons: Collection[str] = ()
    since_ms: int | None = None
    until_ms: int | None = None
    partition: int | None = None
    place: str | None = None

    def takes(self, letter: Letter) -> bool:
        """Whether a letter is wanted."""
        return (
            (not self.reasons or letter.error("reason") in self.reasons)
            and (self.since_ms is None or letter.time_ms >= self.since_ms)
            and (self.until_ms is None or letter.time_ms < self.until_ms)
            and (self.partition is None or letter.partition == self.partition)
            and (self.place is None or letter.place == self.place)
        )


@dataclass(slots=True)
class ReplaySummary:
    """What became of the letters that were to be sent again, and why some were not."""

    sent: int = 0
    skipped: Counter[str] = field(default_factory=Counter)

    def document(self) -> dict[str, Any]:
        """Both by name."""
        return {"sent": self.sent, "skipped": dict(self.skipped)}

    def lines(self) -> list[str]:
        """Both in words."""
        return [f"{self.sent} sent again", *(f"{count} left alone: {why}" for why, count in self.skipped.items())]


@dataclass(frozen=True, slots=True)
class Listing:
    """How many letters there are of each reason, and the last of them."""

    count: int
    reasons: dict[str, int]
    letters: list[dict[str, Any]]

    def lines(self) -> list[str]:
        """A line for each letter, and a last one with the counts."""
        rows = [
            f"{letter['letter']}  {letter['time']}  {letter['reason']}  {letter['source']}: {letter['detail']}"
            for letter in self.letters
        ]
        reasons = ", ".join(f"{reason} {count}" for reason, count in self.reasons.items())
        return [*rows, f"{self.count} letters" + (f": {reasons}" if reasons else "")]


class LetterBox:
    """The dead letters of one stream.

    Args:
      spec: the stream.
    """

    def __init__(self, spec: Spec | TextSpec) -> None:
        self._spec = spec
        self._topic = spec.topics.dead_letters.name

    def letters(self, choice: Choice | None = None) -> Iterator[Letter]:
        """The letters that there are now, by partition and offset.

        Raises:
          BrokerError: the topic does not exist or cannot be read.
        """
        wanted = choice or Choice()
        for letter in self._records():
            if RECEIPT not in dict(letter.headers) and wanted.takes(letter):
                yield letter

    def letter(self, place: str) -> Letter:
        """The letter at `partition@offset`.

        Raises:
          InputError: there is none.
          BrokerError: the topic cannot be read.
        """
        if _PLACE.fullmatch(place) is None:
            raise InputError(f"expected PARTITION@OFFSET, got '{place}'")
        for letter in self.letters(Choice(place=place)):
            return letter
        raise InputError(f"{self._topic}: expected a letter at {place}, got none there")

    def replay(self, choice: Choice | None = None, *, max_replays: int = 1) -> ReplaySummary:
        """Sends the bytes of letters back to the partition of the input topic that they came from, each letter once.

        Args:
          choice: which letters.
          max_replays: an event that has been sent again so often already is left alone.
        Raises:
          BrokerError: a topic cannot be read or written, or another replay has begun meanwhile.
        """
        summary = ReplaySummary()
        name = f"{self._spec.group}-letters"
        producer = connect(
            KafkaProducer,
            self._spec.kafka,
            client_id=name,
            transactional_id=name,
            enable_idempotence=True,
            acks="all",
            compression_type="lz4",
            max_request_size=8 * 2**20,
            retry_backoff_ms=5,
        )
        try:
            with broker_errors(self._topic):
                # Before anything is read: from here on no other replay can commit a receipt that we do not see.
                producer.init_transactions()
                answered = {dict(r.headers)[RECEIPT].decode() for r in self._records() if RECEIPT in dict(r.headers)}
                portion: list[Letter] = []
                for letter in self.letters(choice):
                    if obstacle := self._obstacle(letter, answered, max_replays):
                        summary.skipped[obstacle] += 1
                        continue
                    portion.append(letter)
                    if len(portion) == _TRANSACTION_LETTERS:
                        summary.sent += self._send(producer, portion)
                        portion = []
                summary.sent += self._send(producer, portion)
        finally:
            producer.close(timeout=5)
        return summary

    def _obstacle(self, letter: Letter, answered: Collection[str], max_replays: int) -> str | None:
        """Why a letter cannot be sent again."""
        source = _SOURCE.fullmatch(letter.error("source"))
        if letter.place in answered:
            return "sent before"
        if letter.error("stage") == "rpc" and source is None:
            return "a window, not an event"
        if source is None or source["topic"] != self._spec.topics.input.name:
            return "not from the input topic"
        if letter.error("sha256"):
            return "cut"
        if letter.replays >= max_replays:
            return "replayed already"
        return None

    def _send(self, producer: KafkaProducer, letters: list[Letter]) -> int:
        if not letters:
            return 0
        producer.begin_transaction()
        for letter in letters:
            source = _SOURCE.fullmatch(letter.error("source"))
            assert source is not None
            kept = [(name, value) for name, value in letter.headers if not name.startswith(_ERROR) and name != REPLAYS]
            producer.send(
                source["topic"],
                letter.payload,
                key=letter.key,
                headers=[*kept, (REPLAYS, str(letter.replays + 1).encode())],
                partition=int(source["partition"]),
                timestamp_ms=letter.time_ms,
            )
            producer.send(
                self._topic,
                None,
                key=letter.key,
                headers=[(RECEIPT, letter.place.encode())],
                partition=letter.partition,
            )
        producer.commit_transaction()
        return len(letters)

    def _records(self) -> Iterator[Letter]:
        """All committed records, receipts among them, by partition and offset."""
        consumer = connect(
            KafkaConsumer,
            self._spec.kafka,
            isolation_level="read_committed",
            enable_auto_commit=False,
            allow_auto_create_topics=False,
        )
        try:
            with broker_errors(self._topic):
                numbers = consumer.partitions_for_topic(self._topic)
                if not numbers:
                    raise BrokerError(f"{self._topic}: expected a topic, got none of this name")
                for tp in [TopicPartition(self._topic, number) for number in sorted(numbers)]:
                    consumer.assign([tp])
                    consumer.seek_to_beginning(tp)
                    end = consumer.end_offsets([tp], timeout_ms=_TIMEOUT_MS)[tp]
                    while consumer.position(tp, timeout_ms=_TIMEOUT_MS) < end:
                        for record in consumer.poll(timeout_ms=_POLL_MS).get(tp, ()):
                            headers = tuple((name, value or b"") for name, value in record.headers)
                            yield Letter(
                                tp.partition, record.offset, record.timestamp, record.key, record.value, headers
                            )
        finally:
            consumer.close(timeout_ms=1_000)


def list_letters(box: LetterBox, choice: Choice, *, limit: int) -> Listing:
    """Counts the letters of a choice, and keeps the last `limit` of them.

    Raises:
      BrokerError: the topic cannot be read.
    """
    reasons: Counter[str] = Counter()
    last: deque[Letter] = deque(maxlen=limit)
    for letter in box.letters(choice):
        reasons[letter.error("reason")] += 1
        last.append(letter)
    return Listing(reasons.total(), dict(reasons.most_common()), [letter.document(whole=False) for letter in last])


def parse_time(option: str, text: str | None) -> int | None:
    """Reads an ISO time as epoch milliseconds.

    Raises:
      InputError: it is none.
    """
    try:
        return None if text is None else iso_to_ms(text)
    except ValueError as exc:
        raise InputError(f"{option}: expected an ISO time, got '{text}'") from exc


def _text(data: bytes | None) -> str | None:
    if data is None:
        return None
    try:
        return data.decode()
    except UnicodeDecodeError:
        return "base64:" + base64.b64encode(data).decode()
