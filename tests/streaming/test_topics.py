import logging
import threading
import time

import pytest
from kafka import KafkaConsumer, KafkaProducer

from deploy.local.ports import free_port
from schemas.errors import BrokerError
from streaming.topics import FOREVER, NewTopic, TopicAdmin, TopicSettings, connect, retention_warnings
from tests.conftest import Kafka

DAY_MS = 86_400_000
NOW_MS = 1_800_000_000_000


def settings(**changes: object) -> TopicSettings:
    week = {"retention_ms": 7 * DAY_MS, "cleanup_policy": "delete", "timestamp_type": "CreateTime"}
    return TopicSettings(**({"name": "events", "partitions": 1, "max_message_bytes": 1} | week | changes))  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("changes", "age_ms", "warned"),
    [
        ({}, 7 * DAY_MS, False),
        ({}, 7 * DAY_MS + 1, True),
        ({"cleanup_policy": "compact,delete"}, 30 * DAY_MS, True),
        ({"cleanup_policy": "compact"}, 30 * DAY_MS, False),
        ({"retention_ms": FOREVER}, 5000 * DAY_MS, False),
        ({"retention_ms": 0}, 1, True),
        ({"timestamp_type": "LogAppendTime"}, 5000 * DAY_MS, False),
        ({}, -DAY_MS, False),
    ],
)
def test_warns_when_retention_would_eat_old_events(changes: dict[str, object], age_ms: int, warned: bool) -> None:
    assert bool(retention_warnings(settings(**changes), oldest_ms=NOW_MS - age_ms, now_ms=NOW_MS)) == warned


@pytest.mark.parametrize(("retention_ms", "words"), [(7 * DAY_MS, "7 d"), (5_400_000, "90 min"), (1500, "1500 ms")])
def test_the_warning_says_what_to_do(retention_ms: int, words: str) -> None:
    oldest_ms = 1_356_998_400_000  # 2013-01-01
    (warning,) = retention_warnings(settings(retention_ms=retention_ms), oldest_ms=oldest_ms, now_ms=NOW_MS)
    assert warning.startswith(f"topic events keeps records for {words} and the oldest event is of 2013-01-01")
    assert "retention.ms to -1" in warning


def test_makes_topics_once_and_describes_them(kafka: Kafka) -> None:
    history = NewTopic("history", partitions=3, config={"retention.ms": "-1", "max.message.bytes": "2000000"})
    with TopicAdmin(kafka.bootstrap) as topics:
        assert topics.describe("history") is None
        assert topics.create([history, NewTopic("plain", partitions=1)]) == ["history", "plain"]
        assert topics.create([NewTopic("history", partitions=7), NewTopic("third", partitions=1)]) == ["third"]
        assert topics.describe("history") == TopicSettings("history", 3, FOREVER, "delete", "CreateTime", 2_000_000)
        assert topics.describe("plain") == TopicSettings("plain", 1, 7 * DAY_MS, "delete", "CreateTime", 1_048_588)


@pytest.mark.parametrize(
    ("topic", "why"),
    [
        (NewTopic("two words", partitions=1), "Topic name is invalid"),
        (NewTopic("refused", partitions=1, config={"retention.ms": "a week"}), "Invalid value a week"),
        (NewTopic("refused", partitions=0), "Number of partitions"),
    ],
)
def test_says_why_a_topic_is_refused(kafka: Kafka, topic: NewTopic, why: str) -> None:
    with TopicAdmin(kafka.bootstrap) as topics, pytest.raises(BrokerError, match=f"^topic {topic.name}: .*{why}"):
        topics.create([topic])


def test_a_name_that_can_be_no_topic_is_not_merely_missing(kafka: Kafka) -> None:
    with TopicAdmin(kafka.bootstrap) as topics, pytest.raises(BrokerError, match="InvalidTopicError"):
        topics.describe("two words")


@pytest.mark.parametrize("client", [KafkaConsumer, KafkaProducer])
def test_a_broker_that_is_down_is_said_so_in_time_and_quietly(
    client: type, caplog: pytest.LogCaptureFixture, capfd: pytest.CaptureFixture[str]
) -> None:
    bootstrap = f"127.0.0.1:{free_port()}"
    threads, began = set(threading.enumerate()), time.monotonic()
    with caplog.at_level(logging.DEBUG), pytest.raises(BrokerError, match=rf"^broker {bootstrap} .*ECONNREFUSED$"):
        connect(client, bootstrap, timeout_s=1.0)
    assert time.monotonic() - began < 3.0
    assert not caplog.records
    assert capfd.readouterr().err == ""
    assert set(threading.enumerate()) == threads


def test_admin_of_a_broker_that_is_down() -> None:
    with pytest.raises(BrokerError, match=r"127\.0\.0\.1:1 does not answer: .*ECONNREFUSED"):
        TopicAdmin("127.0.0.1:1", timeout_s=0.5)


@pytest.mark.parametrize(
    ("bootstrap", "why"),
    [
        ("no-such-host.invalid:9092", r"^broker no-such-host\.invalid:9092 does not answer: .*DNS"),
        ("localhost:port", "host:port, several with commas between; got 'localhost:port'"),
        ("localhost:9092,", "got 'localhost:9092,'"),
        ("", "got ''"),
    ],
)
def test_an_address_that_leads_nowhere(bootstrap: str, why: str) -> None:
    with pytest.raises(BrokerError, match=why):
        TopicAdmin(bootstrap, timeout_s=0.5)
