"""Topics: made with their own partitions and retention, and looked at before anything is written to them.

Record time is event time, and a broker deletes by record time. So a topic with a week's retention that receives the
events of 2013 is emptied at the broker's next check, minutes later; `retention_warnings` says so beforehand.

kafka-python's errors become `BrokerError`s here: `connect` opens any of its clients, `broker_errors` guards their use.
"""

from __future__ import annotations

import logging
import re
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime
from types import TracebackType
from typing import Any, Self, TypeVar

from kafka import KafkaAdminClient, TopicPartition
from kafka.admin import ConfigResource, ConfigResourceType, OffsetSpec
from kafka.cluster import collect_hosts
from kafka.errors import KafkaError, TopicAlreadyExistsError, UnknownTopicOrPartitionError, for_code
from kafka.net.compat import KafkaNetClient

from schemas.errors import BrokerError
from schemas.settings_spec import Kafka

FOREVER = -1
"""A `retention_ms` that deletes nothing by time."""

BOOTSTRAP_TIMEOUT_S = 5.0
REQUEST_TIMEOUT_MS = 10_000

Client = TypeVar("Client")


@dataclass(frozen=True, slots=True)
class NewTopic:
    """A topic as we want it: `config` holds Kafka's topic settings by name, such as `retention.ms`."""

    name: str
    partitions: int
    config: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class TopicSettings:
    """A topic as the broker has it.

    Attributes:
        name: The topic's name.
        partitions: How many it has.
        retention_ms: How long a record is kept, counted from its record time; `FOREVER` for no limit.
        cleanup_policy: `delete`, `compact` or `compact,delete`.
        timestamp_type: `CreateTime` (the record time that we send) or `LogAppendTime` (the broker's clock).
        max_message_bytes: The largest batch of records that it takes.
    """

    name: str
    partitions: int
    retention_ms: int
    cleanup_policy: str
    timestamp_type: str
    max_message_bytes: int


class TopicAdmin:
    """Makes and describes the topics of a cluster. A context manager that closes its connection.

    Args:
        brokers: As for `connect`.
        timeout_s: How long to try to reach a broker, in seconds.

    Raises:
        BrokerError: No broker answers in time.
    """

    def __init__(self, brokers: Kafka | str, *, timeout_s: float = BOOTSTRAP_TIMEOUT_S) -> None:
        self._client = connect(KafkaAdminClient, brokers, timeout_s=timeout_s, request_timeout_ms=REQUEST_TIMEOUT_MS)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self._client.close()

    def create(self, topics: Iterable[NewTopic]) -> list[str]:
        """Makes the topics that do not exist, and waits until each can be written to.

        A topic that exists stays as it is: `describe` tells what it has.

        Returns:
            The names of those that were made.

        Raises:
            BrokerError: The broker refuses a topic; the message says which and why.
        """
        return [topic.name for topic in topics if self._create(topic)]

    def _create(self, topic: NewTopic) -> bool:
        wanted = {"num_partitions": topic.partitions, "configs": dict(topic.config)}
        with broker_errors(f"topic {topic.name}"):
            (answer,) = self._client.create_topics({topic.name: wanted}, raise_errors=False)["topics"]
            refusal = for_code(answer["error_code"])
            made = refusal is not TopicAlreadyExistsError
            if made and answer["error_code"]:
                raise refusal(answer["error_message"])
            self._client.wait_for_topics([topic.name])
        return made

    def describe(self, name: str) -> TopicSettings | None:
        """The settings that are in force for a topic, defaults included; None if there is no such topic.

        Raises:
            BrokerError: The broker does not tell.
        """
        with broker_errors(f"topic {name}"):
            (topic,) = self._client.describe_topics([name])
            refusal = for_code(topic["error_code"])
            if refusal is UnknownTopicOrPartitionError:
                return None
            if topic["error_code"]:
                raise refusal()
            resource = ConfigResource(ConfigResourceType.TOPIC, name)
            config = self._client.describe_configs([resource], config_filter="all")["topic"][name]
        return TopicSettings(
            name=name,
            partitions=len(topic["partitions"]),
            retention_ms=int(config["retention.ms"]["value"]),
            cleanup_policy=config["cleanup.policy"]["value"],
            timestamp_type=config["message.timestamp.type"]["value"],
            max_message_bytes=int(config["max.message.bytes"]["value"]),
        )

    def newest_ms(self, name: str, partition: int) -> int | None:
        """The greatest record time in a partition, epoch milliseconds; None where it holds no record.

        Raises:
            BrokerError: The broker does not tell.
        """
        place = TopicPartition(name, partition)
        with broker_errors(f"{name}[{partition}]"):
            found = self._client.list_partition_offsets({place: OffsetSpec.MAX_TIMESTAMP})[place]
        return None if found.timestamp < 0 else int(found.timestamp)

    def orphans(self, group: str, topic: str) -> set[int]:
        """The partitions of a topic that no member of a consumer group has, though the group has settled.

        Raises:
            BrokerError: The broker does not tell.
        """
        with broker_errors(f"group {group}"):
            found = self._client.describe_groups([group])[group]
            (described,) = self._client.describe_topics([topic])
        if found["group_state"] != "Stable":
            return set()
        taken = {
            number
            for member in found["members"]
            for place in member["member_assignment"]["assigned_partitions"]
            if place["topic"] == topic
            for number in place["partitions"]
        }
        return {partition["partition_index"] for partition in described["partitions"]} - taken


def retention_warnings(topic: TopicSettings, *, oldest_ms: int, now_ms: int) -> list[str]:
    """What a topic's retention will do to records whose record time is event time.

    Args:
        topic: The topic that they are written to.
        oldest_ms: The oldest event time, in milliseconds since the epoch.
        now_ms: The broker's clock, in milliseconds since the epoch.

    Returns:
        One sentence for each problem; none if every record stays for a while.
    """
    deletes = "delete" in topic.cleanup_policy and topic.retention_ms != FOREVER
    if not deletes or topic.timestamp_type != "CreateTime" or oldest_ms >= now_ms - topic.retention_ms:
        return []
    oldest = datetime.fromtimestamp(oldest_ms / 1000, UTC)
    warning = (
        f"topic {topic.name} keeps records for {_words(topic.retention_ms)} and the oldest event is of "
        f"{oldest:%Y-%m-%d}: the broker will delete such records within minutes; set the topic's retention.ms to -1"
    )
    return [warning]


def _words(duration_ms: int) -> str:
    """A duration in the largest unit that it fills: `7 d`, `90 min`."""
    for unit, size_ms in (("d", 86_400_000), ("h", 3_600_000), ("min", 60_000), ("s", 1000)):
        if duration_ms >= size_ms and duration_ms % size_ms == 0:
            return f"{duration_ms // size_ms} {unit}"
    return f"{duration_ms} ms"


def connect(
    client: Callable[..., Client], brokers: Kafka | str, *, timeout_s: float = BOOTSTRAP_TIMEOUT_S, **settings: Any
) -> Client:
    """Opens a kafka-python client, or says why no broker answers.

    Args:
        client: `KafkaAdminClient`, `KafkaConsumer` or `KafkaProducer`.
        brokers: The spec's `kafka` section, which says where they are and how we connect; or `host:port`, several with
            commas between, of brokers that anyone may connect to.
        timeout_s: How long to try to reach a broker, in seconds.
        settings: The client's other settings.

    Raises:
        BrokerError: There is no address, no broker answers in time, or the settings are refused.
        SpecError: A secret or a certificate that the spec names is not there.
    """
    bootstrap = brokers if isinstance(brokers, str) else brokers.bootstrap_servers
    security = {} if isinstance(brokers, str) else brokers.security.client_settings()
    _require_addresses(bootstrap)
    begun: list[KafkaNetClient] = []

    def net_client(**configs: Any) -> KafkaNetClient:
        begun.append(KafkaNetClient(**configs))
        return begun[-1]

    with _overheard() as reasons:
        try:
            return client(
                bootstrap_servers=bootstrap,
                bootstrap_timeout_ms=int(timeout_s * 1000),
                kafka_client=net_client,
                **security,
                **settings,
            )
        except KafkaError as exc:
            for left in begun:  # a client that failed leaves its thread and sockets behind
                left.close()
            telling = [reason for reason in reasons if "RequestTimedOut" not in reason] or reasons
            why = telling[-1] if telling else str(exc)
            if "sasl_mechanism" in security and "disconnected" in why:
                why += ", as when it does not know the user or the password"
            raise BrokerError(f"broker {bootstrap} does not answer: {why}") from exc


def _require_addresses(bootstrap: str) -> None:
    try:
        named = all(host for host, _, _ in collect_hosts(bootstrap))
    except ValueError:
        named = False
    if not named:
        raise BrokerError(f"a broker's address is host:port, several with commas between; got {bootstrap!r}")


@contextmanager
def broker_errors(where: str) -> Iterator[None]:
    """Turns kafka-python's errors into a `BrokerError` whose message begins with `where`."""
    try:
        yield
    except KafkaError as exc:
        raise BrokerError(f"{where}: {exc}") from exc


@contextmanager
def _overheard() -> Iterator[list[str]]:
    """Keeps kafka-python's log from being seen, and yields the reasons in it."""
    log, handler = logging.getLogger("kafka"), _Reasons()
    before = log.propagate
    log.addHandler(handler)
    log.propagate = False
    try:
        yield handler.reasons
    finally:
        log.removeHandler(handler)
        log.propagate = before


class _Reasons(logging.Handler):
    """Collects why brokers could not be reached.

    Refused, unknown host, wrong credentials: kafka-python says it nowhere but in its log, again at each of many tries.
    """

    PATTERN = re.compile(r"Bootstrap (?:connection|attempt) to \S+ failed: (.*) \(backoff")

    def __init__(self) -> None:
        super().__init__()
        self.reasons: list[str] = []

    def emit(self, record: logging.LogRecord) -> None:
        self.reasons += self.PATTERN.findall(record.getMessage())
