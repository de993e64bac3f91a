"""Requests: batches in flight, in order, cut where they must be, and windows that the model does not take."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pipelines.kernels.grid import Events
from pipelines.kernels.windowing import Windowing, Windows
from schemas.errors import ServingError, ServingRefused, ServingTooLarge, ServingUnavailable
from schemas.model_spec import HierarchicalModel
from streaming.model_client import Answer, Arrays, Waiting
from streaming.predictor import Predictor, RefusedWindow
from tests.specs import tiny_spec

SPEC = tiny_spec(grid={"step": "10ms", "regular": True}, serving={"max_batch": 8, "max_in_flight": 3})
WINDOWING = Windowing(SPEC)


def runs(loads: list[list[float]]) -> list[tuple[str, Windows]]:
    """One run of windows for each key, `k0`, `k1`, ...; the key's events have these loads, one a step."""
    found = []
    for number, values in enumerate(loads):
        count = len(values)
        events = Events(
            np.arange(count) * 10, np.arange(count), np.array([[value, 0.0] for value in values], np.float64)
        )
        _, windows, _ = WINDOWING.push(WINDOWING.empty(), events)
        found += [(f"k{number}", run) for run in windows if len(run)]
    return found


@dataclass
class FakeModel:
    """Answers with each window's last load, unless `misbehave` says otherwise; versions count its answers."""

    misbehave: Callable[[Arrays], Exception | None] = lambda _: None
    model: str = "fake"
    sizes: list[int] = field(default_factory=list)
    under_way: int = 0
    most_under_way: int = 0

    def ask(self, inputs: Arrays) -> Waiting:
        self.under_way += 1
        self.most_under_way = max(self.most_under_way, self.under_way)
        self.sizes.append(len(inputs["past_values"]))

        def wait() -> Answer:
            self.under_way -= 1
            if error := self.misbehave(inputs):
                raise error
            last = inputs["past_values"][:, -1:, :1]
            return Answer({"mean": np.repeat(last, SPEC.window.horizon, axis=1)}, 7, 12.34567)

        return wait


def expected(found: list[tuple[str, Windows]]) -> list[tuple[str, int, float]]:
    return [
        (key, int(step) * 10, float(values[-1, 0]))
        for key, run in found
        for step, values in zip(run.origin_step, run.past_values(), strict=True)
    ]


def predicted(predictions: Any) -> list[tuple[str, int, float]]:
    return [(p.key, p.origin_ms, float(p.mean[0, 0])) for p in predictions]


@given(st.lists(st.lists(st.floats(-9, 9, width=32), min_size=5, max_size=30), min_size=1, max_size=5))
@settings(max_examples=25, deadline=None)
def test_predictions_are_in_the_order_of_their_windows(loads: list[list[float]]) -> None:
    """Across keys, by size, with several requests under way."""
    found, model = runs(loads), FakeModel()
    wanted = expected(found)
    answered: list[int] = []
    predictions = Predictor(SPEC, WINDOWING, model, on_answer=lambda size, _: answered.append(size)).predict(found)
    assert predicted(predictions) == wanted
    assert model.sizes == answered == [8] * (len(wanted) // 8) + [len(wanted) % 8] * (len(wanted) % 8 > 0)
    assert model.most_under_way == min(3, len(model.sizes))
    assert {(p.latency_ms, p.model.version) for p in predictions} == {(12.346, 7)}


def test_quantiles_whose_levels_nobody_knows_are_left_out() -> None:
    found = runs([[float(value) for value in range(20)]])

    class Quantiles(FakeModel):
        levels: tuple[float, ...] = ()

        def ask(self, inputs: Arrays) -> Waiting:
            answer = FakeModel.ask(self, inputs)()
            quantiles = answer.outputs["mean"][..., None] + np.array([-1, 0, 1], np.float32)
            return lambda: Answer({**answer.outputs, "quantiles": quantiles}, 7, 1.0, self.levels)

    model = Quantiles()
    assert all(p.levels == () and p.quantiles.size == 0 for p in Predictor(SPEC, WINDOWING, model).predict(found))
    model.levels = (0.1, 0.9)  # of another number
    assert all(p.levels == () and p.quantiles.size == 0 for p in Predictor(SPEC, WINDOWING, model).predict(found))
    model.levels = (0.1, 0.5, 0.9)
    for prediction in Predictor(SPEC, WINDOWING, model).predict(found):
        assert prediction.levels == model.levels
        np.testing.assert_array_equal(prediction.quantiles[..., 2], prediction.mean + 1)


@given(st.sets(st.integers(1, 43), max_size=6), st.integers(1, 9))
@settings(max_examples=40, deadline=None)
def test_bad_windows_are_found_and_all_others_predicted(bad: set[int], largest: int) -> None:
    """A model that refuses some values, behind a server that takes few windows at once."""
    found = runs([[float(value) for value in range(44)], [100.0 + value for value in range(9)]])

    def refuse(inputs: Arrays) -> Exception | None:
        if len(inputs["past_values"]) > largest:
            return ServingTooLarge("larger than maximum")
        if set(inputs["past_values"][:, -1, 0].tolist()) & bad:
            return ServingRefused("a value that I do not like")
        return None

    refused: list[RefusedWindow] = []
    predictor = Predictor(SPEC, WINDOWING, FakeModel(refuse))
    predictions = predictor.predict(found, refused.append)
    wanted = expected(found)
    assert predicted(predictions) == [window for window in wanted if window[2] not in bad]
    assert [(r.key, r.origin_ms) for r in refused] == [window[:2] for window in wanted if window[2] in bad]
    for window in refused:
        assert found[window.run][0] == window.key
        assert window.detail == "a value that I do not like"
        assert float(window.inputs["past_values"][0, -1, 0]) in bad


def test_a_batch_that_was_too_large_is_not_sent_again() -> None:
    model = FakeModel(lambda inputs: ServingTooLarge("too large") if len(inputs["past_values"]) > 3 else None)
    predictor = Predictor(SPEC, WINDOWING, model)
    found = runs([[1.0] * 40])
    predictor.predict(found)
    model.sizes.clear()
    assert predicted(predictor.predict(found)) == expected(found)
    assert max(model.sizes) == 2


def test_a_model_that_takes_no_window_is_no_matter_of_the_windows() -> None:
    refused: list[RefusedWindow] = []
    predictor = Predictor(SPEC, WINDOWING, FakeModel(lambda _: ServingRefused("expected other inputs")))
    with pytest.raises(ServingError, match="takes nothing, not even a plain row: expected other inputs"):
        predictor.predict(runs([[1.0] * 12]), refused.append)
    assert refused == []


def test_a_window_that_is_taken_at_the_second_time_is_predicted() -> None:
    refusals = [ServingRefused("for a moment")] * 2
    model = FakeModel(lambda inputs: refusals.pop() if refusals and inputs["past_values"].any() else None)
    found = runs([[1.0] * 5])
    refused: list[RefusedWindow] = []
    predictions = Predictor(SPEC, WINDOWING, model).predict(found, refused.append)
    assert predicted(predictions) == expected(found)
    assert refused == []


def test_without_a_place_for_them_refused_windows_are_an_error() -> None:
    with pytest.raises(ServingRefused, match="no"):
        Predictor(SPEC, WINDOWING, FakeModel(lambda _: ServingRefused("no"))).predict(runs([[1.0] * 6]))


def test_a_server_that_is_away_is_asked_again_and_never_blamed_on_a_window() -> None:
    away = [ServingUnavailable("gone")] * 4
    model = FakeModel(lambda _: away.pop() if away else None)
    found, refused = runs([[1.0] * 30]), []
    predictor = Predictor(SPEC, WINDOWING, model, patience_s=30)
    assert predicted(predictor.predict(found, refused.append)) == expected(found)
    with pytest.raises(ServingUnavailable):
        Predictor(SPEC, WINDOWING, FakeModel(lambda _: ServingUnavailable("gone"))).predict(found, refused.append)
    assert refused == []


def test_a_cacheable_model_is_told_the_first_step_of_each_window() -> None:
    model = HierarchicalModel(family="hierarchical", cacheable=True)
    spec, told = SPEC.model_copy(update={"model": model}), []

    class Recorder(FakeModel):
        def ask(self, inputs: Arrays) -> Waiting:
            told.append(inputs["first_step"])
            return FakeModel.ask(self, inputs)

    found = runs([[float(value) for value in range(20)], [1.0] * 9])
    list(Predictor(spec, WINDOWING, Recorder()).predict(found))
    expected = np.concatenate([run.origin_step - SPEC.window.past for _, run in found])
    assert np.concatenate(told).dtype == np.int64
    np.testing.assert_array_equal(np.concatenate(told), expected)
