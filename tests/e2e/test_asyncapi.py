"""schemas/asyncapi.yaml against the records of a real run, and the example for readers."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import yaml

from flows.verify import read_predictions
from schemas.dead_letter import window_letter
from streaming.dead_letters import to_headers
from streaming.letter_box import Choice, LetterBox
from tests.e2e.conftest import LiveStream, Message
from tests.e2e.test_stream import START_MS, history, send
from tests.json_schema import problems
from tests.specs import tiny_spec

FILE = Path("schemas/asyncapi.yaml")
API: dict[str, Any] = yaml.safe_load(FILE.read_text())


def resolved(node: Any) -> Any:
    """The document with its references in place."""
    if isinstance(node, list):
        return [resolved(item) for item in node]
    if not isinstance(node, dict):
        return node
    if reference := node.get("$ref"):
        if not reference.startswith("#/"):
            return json.loads((FILE.parent / reference).read_text())
        target: Any = API
        for part in reference.removeprefix("#/").split("/"):
            target = target[part]
        return resolved(target)
    return {name: resolved(part) for name, part in node.items()}


def message(name: str) -> dict[str, Any]:
    found: dict[str, Any] = resolved(API["components"]["messages"][name])
    return found


def complaints(name: str, headers: dict[str, bytes], payload: Any) -> list[str]:
    kind = message(name)
    text = {header: value.decode() for header, value in headers.items()}
    return [*problems(kind.get("headers", {}), text, "headers"), *problems(kind["payload"], payload, "payload")]


def topics(stream: str) -> dict[str, str]:
    return {name: channel["address"].replace("{stream}", stream) for name, channel in API["channels"].items()}


def test_channels_are_the_spec_s_topics() -> None:
    spec = tiny_spec(kafka={"recovery": "changelog"})
    wanted = [topic["name"] for topic in spec.topics.model_dump().values()]
    assert sorted([*wanted, spec.changelog]) == sorted(topics("tiny").values())


def test_every_reference_leads_somewhere() -> None:
    document = resolved(API)
    assert document["asyncapi"] == "3.0.0"
    for operation in document["operations"].values():
        assert operation["channel"]["address"]

    def bindings(node: Any) -> Iterator[Any]:
        if isinstance(node, dict):
            yield from (node["bindings"]["kafka"],) if "bindings" in node else ()
            for part in node.values():
                yield from bindings(part)

    assert {binding["bindingVersion"] for binding in bindings(document)} == {"0.5.0"}


def test_real_records_are_as_described(live: LiveStream) -> None:
    send(live, history(30, 300, "xyz"))
    bad = [b"{", b'{"key": "x"}', b'{"key": "x", "time": 253402300799000}', None, b'{"key":"x","time":5,"load":"text"}']
    live.send([(START_MS, value) for value in [*bad, b'"' + b"a" * 900_001]], key=b"x")
    live.run_to_end()
    assert LetterBox(live.spec).replay(Choice(reasons=["missing"])).sent == 1
    live.run_to_end()
    at = topics(live.spec.stream.name)

    def read(channel: str) -> list[Message]:
        found = live.read(at[channel])
        assert found, channel
        return found

    for record in read("predictions"):
        assert not complaints("prediction", record.headers, record.document)
    for record in read("late"):
        assert not complaints("lateEvent", record.headers, record.document)
    kinds = [
        ("receipt", None) if "tidegauge.letter" in r.headers else ("deadEvent", r.value) for r in read("deadLetters")
    ]
    assert {kind for kind, _ in kinds} == {"receipt", "deadEvent"}
    for record, (kind, payload) in zip(read("deadLetters"), kinds, strict=True):
        assert not complaints(kind, record.headers, payload)
    for record in read("events"):
        assert not complaints("event", record.headers, {})


def test_a_window_s_letter_is_as_described() -> None:
    letter = window_letter(
        stream="s", key="x", origin_ms=5, step_ms=10, inputs={"past_values": [[1.0]]}, source="s[0]", detail="no"
    )
    assert not complaints("deadWindow", dict(to_headers(letter)), json.loads(letter.payload or b""))
    assert complaints("deadWindow", {}, {}) != []


def test_a_record_that_is_not_as_described() -> None:
    """The check itself can fail."""
    found = complaints("prediction", {"ce_id": b"x"}, {"schema_version": 2, "targets": [], "model": {"version": "1"}})
    assert any("ce_id" in line for line in found)
    assert any("schema_version" in line for line in found)
    assert any("$.model" in line or "payload.model.version" in line for line in found)


def test_avro_values_in_kafka(live_with: Callable[..., LiveStream], live: LiveStream) -> None:
    kafka = live.spec.kafka.model_dump(mode="json", exclude_defaults=True)
    document = yaml.safe_load(live.spec_file.read_text())
    document["kafka"] = kafka | {"value_format": "avro", "avro": {"schema_id": 9}}
    live.spec_file.write_text(yaml.safe_dump(document))
    send(live, history(31, 100, "x"))
    counts = live.run_to_end()
    records = live.predictions()
    assert {record.value[:5] for record in records if record.value} == {b"\0\0\0\0\x09"}
    assert {record.headers["content-type"] for record in records} == {b"application/avro"}
    found = list(read_predictions(live.spec, live.spec.topics.predictions.name))
    assert len(found) == counts["predictions"] > 0
    for record, prediction in zip(records, found, strict=True):
        assert not complaints(
            "prediction",
            record.headers,
            prediction
            | {
                "targets": [
                    {name: value for name, value in target.items() if value is not None}
                    for target in prediction["targets"]
                ]
            },
        )


def test_the_example_for_readers(live: LiveStream) -> None:
    def read(*arguments: str) -> list[str]:
        example = ["deploy/examples/read_predictions.py", live.spec.kafka.bootstrap_servers]
        command = [sys.executable, *example, live.spec.topics.predictions.name, *arguments, "--until-end"]
        return subprocess.run(command, capture_output=True, text=True, timeout=60, check=True).stdout.splitlines()

    send(live, history(32, 100, "xy"))
    live.run_to_end()
    messages = live.predictions()
    assert len(read()) == len(messages)
    group = f"{live.spec.stream.name}-readers"
    lines = read(group)
    assert all(line.startswith("new ") for line in lines)
    newest = messages[-1].document
    assert any(f"{newest['key']} " in line and f"{newest['targets'][0]['mean'][0]:.3f} MW" in line for line in lines)
    assert read(group) == []
