"""The topics of a stream: made as the spec says, and looked at before they are used."""

from __future__ import annotations

from schemas.settings_spec import Topic
from schemas.spec import Spec
from schemas.text_spec import TextSpec
from streaming.topics import FOREVER, NewTopic, TopicAdmin, retention_warnings

_NO_LIMIT = str(2**63 - 1)


def prepare_topics(admin: TopicAdmin, spec: Spec | TextSpec, *, oldest_ms: int | None, now_ms: int) -> list[str]:
    """Creates the stream's topics where they do not exist, and looks at those that do.

    Args:
      admin: a connection to the cluster.
      spec: names the topics, and their partitions and retention.
      oldest_ms: the oldest event time that will be written, epoch milliseconds; the newest one in the input topic when
        None, since what is predicted is at least as old.
      now_ms: the wall clock, epoch milliseconds.
    Returns:
      What a person should know, a sentence each.
    Raises:
      BrokerError: the broker refuses a topic.
    """
    topics = [spec.topics.input, spec.topics.predictions, spec.topics.dead_letters]
    if isinstance(spec, Spec):  # no document is late
        topics.append(spec.topics.late)
    created = admin.create([_wanted(topic) for topic in topics])
    if oldest_ms is None:
        oldest_ms = newest_ms(admin, spec.topics.input.name)
    warnings = []
    for topic in topics:
        settings = admin.describe(topic.name)
        if settings is None or topic.name in created:
            continue
        if settings.partitions != topic.partitions:
            warnings.append(
                f"topic {topic.name} has {settings.partitions} partitions where the spec says {topic.partitions}; "
                "the topic stays as it is"
            )
        if settings.timestamp_type != "CreateTime":
            warnings.append(
                f"topic {topic.name} stamps records with the broker's clock ({settings.timestamp_type}): "
                "windows are not affected, `--from TIME` is"
            )
        if oldest_ms is not None:
            warnings += retention_warnings(settings, oldest_ms=oldest_ms, now_ms=now_ms)
    return warnings


def prepare_accuracy_topics(admin: TopicAdmin, spec: Spec) -> None:
    """Creates the topics of `tidegauge accuracy` where they do not exist.

    Raises:
      BrokerError: the broker refuses a topic.
    """
    admin.create([_wanted(spec.topics.accuracy), _wanted(spec.topics.triggers)])


def newest_ms(admin: TopicAdmin, name: str) -> int | None:
    """The greatest record time in a topic, epoch milliseconds; None where it holds no record, or does not exist."""
    settings = admin.describe(name)
    found = [admin.newest_ms(name, number) for number in range(settings.partitions if settings else 0)]
    return max((time_ms for time_ms in found if time_ms is not None), default=None)


def _wanted(topic: Topic) -> NewTopic:
    retention_ms = FOREVER if topic.retention == "unlimited" else topic.retention
    config = {
        "retention.ms": str(retention_ms),
        "message.timestamp.type": "CreateTime",
        # A prediction's record time is its origin, up to a step ahead of now; by default more than 1 h is refused.
        "message.timestamp.after.max.ms": _NO_LIMIT,
    }
    return NewTopic(topic.name, topic.partitions, config)
