"""The canary and the shadow: what they do wrong is nobody's harm."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from threading import Event
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pipelines.kernels.windowing import Windowing
from schemas.errors import ServingError, ServingRefused, ServingUnavailable
from schemas.prediction import Prediction
from streaming.beside import Beside
from streaming.model_client import Answer, Arrays, Waiting
from streaming.predictor import Predictor
from streaming.shares import in_share
from tests.specs import tiny_spec
from tests.streaming.test_predictor import runs

SPEC = tiny_spec(
    grid={"step": "10ms", "regular": True},
    serving={"max_batch": 4, "label": "stable", "shadow": {"share": 1.0}, "canary": {"share": 0.5}},
)
LOADS = [[float(key + step) for step in range(8)] for key in range(6)]


@dataclass
class FakeServer:
    """Versions that answer with their number; `misbehave` may raise, or wait, in their place."""

    available: list[int]
    canary: int | None = None
    misbehave: dict[int, Callable[[], None]] = field(default_factory=dict)
    model: str = "fake"
    version: int = 3
    asked: list[int] = field(default_factory=list)

    def ask(self, inputs: Arrays) -> Waiting:
        return self.ask_version(self.version, inputs)

    def ask_version(self, version: int, inputs: Arrays) -> Waiting:
        def wait() -> Answer:
            self.asked.append(version)
            self.misbehave.get(version, lambda: None)()
            shape = (len(inputs["past_values"]), SPEC.window.horizon, 1)
            return Answer({"mean": np.full(shape, version, np.float32)}, version, 1.0)

        return wait

    def versions_of_ours(self) -> list[int]:
        return self.available

    def version_of_label(self, label: str) -> int:
        if self.canary is None:
            raise ServingRefused(f"Unrecognized servable version label: {label}")
        return self.canary


@contextmanager
def asked_beside(server: FakeServer, missed: list[int]) -> Iterator[Predictor]:
    client: Any = server
    with Beside(SPEC.serving, client, report=lambda _: None, on_missed=missed.append) as beside:
        yield Predictor(SPEC, Windowing(SPEC), client, beside=beside)


def versions(predictions: list[Prediction]) -> dict[str, set[int]]:
    """By role, who said it; the model's numbers are its version."""
    assert all((p.mean == p.model.version).all() for p in predictions)
    roles: dict[str, set[int]] = {}
    for p in predictions:
        roles.setdefault(p.role, set()).add(p.model.version)
    return roles


def places(predictions: list[Prediction], *roles: str) -> list[tuple[str, int]]:
    return sorted((p.key, p.origin_ms) for p in predictions if p.role in roles)


def test_everyone_is_asked_at_once() -> None:
    missed: list[int] = []
    with asked_beside(FakeServer([1, 2, 3, 5], canary=5), missed) as predictor:
        found = predictor.predict(runs(LOADS))
    assert versions(found) == {"champion": {3}, "canary": {5}, "shadow": {2, 3}}
    assert places(found, "champion", "canary") == places(found, "shadow")
    canary_keys = {p.key for p in found if p.role == "canary"}
    assert canary_keys == {key for key in map("k{}".format, range(6)) if in_share([key], 0.5, b"canary")[0]}
    assert not canary_keys & {p.key for p in found if p.role == "champion"}
    assert missed == []


def test_nothing_older_and_no_label_is_the_champion_alone() -> None:
    with asked_beside(FakeServer([3]), []) as predictor:
        assert versions(predictor.predict(runs(LOADS))) == {"champion": {3}}
    with asked_beside(FakeServer([2, 3, 4]), []) as predictor:
        assert versions(predictor.predict(runs(LOADS))) == {"champion": {3}, "shadow": {2}}


def test_a_provisional_prediction_has_no_shadow() -> None:
    with asked_beside(FakeServer([2, 3]), []) as predictor:
        assert versions(predictor.predict(runs(LOADS), provisional=True)) == {"provisional": {3}}


def fail() -> None:
    raise ServingUnavailable("gone")


def refuse() -> None:
    raise ServingRefused("no")


@pytest.mark.parametrize("wrong", [fail, refuse])
def test_what_the_canary_does_not_answer_the_champion_does(wrong: Callable[[], None]) -> None:
    missed: list[int] = []
    server = FakeServer([3, 5], canary=5, misbehave={5: wrong})
    with asked_beside(server, missed) as predictor:
        found = predictor.predict(runs(LOADS))
        assert versions(found) == {"champion": {3}}  # and 3 is no shadow of its own answers
        before = len(server.asked)
        again = predictor.predict(runs(LOADS))
        assert 5 not in server.asked[before:]  # until the versions have been looked up again
    assert places(again, "champion") == places(found, "champion")
    assert len(found) == 6 * 8


@pytest.mark.parametrize("wrong", [fail, refuse])
def test_a_shadow_that_fails_is_left_out(wrong: Callable[[], None]) -> None:
    missed: list[int] = []
    with asked_beside(FakeServer([2, 3], misbehave={2: wrong}), missed) as predictor:
        found = predictor.predict(runs(LOADS))
    assert versions(found) == {"champion": {3}}
    assert sum(missed) == len(found)


def test_a_shadow_that_hangs_holds_one_batch_up_for_a_moment() -> None:
    missed: list[int] = []
    go_on = Event()
    server = FakeServer([2, 3], misbehave={2: lambda: go_on.wait(30) and None})
    with asked_beside(server, missed) as predictor:
        began = time.monotonic()
        found = [predictor.predict(runs(LOADS)) for _ in range(3)]
        took_s = time.monotonic() - began
        go_on.set()
    assert [versions(predictions) for predictions in found] == [{"champion": {3}}] * 3
    assert took_s < 2
    assert missed == [len(found[0])]


def test_what_the_champion_does_wrong_is_wrong() -> None:
    with asked_beside(FakeServer([2, 3], misbehave={3: refuse}), []) as predictor, pytest.raises(ServingError):
        predictor.predict(runs(LOADS))


@given(st.lists(st.text(min_size=1, max_size=5), min_size=1, max_size=30), st.floats(0, 1), st.floats(0, 1))
@settings(max_examples=20, deadline=None)
def test_a_greater_share_holds_all_of_a_smaller_one(names: list[str], one: float, other: float) -> None:
    small, large = (in_share(names, share, b"test") for share in sorted((one, other)))
    assert not (small & ~large).any()
    assert not in_share(names, 0.0, b"test").any()
    assert in_share(names, 1.0, b"test").all()


def test_a_share_is_about_as_large_as_it_says() -> None:
    names = [f"sensor-{number}" for number in range(4_000)]
    chosen, others = in_share(names, 0.25, b"canary"), in_share(names, 0.25, b"shadow")
    assert chosen.mean() == pytest.approx(0.25, abs=0.03)
    assert (chosen & others).mean() == pytest.approx(0.0625, abs=0.02)  # independent of each other
