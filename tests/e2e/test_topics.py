"""Topics that exist already are looked at before they are used."""

from __future__ import annotations

import time

from schemas.spec import parse_spec
from streaming.stream_topics import prepare_topics
from streaming.topics import NewTopic, TopicAdmin
from tests.e2e.conftest import LiveStream
from tests.e2e.test_stream import START_MS, payload

WEEK_MS = 7 * 86_400_000


def test_a_topic_that_would_lose_history(live: LiveStream) -> None:
    """A user's own predictions topic keeps a week, and the events are of 2023: said before anything is written."""
    name, now_ms = f"{live.spec.stream.name}.mine", time.time_ns() // 1_000_000
    document = live.spec.model_dump(mode="json", exclude_defaults=True)
    document["kafka"]["predictions"] = {"name": name, "partitions": 3}
    spec = parse_spec(document)
    with TopicAdmin(spec.kafka.bootstrap_servers) as admin:
        admin.create([NewTopic(name, 2, {"retention.ms": str(WEEK_MS)})])
        before = prepare_topics(admin, spec, oldest_ms=None, now_ms=now_ms)
        live.send([(START_MS, payload("x", START_MS, 1.0))])
        after = prepare_topics(admin, spec, oldest_ms=None, now_ms=now_ms)
    assert before == [f"topic {name} has 2 partitions where the spec says 3; the topic stays as it is"]
    [line] = [line for line in after if line not in before]
    assert line.startswith(f"topic {name} keeps records for 7 d and the oldest event is of 2023-11-14")
