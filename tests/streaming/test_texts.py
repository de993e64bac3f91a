"""Live documents: what is one, what is asked together, what the model does not take, and where a partition goes on."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field
from types import SimpleNamespace
from typing import Any

import numpy as np
import orjson
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from kafka import TopicPartition

from schemas.avro_prediction import TEXT_PREDICTION, AvroTextPredictionWriter, read_avro_prediction
from schemas.errors import ServingRefused, SpecError
from schemas.text_event import MAX_DOCUMENT_BYTES, TextEventReader
from schemas.text_prediction import TextPrediction, TextPredictionWriter
from schemas.text_spec import TextSpec, parse_text_spec
from streaming import text_predictor
from streaming.checkpoint import Checkpoint
from streaming.kind import Means
from streaming.model_client import Answer, Arrays, Waiting
from streaming.text_partition import TextPartition, TextStage
from streaming.texts import Texts
from tests.streaming.test_partition import Log

CLASSES = ("short", "long")
NOW_MS = 1_000_000
PLACE = TopicPartition("small.events", 0)


def text_spec(**sections: Any) -> TextSpec:
    stream = {"name": "small", "text": "said", "label": "mood", "key": "who"}
    return parse_text_spec({"stream": stream, "text": {}} | sections)


SPEC = text_spec(serving={"max_batch": 4, "max_in_flight": 3})


@dataclass
class FakeClassifier:
    """Long texts are of the second class; some it does not take."""

    refuses: Callable[[bytes], bool] = lambda _: False
    model: str = "fake"
    sizes: list[int] = field(default_factory=list)

    def ask(self, inputs: Arrays) -> Waiting:
        texts = inputs["text"].tolist()
        self.sizes.append(sum(map(len, texts)))

        def wait() -> Answer:
            if any(map(self.refuses, texts)):
                raise ServingRefused("not this one")
            long = [len(text) > 5 for text in texts]
            scores = np.array([(0.25, 0.75) if one else (0.875, 0.125) for one in long], np.float32)
            return Answer(
                {"label": np.array([CLASSES[one].encode() for one in long], object), "scores": scores}, 7, 1.5
            )

        return wait

    def classes(self, version: int) -> tuple[str, ...]:
        assert version == 7
        return CLASSES


@dataclass
class FakeTopic:
    """A topic as its consumer sees it: what there is, and what is committed."""

    first: int = 0
    end: int = 9
    commit: int | None = None
    others: str | None = None
    """The metadata with which another partition is committed."""

    def partitions_for_topic(self, topic: str) -> set[int]:
        return {0} if self.others is None else {0, 1}

    def committed(self, tp: TopicPartition, metadata: bool, timeout_ms: int) -> Any:
        offset, metadata = (self.commit, "") if tp == PLACE else (3, self.others)
        return None if offset is None else SimpleNamespace(offset=offset, metadata=metadata)

    def beginning_offsets(self, places: list[TopicPartition], timeout_ms: int) -> dict[TopicPartition, int]:
        return dict.fromkeys(places, self.first)

    def end_offsets(self, places: list[TopicPartition], timeout_ms: int) -> dict[TopicPartition, int]:
        return dict.fromkeys(places, self.end)


def texts(model: FakeClassifier, topic: FakeTopic | None = None, **means: Any) -> Texts:
    given: Any = {"start": "earliest", "stopping": None, "on_answer": lambda *_: None, "report": lambda _: None} | means
    return Texts(SPEC, Means(topic or FakeTopic(), model, **given))


def partition(offset: int = 0) -> TextPartition:
    reader = TextEventReader(SPEC)
    return TextPartition(reader, name="small.events[0]", offset=offset, fingerprint="f", partitions=1)


def said(*values: str) -> list[Log]:
    return [Log(offset, orjson.dumps({"said": value})) for offset, value in enumerate(values)]


def reasons(stage: TextStage) -> list[tuple[int, str]]:
    return [(record.offset, letter.reason) for record, letter in stage.dead]


@pytest.mark.parametrize(
    ("value", "reason"),
    [
        (None, "decode"),
        (b"", "decode"),
        (b"[]", "decode"),
        (b'{"said": "\\ud800"}', "decode"),
        (b'{"mood": "good"}', "missing"),
        (b'{"said": null}', "missing"),
        (b'{"said": true}', "type"),
        (b'{"said": 1.5}', "type"),
        (b'{"said": "x", "who": [1]}', "type"),
        (b'{"said": "' + b"x" * MAX_DOCUMENT_BYTES + b'"}', "size"),
    ],
)
def test_what_is_no_document(value: bytes | None, reason: str) -> None:
    live = partition()
    stage = live.stage([Log(3, value, key=b"raw"), *said("fine")], NOW_MS)
    assert reasons(stage) == [(3, reason)]
    [(_, letter)] = stage.dead
    assert (letter.payload, letter.key, letter.source) == (value, b"raw", "small.events[0]@3")
    assert stage.counts == {"in": 2, "used": 1, "dead": 1}


def test_what_is_a_document() -> None:
    values = [{"said": "", "who": 5, "mood": 3}, {"said": 12, "who": None}, {"said": "x", "more": [{}]}]
    stage = partition().stage([Log(n, orjson.dumps(value)) for n, value in enumerate(values)], NOW_MS)
    assert [tuple(document.event) for document in stage.documents] == [("", "5"), ("12", None), ("x", None)]


def test_nothing_moves_before_its_commit() -> None:
    live = partition(4)
    ahead = [Log(4, b'{"said": "x"}', timestamp=2**60), Log(6, b'{"said": "x"}', timestamp=70)]
    stage = live.stage(ahead, NOW_MS)
    assert [document.time_ms for document in stage.documents] == [NOW_MS, 70]
    assert (live.next_offset, live.clock_ms, live.idle(5).next_offset) == (4, None, 5)
    point = live.checkpoint(stage)
    assert (point.offset, point.replay_offset) == (7, 7)
    live.apply(stage)
    assert (live.next_offset, live.clock_ms) == (7, NOW_MS)


@given(st.lists(st.text(max_size=12), max_size=40), st.sets(st.integers(0, 39)))
@settings(max_examples=40, deadline=None)
def test_each_document_has_its_prediction_or_its_letter(values: list[str], bad: set[int]) -> None:
    """Whatever the model does not take: in order, across partitions, nothing lost, nothing twice."""
    values = [f"no {value}" if number in bad else value.replace("no", "") for number, value in enumerate(values)]
    model = FakeClassifier(refuses=lambda text: text.startswith(b"no "))
    records, middle = said(*values), len(values) // 3
    stages = {
        TopicPartition("small.events", number): TextPartition(
            TextEventReader(SPEC), name=f"small.events[{number}]", offset=0, fingerprint="f", partitions=2
        ).stage(part, NOW_MS)
        for number, part in enumerate((records[:middle], records[middle:]))
        if part
    }
    predictions = texts(model).predict(stages)
    places = [f"small.events[{int(number >= middle)}]@{number}" for number in range(len(values))]
    taken = [(place, value) for place, value in zip(places, values, strict=True) if not value.startswith("no ")]
    wanted = [(place, CLASSES[len(value.encode()) > 5]) for place, value in taken]
    assert [(p.origin, p.label) for p in predictions] == wanted
    counts = sum((stage.counts for stage in stages.values()), Counter[str]())
    refused = len(values) - len(taken)
    assert [counts[name] for name in ("in", "used", "dead", "refused")] == [len(values), len(taken), refused, refused]
    letters = [letter for stage in stages.values() for _, letter in stage.dead]
    assert {(letter.stage, letter.reason) for letter in letters} <= {("rpc", "refused")}


def test_long_texts_are_asked_in_short_requests(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(text_predictor, "REQUEST_BYTES", 10)
    model = FakeClassifier()
    stage = partition().stage(said("x" * 4, "x" * 6, "x" * 30, "x", "x", "x", "x", "x"), NOW_MS)
    assert len(texts(model).predict({PLACE: stage})) == 8
    assert model.sizes == [10, 30, 4, 1]


@pytest.mark.parametrize(
    ("topic", "offset", "begins", "told"),
    [
        (FakeTopic(first=2), 2, True, ""),
        (FakeTopic(commit=5), 5, False, ""),
        (FakeTopic(first=7, commit=5), 7, False, "retention has removed offsets 5 to 7"),
        (FakeTopic(commit=12), 0, False, "a new topic"),
    ],
)
def test_where_a_partition_goes_on(topic: FakeTopic, offset: int, begins: bool, told: str) -> None:
    said: list[str] = []
    kind = texts(FakeClassifier(), topic, report=said.append)
    points, begun = kind.checkpoints([PLACE])
    assert begun == ({PLACE} if begins else set())
    assert kind.reading(PLACE, points[PLACE]).finish().next_offset == offset
    assert told in said[0]


def test_records_of_a_prediction() -> None:
    event = orjson.dumps({"said": "said it", "who": "é"})
    records = [Log(1, event, headers=[("traceparent", b"00-1")]), *said("x")]
    first, second = texts(FakeClassifier()).predict({PLACE: partition().stage(records, NOW_MS)})
    assert (first.key, first.record_key, second.key, second.record_key) == ("é", "é".encode(), None, b"k")
    assert dict(TextPredictionWriter(SPEC).headers(first))["traceparent"] == b"00-1"
    assert "traceparent" not in dict(TextPredictionWriter(SPEC).headers(second))
    for prediction in (first, second):
        same_in_avro(prediction)


def same_in_avro(prediction: TextPrediction) -> None:
    document = orjson.loads(TextPredictionWriter(SPEC).value(prediction))
    assert list(document["scores"]) == list(CLASSES)
    assert read_avro_prediction(AvroTextPredictionWriter(SPEC, 9).value(prediction), TEXT_PREDICTION) == document


def test_a_partition_that_was_added_begins_at_its_first_document() -> None:
    for partitions, offset in ((1, 2), (2, 9)):
        metadata = Checkpoint(3, 3, None, (), SPEC.window_fingerprint, partitions).metadata()
        kind = texts(FakeClassifier(), FakeTopic(first=2, others=metadata), start="latest")
        other = TopicPartition(PLACE.topic, 1)
        points, begun = kind.checkpoints([PLACE, other])
        assert (begun, points[PLACE].offset, points[PLACE].partitions) == ({PLACE}, offset, 2)
        assert (points[other].offset, points[other].partitions) == (3, partitions)


@pytest.mark.parametrize(
    "kafka", [{"recovery": "changelog"}, {"idle_close": "5s"}, {"changelog": "x"}, {"late": {"name": "x"}}]
)
def test_what_only_series_have_is_refused(kafka: dict[str, Any]) -> None:
    with pytest.raises(SpecError, match="for series"):
        text_spec(kafka=kafka)
