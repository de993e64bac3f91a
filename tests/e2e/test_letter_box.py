"""Dead letters read back and sent again, on a real Kafka."""

from __future__ import annotations

import json

import pytest
from kafka import KafkaProducer

from schemas.dead_letter import window_letter
from schemas.errors import InputError
from streaming.dead_letters import to_headers, to_payload
from streaming.letter_box import Choice, LetterBox, list_letters
from streaming.topics import connect
from tests.e2e.conftest import LiveStream
from tests.e2e.test_stream import START_MS, payload
from tidegauge import main

BAD = [b"{", b'{"key": "x"}', b"\xff\xfe", b'"' + b"a" * 900_001]


@pytest.fixture
def box(live: LiveStream) -> LetterBox:
    """Four bad events, and a window that a model refused."""
    live.send([(START_MS + index * 1_000, value) for index, value in enumerate(BAD)], key=b"x")
    live.send([(START_MS, payload("x", START_MS, 1.0))], key=b"x")
    assert live.run_to_end()["dead"] == 4
    letter = window_letter(
        stream="s", key="x", origin_ms=5, step_ms=10, inputs={"past_values": [[1.0]]}, source="s[0]", detail="no"
    )
    producer = connect(KafkaProducer, live.spec.kafka)
    producer.send(
        live.spec.topics.dead_letters.name,
        to_payload(letter),
        key=letter.key,
        headers=to_headers(letter),
        timestamp_ms=5,
    ).get(timeout=10)
    producer.close(timeout=5)
    return LetterBox(live.spec)


def test_letters_are_listed_shown_and_sent_again_once(
    live: LiveStream, box: LetterBox, capsys: pytest.CaptureFixture[str]
) -> None:
    listing = list_letters(box, Choice(), limit=3)
    assert listing.count == 5
    assert listing.reasons == {"decode": 3, "missing": 1, "refused": 1}
    assert len(listing.letters) == 3
    [chosen] = box.letters(Choice(since_ms=START_MS + 1_000, until_ms=START_MS + 2_000))
    assert chosen.payload == BAD[1]
    assert [letter.payload for letter in box.letters(Choice(reasons=["missing"]))] == [BAD[1]]
    assert not list(box.letters(Choice(partition=chosen.partition + 1, reasons=["missing"])))

    spec = ["--spec", str(live.spec_file), "--json"]
    assert main(["dead-letters", *spec, "--show", chosen.place]) == 0
    shown = json.loads(capsys.readouterr().out)
    assert (shown["payload"], shown["reason"], shown["stage"]) == (BAD[1].decode(), "missing", "event")
    [binary] = [letter for letter in box.letters() if letter.payload == BAD[2]]
    assert box.letter(binary.place).document(whole=True)["payload"] == "base64://4="

    # The bad bytes are bad again; what came back once is not sent a second time, however often one asks.
    for expected in (
        {"sent": 3, "skipped": {"cut": 1, "a window, not an event": 1}},
        {"sent": 0, "skipped": {"sent before": 3, "cut": 1, "a window, not an event": 1}},
    ):
        assert main(["dead-letters", *spec, "--replay"]) == 0
        assert json.loads(capsys.readouterr().out) == expected
    again = [m for m in live.read(live.spec.topics.input.name) if "tidegauge.replays" in m.headers]
    assert [m.value for m in again] == BAD[:3]
    first = next(m for m in live.read(live.spec.topics.input.name) if m.value == BAD[0])
    assert {(m.partition, m.key, m.headers["tidegauge.replays"]) for m in again} == {(first.partition, b"x", b"1")}
    assert [m.timestamp for m in again] == [START_MS, START_MS + 1_000, START_MS + 2_000]
    assert not any(name.startswith("tidegauge.error") for m in again for name in m.headers)

    assert live.run_to_end()["dead"] == 3
    assert box.replay().document() == {
        "sent": 0,
        "skipped": {"sent before": 3, "cut": 1, "a window, not an event": 1, "replayed already": 3},
    }
    assert box.replay(Choice(reasons=["missing"]), max_replays=2).sent == 1
    assert live.read(live.spec.topics.input.name)[-1].headers["tidegauge.replays"] == b"2"


@pytest.mark.parametrize(
    ("place", "why"), [("1", "expected PARTITION@OFFSET"), ("0@999", "expected a letter at 0@999")]
)
def test_a_letter_that_is_not_there(live: LiveStream, place: str, why: str) -> None:
    with pytest.raises(InputError, match=why):
        LetterBox(live.spec).letter(place)


def test_a_time_that_is_none(live: LiveStream, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["dead-letters", "--spec", str(live.spec_file), "--since", "yesterday"]) == 2
    assert capsys.readouterr().err == "tidegauge: --since: expected an ISO time, got 'yesterday'\n"
