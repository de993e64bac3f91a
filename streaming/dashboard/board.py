"""All that is shown of one stream: what comes from the topics and the endpoints goes in, a JSON document comes out."""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from threading import Lock
from typing import Any

from schemas.accuracy import read_accuracy
from schemas.avro_prediction import read_prediction
from schemas.event import BadEvent
from schemas.spec import Spec
from schemas.text_event import TextEventReader
from schemas.text_spec import TextSpec
from schemas.trigger import read_trigger
from streaming.dashboard.actuals import Actuals
from streaming.dashboard.classes import ClassView
from streaming.dashboard.endpoints import Scrape, drift_of
from streaming.dashboard.keys import Keys
from streaming.dashboard.letters import LetterView, TriggerView
from streaming.dashboard.reader import TopicState
from streaming.dashboard.scores import ScoreView
from streaming.dashboard.series import SeriesView
from streaming.dashboard.status import status_of
from streaming.dashboard.versions import VersionView
from streaming.dashboard.vitals import Look, Vitals
from streaming.stage import Record

MOST_KEYS = 100
MOST_POINTS = 500
_FORM = (ValueError, KeyError, IndexError, TypeError, AttributeError, OverflowError)
"""What a record of another form than expected raises."""

Take = Callable[[int, Sequence[Record], int], None]


class Board:
    """The state of the page; safe to use from several threads.

    Args:
      spec: the stream.
      keys: how many keys are followed, of a stream of series.
      points: how many steps of each are kept.
    """

    def __init__(self, spec: Spec | TextSpec, *, keys: int = MOST_KEYS, points: int = MOST_POINTS) -> None:
        self._spec, self._lock = spec, Lock()
        self._versions, self._vitals = VersionView(), Vitals()
        self._letters, self._triggers = LetterView(), TriggerView()
        self._problem, self._problem_since = "connecting", time.time_ns() // 1_000_000
        self._heard_ms: int | None = None
        self._topic_states: Mapping[str, TopicState] = {}
        self._scrapes: Sequence[Scrape] = ()
        self._foreign: Counter[str] = Counter()
        topics = spec.topics
        self._takes: dict[str, Take] = {
            topics.predictions.name: self._predictions,
            topics.dead_letters.name: self._dead_letters,
        }
        self._series: SeriesView | None = None
        self._scores: ScoreView | None = None
        self._classes: ClassView | None = None
        self._keys = Keys(keys, self._forget)
        if isinstance(spec, TextSpec):
            self._classes, self._documents = ClassView(), TextEventReader(spec)
            self._takes[topics.input.name] = self._texts
            return
        self._takes |= {topics.late.name: self._late, topics.triggers.name: self._trigger}
        if spec.classes:
            self._classes = ClassView()
            self._takes[topics.input.name] = lambda *_: None  # its rate and lag alone are told
        else:
            self._series, self._scores = SeriesView(spec, points), ScoreView(spec)
            self._actuals = Actuals(spec, self._keys.follows)
            self._takes |= {topics.input.name: self._events, topics.accuracy.name: self._accuracy}

    @property
    def topics(self) -> list[str]:
        """What is read."""
        return list(self._takes)

    # --- what comes in ---

    def take(self, topic: str, partition: int, records: Sequence[Record], now_ms: int) -> None:
        """The next records of a partition."""
        with self._lock:
            self._takes[topic](partition, records, now_ms)

    def look(self, look: Look, topics: Mapping[str, TopicState]) -> None:
        """How far things are; the broker is there."""
        with self._lock:
            self._problem, self._topic_states = "", topics
            self._vitals.add(look, self._versions.latency_ms(), self._scrapes)

    def away(self, problem: str) -> None:
        """The broker does not answer."""
        with self._lock:
            if not self._problem:
                self._problem_since = time.time_ns() // 1_000_000
            self._problem = problem

    def scraped(self, scrapes: Sequence[Scrape]) -> None:
        """What the endpoints say."""
        with self._lock:
            self._scrapes = scrapes

    def _predictions(self, _: int, records: Sequence[Record], now_ms: int) -> None:
        state = self._topic_states.get(self._spec.topics.predictions.name)
        if state is not None and state.behind == 0:  # else it is what there was before
            self._heard_ms = now_ms
        fingerprint = self._spec.window_fingerprint
        for record in records:
            try:
                prediction = read_prediction(record.value or b"", dict(record.headers))
                if prediction["model"]["window_fingerprint"] != fingerprint:
                    self._foreign["predictions"] += 1
                    continue
                self._versions.add(prediction, record.timestamp)
                if prediction["role"] not in ("champion", "canary"):
                    continue
                if self._classes is not None:
                    self._classes.classify(prediction)
                elif self._series is not None and self._keys.follows(_text(prediction["key"])):
                    self._series.forecast(prediction)
            except _FORM:
                self._foreign["predictions"] += 1

    def _events(self, partition: int, records: Sequence[Record], now_ms: int) -> None:
        assert self._series is not None
        for key, steps in self._actuals.push(partition, records, now_ms):
            self._series.close(key, steps)

    def _texts(self, partition: int, records: Sequence[Record], _: int) -> None:
        assert self._classes is not None
        for record in records:
            try:
                text = self._documents.read_json(record.value).text
            except BadEvent:
                continue
            self._classes.text(f"{self._spec.topics.input.name}[{partition}]@{record.offset}", text)

    def _accuracy(self, _: int, records: Sequence[Record], __: int) -> None:
        assert self._scores is not None
        found = []
        for record in records:
            try:
                found.append(read_accuracy(record.value or b""))
            except ValueError:
                self._foreign["accuracy"] += 1
        self._scores.add(found)

    def _trigger(self, _: int, records: Sequence[Record], __: int) -> None:
        for record in records:
            try:
                self._triggers.add(read_trigger(record.value or b""))
            except ValueError:
                self._foreign["triggers"] += 1

    def _dead_letters(self, partition: int, records: Sequence[Record], _: int) -> None:
        for record in records:
            self._letters.dead(partition, record)

    def _late(self, _: int, records: Sequence[Record], __: int) -> None:
        self._letters.late(len(records))

    def _forget(self, key: str) -> None:
        if self._series is not None:
            self._series.forget(key)
            self._actuals.forget(key)

    # --- what is shown ---

    def document(self, *, key: str | None = None, target: int = 0, lead: int | None = None) -> dict[str, Any]:
        """The state as JSON values and arrays; what does not exist is shown of the first that does.

        Args:
          key: whose series; it is followed from now on.
          target: the number of the target.
          lead: how many steps ahead forecasts are compared.
        """
        with self._lock:
            now_ms, measures = time.time_ns() // 1_000_000, drift_of(self._scrapes)
            status = status_of(
                problem=self._problem,
                scrapes=self._scrapes,
                lag_records=self._vitals.now.get("lag_records"),
                measures=measures,
                predicted=bool(self._versions),
                silent_ms=None if self._heard_ms is None else now_ms - self._heard_ms,
            )
            document = {
                "now_ms": now_ms,
                "stream": self._stream(),
                "status": status._asdict(),
                "broker": {"problem": self._problem, "since_ms": self._problem_since if self._problem else None},
                "topics": [{"name": name, **state.document()} for name, state in sorted(self._topic_states.items())],
                "endpoints": [scrape.document() for scrape in self._scrapes],
                "foreign": dict(self._foreign),
                "vitals": self._vitals.now,
                "history": self._vitals.history(),
                "versions": self._versions.document(),
                "letters": self._letters.document(),
                "drift": {"measures": measures, "triggers": self._triggers.document()},
            }
            if self._series is not None and self._scores is not None:
                document |= self._of_series(self._series, self._scores, key, target, lead)
            if self._classes is not None:
                document["classes"] = self._classes.document()
            return document

    def _of_series(
        self, series: SeriesView, scores: ScoreView, key: str | None, target: int, lead: int | None
    ) -> dict[str, Any]:
        if key is not None:
            self._keys.want(key)
        names = self._keys.sorted()
        shown = key if key in names else next(iter(names), None)
        target = target if 0 <= target < len(series.targets) else 0
        lead = lead if lead in series.leads else series.leads[0]
        return {
            "keys": names,
            "more_keys": self._keys.left_out,
            "shown": {"key": shown, "target": target, "lead": lead},
            "series": None if shown is None else series.document(shown, target, lead),
            "scores": scores.document(target),
        }

    def _stream(self) -> dict[str, Any]:
        spec = self._spec
        kind = "texts" if isinstance(spec, TextSpec) else "classes" if spec.classes else "forecasts"
        stream: dict[str, Any] = {"name": spec.stream.name, "description": spec.stream.description, "kind": kind}
        if self._series is not None and isinstance(spec, Spec):
            stream |= {
                "targets": [{"name": target.name, "unit": target.unit} for target in spec.targets],
                "leads": self._series.leads,
                "step_ms": spec.grid.step,
                "horizon": spec.window.horizon,
            }
        return stream


def _text(value: Any) -> str:
    if not isinstance(value, str):
        raise TypeError(f"expected a text, got {type(value).__name__}")
    return value
