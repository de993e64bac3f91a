"""The join against a naive oracle: whatever the turns are in which both logs are read, and whenever it is restarted."""

from __future__ import annotations

import math
import random
from collections import Counter
from dataclasses import dataclass, field

import numpy as np
import orjson
from hypothesis import given, settings
from hypothesis import strategies as st

from schemas.accuracy import ScoredPrediction
from schemas.prediction import ModelVersion, Prediction, PredictionWriter, Role
from schemas.spec import Spec
from streaming.accuracy.actuals import ActualsPartition, Closed, ClosedSteps
from streaming.accuracy.drift import DriftWatch
from streaming.accuracy.forecasts import ForecastPartition, ForecastReader
from streaming.accuracy.join import Join, Match
from streaming.checkpoint import Checkpoint
from tests.oracle import Oracle, OracleEvent
from tests.streaming.test_partition import NOW_MS, Log, logs, specs, valid_times

Place = tuple[str, int, str]
"""Key, origin in milliseconds, role."""


def prediction(spec: Spec, key: str, origin_step: int, role: Role, version: int = 1) -> Prediction:
    """A forecast that says where it comes from."""
    horizon = spec.window.horizon
    mean = np.arange(horizon, dtype=np.float32)[:, None] + origin_step % 97 + version * 100
    return Prediction(
        key=key,
        origin_ms=origin_step * spec.grid.step,
        mean=mean.astype(np.float32),
        last_observed=np.array([origin_step % 89], np.float32),
        last_observed_ms=np.array([0]),
        observed_fraction=1.0,
        window_digest="0" * 16,
        model=ModelVersion("tiny", version, spec.window_fingerprint),
        levels=(0.05, 0.5, 0.95),
        quantiles=np.stack([mean - 1, mean, mean + 1], axis=-1).astype(np.float32),
        role=role,
    )


@dataclass
class Logs:
    """Both logs. Of each prediction it is known how many events must have been read for its window to be closed."""

    spec: Spec
    events: list[Log]
    predictions: list[Log] = field(default_factory=list)
    known_after: list[int] = field(default_factory=list)
    expected: dict[Place, tuple[tuple[float | None, ...], int]] = field(default_factory=dict)
    """Of each prediction that must be scored: its actual values, None where not observed, and its version."""

    @classmethod
    def of(cls, spec: Spec, events: list[Log], rng: random.Random) -> Logs:
        logs, oracle, writer = cls(spec, events), Oracle(spec), PredictionWriter(spec)
        made: dict[tuple[str, str], list[int]] = {}
        issued: list[tuple[str, int, Role, int]] = []
        times = valid_times(events)
        for number, one in enumerate(events):
            seen = len(oracle.windows)
            if one.offset in times:
                document = orjson.loads(one.value or b"")
                load = math.nan if document["load"] is None else document["load"]
                oracle.run([OracleEvent(document["key"], document["time"], one.offset, (load, math.nan))])
            fresh: list[tuple[str, int, Role, int]] = []
            for role in rng.choice([["champion"], ["champion", "shadow"]]):
                fresh += [(window.key, window.origin_step, role, 1) for window in oracle.windows[seen:]]
            if issued and rng.random() < 0.1:  # again, by another version
                key, step, role, _ = rng.choice(issued)
                fresh.append((key, step, role, 2))
            for key, step, role, version in fresh:
                steps = made.setdefault((key, role), [])
                is_first = not steps or step > steps[-1]
                if is_first:
                    steps.append(step)
                    logs._expect(oracle, key, step, role, version)
                value = writer.value(prediction(spec, key, step, role, version))
                logs.predictions.append(Log(2 * len(logs.predictions), value))
                logs.known_after.append(number + 1)
            issued += [one for one in fresh if one[3] == 1]
        logs._finish(oracle)
        return logs

    def _expect(self, oracle: Oracle, key: str, step: int, role: str, version: int) -> None:
        life = next(closed for name, closed in reversed(oracle.lives) if name == key)
        self._waiting = getattr(self, "_waiting", [])
        if any(life is closed and step - 1 in closed for name, closed in oracle.lives if name == key):
            self._waiting.append((life, key, step, role, version))
        else:  # a forecast of an earlier life
            lives = [closed for name, closed in oracle.lives if name == key and step - 1 in closed]
            self._waiting.append((lives[-1], key, step, role, version))

    def _finish(self, oracle: Oracle) -> None:
        for closed, key, step, role, version in getattr(self, "_waiting", []):
            last = step + self.spec.scored_steps[-1] - 1
            if last not in closed:
                continue
            actual = tuple(closed[step + scored - 1][0] for scored in self.spec.scored_steps)
            if any(value is not None for value in actual):
                self.expected[key, step * self.spec.grid.step, role] = (actual, version)


class Reader:
    """Reads both logs as the loop does."""

    def __init__(self, logs: Logs, events: Checkpoint | None = None, predictions: Checkpoint | None = None) -> None:
        self.logs, spec = logs, logs.spec
        self.join = Join(spec)
        notes = None if predictions is None else predictions.notes
        self.drift = DriftWatch(spec, lambda _: None, lambda _: None, notes)
        events = events or Checkpoint(0, 0, None, (), spec.window_fingerprint, 1)
        predictions = predictions or Checkpoint(0, 0, None, (), spec.window_fingerprint, 1)
        refused = set(valid_offsets(logs.events)) - set(valid_times(logs.events))
        self.partition = ActualsPartition(
            spec,
            ClosedSteps(spec),
            number=0,
            block_steps=3,
            take=self.close,
            forget=self.join.forget,
            lowest=lambda _: min(self.join.lowest_position(0), self.drift.lowest_position(0)),
            name="tiny.events[0]",
            partitions=1,
            start_offset=events.replay_offset,
            live_from=events.offset,
            clock_ms=events.clock_ms,
            refused=frozenset(refused),
        )
        self.forecasts = ForecastPartition(
            "tiny.predictions[0]",
            0,
            ForecastReader(spec),
            take=self.join.predict,
            lowest=lambda number: self.join.lowest_offsets().get(number, 2**62),
            checkpoint=predictions,
        )
        if replayed := [one for one in logs.events if events.replay_offset <= one.offset < events.offset]:
            self.partition.replay(replayed)
        self.partition.end_replay(events.offset)
        if replayed := [
            one for one in logs.predictions if predictions.replay_offset <= one.offset < predictions.offset
        ]:
            self.forecasts.replay(replayed)
        self.forecasts.next_offset = predictions.offset
        self.join.matches(caught_up=False)

    def close(self, closed: Closed) -> None:
        self.join.close(closed)
        self.drift.close(closed)

    def turn(self, events: int, predictions: int) -> list[Match]:
        """Reads so many of either, and scores."""
        logs = self.logs
        some = [one for one in logs.events if one.offset >= self.partition.next_offset][:events]
        stage = self.partition.stage(some, NOW_MS) if some else self.partition.idle()
        made = [one for one in logs.predictions if one.offset >= self.forecasts.next_offset][:predictions]
        forecast_stage = self.forecasts.stage(made, 0) if made else self.forecasts.idle()
        read = sum(one.offset < stage.next_offset for one in logs.events)
        needed = sum(after <= read for after in logs.known_after)
        caught_up = sum(one.offset < forecast_stage.next_offset for one in logs.predictions) >= needed
        matches = self.join.matches(caught_up=caught_up)
        self.drift.score(matches)
        self.points = (
            self.partition.checkpoint(stage),
            self.forecasts.checkpoint(forecast_stage, self.drift.notes()),
        )
        self.partition.apply(stage)
        self.forecasts.apply(forecast_stage)
        return matches

    @property
    def is_done(self) -> bool:
        return not any(one.offset >= self.partition.next_offset for one in self.logs.events) and not any(
            one.offset >= self.forecasts.next_offset for one in self.logs.predictions
        )


def valid_offsets(events: list[Log]) -> list[int]:
    return [one.offset for one in events if orjson.loads(one.value or b"")["load"] != "x"]


def found(scored: ScoredPrediction) -> tuple[Place, tuple[tuple[float | None, ...], int]]:
    actual = tuple(None if math.isnan(value) else value for value in scored.actual[:, 0].tolist())
    return (scored.key, scored.origin_ms, scored.role), (actual, scored.model.version)


@settings(deadline=None, max_examples=80)
@given(spec=specs(), events=logs(), rng=st.integers(0, 2**32).map(random.Random))
def test_scored_as_the_oracle_says(spec: Spec, events: list[Log], rng: random.Random) -> None:
    both = Logs.of(spec, events, rng)
    reader, matches = Reader(both), list[Match]()
    while not reader.is_done:
        matches += reader.turn(rng.randint(0, 20), rng.randint(0, 30))
        if rng.random() < 0.25:
            reader = Reader(both, *reader.points)  # killed after the commit
    matches += reader.turn(0, 0)
    scored = [found(match.scored) for match in matches]
    assert Counter(place for place, _ in scored) == Counter(both.expected.keys())
    assert dict(scored) == both.expected
    for match in matches:
        one = match.scored
        said = prediction(spec, one.key, one.origin_ms // spec.grid.step, one.role, one.model.version)
        steps = np.array(spec.scored_steps) - 1
        np.testing.assert_array_equal(one.forecast, said.mean[steps])
        np.testing.assert_array_equal(one.persistence, np.broadcast_to(said.last_observed, one.forecast.shape))
        assert one.lower is not None
        np.testing.assert_array_equal(one.lower, said.quantiles[steps][:, :, 0])
        assert one.coverage == 0.9
    assert reader.join.pending <= len(both.predictions)


@settings(deadline=None, max_examples=20)
@given(spec=specs(), events=logs(), rng=st.integers(0, 2**32).map(random.Random))
def test_what_is_kept_is_bounded(spec: Spec, events: list[Log], rng: random.Random) -> None:
    """Caught up, only steps are kept that a forecast waits for, and those that the next ones can need."""
    both = Logs.of(spec, events, rng)
    reader = Reader(both)
    while not reader.is_done:
        reader.turn(7, len(both.predictions))
    reach = spec.scored_steps[-1] + spec.grid.max_gap + 2
    assert reader.join.rows <= 3 * (reach + spec.scored_steps[-1])
