"""Drift of a stream whose inputs, or whose errors, change; and of one where nothing does."""

from __future__ import annotations

import random

import numpy as np
import pytest

from pipelines.kernels.grid import Steps
from pipelines.kernels.sketch import Sketch
from schemas.accuracy import ScoredPrediction
from schemas.prediction import ModelVersion, Role
from schemas.spec import Spec
from schemas.trigger import Trigger
from streaming.accuracy.actuals import Closed
from streaming.accuracy.baseline import Baseline
from streaming.accuracy.drift import DriftWatch
from streaming.accuracy.join import Match
from tests.specs import tiny_spec

DRIFT = {
    "block": 10,
    "input": {"jensen_shannon": 0.3, "psi": 1.0, "blocks": 3, "least": 20},
    "error": {"threshold": 1.0},
}


def spec(**drift: object) -> Spec:
    return tiny_spec(accuracy={"drift": DRIFT | drift})


def baseline(_version: int) -> Baseline:
    rng = np.random.default_rng(0)
    sketches = {name: Sketch.of(rng.normal(10, 3, 2_000).astype(np.float32)) for name in ("load", "heat")}
    return Baseline(sketches, np.array([2.0]))


def closed(block: int, load: float, partition: int = 0) -> Closed:
    rng = np.random.default_rng(block)
    values = np.stack([rng.normal(load, 3, 10), rng.normal(10, 3, 10), np.zeros(10)], axis=1).astype(np.float32)
    steps = Steps(block * 10, values, np.ones((10, 3), np.bool_), np.arange(10) + 10 * block)
    return Closed("x", partition, block, steps, steps.position)


def match(block: int, error: float, version: int = 3, role: Role = "champion") -> Match:
    actual, forecast = np.zeros((2, 1), np.float32), np.full((2, 1), error, np.float32)
    model = ModelVersion("tiny", version, "f" * 32)
    return Match(
        ScoredPrediction("x", block * 100, model, role, ("load",), ("MW",), (1, 2), actual, forecast, actual),
        block,
        partition=0,
        anchor=10 * block,
        number=0,
        offset=block,
    )


def told(
    watch: DriftWatch, blocks: range, *, load: float = 10.0, error: float = 1.0, version: int = 3
) -> list[Trigger]:
    rng = random.Random(blocks.start)
    triggers = []
    for block in blocks:
        watch.close(closed(block, load))
        watch.score([match(block, error * rng.uniform(0.8, 1.2), version), match(block, 99.0, 2, "shadow")])
        triggers += watch.look(block)
    return triggers


def test_nothing_changes() -> None:
    watch = DriftWatch(spec(), baseline, print)
    assert told(watch, range(60)) == []
    assert {(measure.measure, measure.feature) for measure in watch.measures} == {
        ("jensen_shannon", "load"),
        ("psi", "load"),
        ("jensen_shannon", "heat"),
        ("psi", "heat"),
        ("page_hinkley", None),
    }


def test_an_input_that_changes_is_told_once_for_each_excursion() -> None:
    watch = DriftWatch(spec(), baseline, print)
    assert told(watch, range(20)) == []
    jensen_shannon, psi = told(watch, range(20, 40), load=20.0)
    assert (jensen_shannon.measure, psi.measure) in {("jensen_shannon", "psi"), ("psi", "jensen_shannon")}
    assert {jensen_shannon.feature, jensen_shannon.kind} == {"load", "input_drift"}
    one = jensen_shannon if jensen_shannon.measure == "jensen_shannon" else psi
    assert one.reason == f"load: Jensen-Shannon {one.value:.3g} > 0.3 against the dataset of version 3"
    assert one.time_ms % 100 == 0
    assert 2_100 <= one.time_ms <= 2_300
    assert told(watch, range(40, 60)) == []
    assert {trigger.feature for trigger in told(watch, range(60, 80), load=20.0)} == {"load"}


def test_errors_that_rise_are_told_once_and_begin_anew_with_another_version() -> None:
    watch = DriftWatch(spec(input=None), baseline, print)
    assert told(watch, range(20)) == []
    [trigger] = told(watch, range(20, 40), error=2.0)
    assert (trigger.kind, trigger.measure, trigger.feature) == ("error_drift", "page_hinkley", None)
    assert trigger.reason.startswith("errors of version 3: Page-Hinkley ")
    assert trigger.time_ms <= 2_300
    assert told(watch, range(40, 60), error=2.0, version=4) == []  # which has never known better
    assert len(told(watch, range(60, 80), error=5.0, version=4)) == 1


@pytest.mark.parametrize("cut", [5, 21, 22, 23, 40])
def test_a_successor_goes_on(cut: int) -> None:
    """With the notes, and the values read again from the lowest position on."""
    whole = DriftWatch(spec(), baseline, print)
    expected = [*told(whole, range(20)), *told(whole, range(20, 50), load=20.0, error=2.0)]
    watch = DriftWatch(spec(), baseline, print)
    triggers = []

    def read(block: int) -> None:
        start, load, error = (0, 10.0, 1.0) if block < 20 else (20, 20.0, 2.0)
        rng = random.Random(start)
        factors = [rng.uniform(0.8, 1.2) for _ in range(start, block + 1)]
        watch.close(closed(block, load))
        watch.score([match(block, factors[-1] * error)])

    for block in range(50):
        if block == cut:  # two blocks have been read that have not been looked at
            assert watch.lowest_offset(0) == block - 2
            lowest, notes = watch.lowest_position(0), watch.notes()
            watch = DriftWatch(spec(), baseline, print, notes)
            for again in range(lowest // 10, block):
                read(again)
        read(block)
        triggers += watch.look(block - (2 if block in (cut - 1, cut - 2) else 0))
    assert len(triggers) == 3
    assert triggers == expected


def test_a_version_without_statistics() -> None:
    said: list[str] = []
    watch = DriftWatch(spec(), lambda _: None, said.append)
    triggers = [*told(watch, range(20)), *told(watch, range(20, 40), load=99.0, error=9.0)]
    assert [trigger.kind for trigger in triggers] == ["error_drift"]
    assert said == ["version 3 has no statistics of its dataset: its inputs are not looked at"]
