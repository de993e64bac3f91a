"""Windows by way of summaries, against whole windows: the same answers, fewer chunks, whatever the server does."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from pipelines.kernels.grid import Events
from pipelines.kernels.long_context import ChunkLayout, Chunks, Summaries
from pipelines.kernels.windowing import KeyState, Windowing, Windows
from schemas.errors import ServingRefused
from streaming.model_client import Answer, Arrays, Waiting
from streaming.predictor import Predictor, RefusedWindow
from streaming.summaries import SummaryStore
from tests.specs import tiny_spec

PAST, CHUNK, RECENT = 12, 4, 3
SPEC = tiny_spec(
    grid={"step": "10ms", "regular": True},
    window={"past": PAST, "horizon": 2},
    model={
        "family": "hierarchical",
        "cacheable": True,
        "scaling": "per_key",
        "patch": 2,
        "chunk": 2,
        "recent": RECENT,
        "units": 2,
        "heads": 1,
    },
    serving={"max_batch": 7, "max_in_flight": 2},
)
WINDOWING = Windowing(SPEC)
LAYOUT = ChunkLayout(PAST, CHUNK)


def encode(values: Any, keys: Any, version: int) -> tuple[Any, Any]:
    """What stands in for the encoder: it tells chunks, keys and versions apart."""
    weight = np.arange(1, CHUNK + 1)[:, None] * np.arange(1, values.shape[2] + 1)
    name = np.array([sum(key) for key in keys])
    total = (np.nan_to_num(values) * weight).sum(axis=(1, 2))
    return np.stack((total + version, name + total), axis=-1).astype(np.float32), np.isfinite(values).any(axis=(1, 2))


def predict(summaries: Any, present: Any, recent: Any, future: Any) -> Any:
    slot = np.arange(1, LAYOUT.slots + 1)[:, None]
    state = (summaries * slot * present[..., None]).sum(axis=(1, 2)) + recent[:, -RECENT:].sum(axis=(1, 2))
    return np.repeat((state + future.sum(axis=(1, 2)))[:, None, None], 2, axis=1).astype(np.float32)


@dataclass
class FakeServer:
    """The signatures of a cacheable model of one version or another."""

    version: int = 1
    model: str = "fake"
    encoded: int = 0
    whole: int = 0
    signatures: bool = True
    before: Callable[[str], None] = lambda _: None
    most: list[int] = field(default_factory=list)

    def ask(self, inputs: Arrays) -> Waiting:
        return self.ask_signature("", inputs)

    def ask_signature(self, signature: str, inputs: Arrays) -> Waiting:
        self.before(signature)
        answered_by = self.version

        def wait() -> Answer:
            if signature and not self.signatures:
                raise ServingRefused(f"Serving signature key {signature} not found")
            return Answer(self._outputs(signature, inputs, answered_by), answered_by, 1.0)

        return wait

    def _outputs(self, signature: str, inputs: Arrays, version: int) -> Arrays:
        self.most.append(max(len(part) for part in inputs.values()))
        if signature == "encode_chunk":
            self.encoded += len(inputs["chunk_values"])
            if (np.nan_to_num(inputs["chunk_values"]) > 1e6).any():
                raise ServingRefused("a value that I do not take")
            summary, present = encode(inputs["chunk_values"], inputs["key"], version)
            return {"summary": summary, "present": present}
        recent = np.nan_to_num(inputs["past_values"])
        if signature == "predict_from_summaries":
            assert recent.shape[1] == RECENT
            mean = predict(inputs["summaries"], inputs["present"], recent, inputs["future_values"])
            return {"mean": mean}
        self.whole += len(recent)
        if (recent > 1e6).any():
            raise ServingRefused("a value that I do not take")
        origin = inputs["first_step"] + PAST
        every = Chunks(np.repeat(np.arange(len(origin)), LAYOUT.slots), LAYOUT.numbers(origin).ravel())
        cut, _ = LAYOUT.cut(every, origin, inputs["past_values"], inputs["past_observed"])
        summary, present = encode(cut, inputs["key"][every.window], version)
        shape = len(origin), LAYOUT.slots
        summaries = summary.reshape(*shape, -1)
        return {"mean": predict(summaries, present.reshape(shape), recent, inputs["future_values"])}


class Stream:
    """Keys whose windows grow by some steps at a time."""

    def __init__(self, seed: int) -> None:
        self._rng = np.random.default_rng(seed)
        self._states: dict[str, tuple[KeyState, int]] = {}

    def grow(self, key: str, steps: int, value: float | None = None) -> list[tuple[str, Windows]]:
        """The windows of the next steps, of which some may be missing."""
        state, at = self._states.get(key, (WINDOWING.empty(), 1_000))
        step = at + np.arange(steps)
        if value is None and steps > 3:
            step = np.delete(step, 2)
        values = self._rng.normal(size=(len(step), 2)).round(2)
        if value is not None:
            values[:, 0] = value
        state, runs, _ = WINDOWING.push(state, Events(step * 10, step, values))
        self._states[key] = state, at + steps
        return [(key, run) for run in runs if len(run)]


def told(predictions: Any) -> list[tuple[str, int, int, float]]:
    return [(p.key, p.origin_ms, p.model.version, float(p.mean[0, 0])) for p in predictions]


def same(found: Any, expected: Any) -> None:
    assert [row[:3] for row in told(found)] == [row[:3] for row in told(expected)]
    np.testing.assert_allclose([row[3] for row in told(found)], [row[3] for row in told(expected)], rtol=1e-4)


class _Whole:
    """A client without signatures, so that it is asked for whole windows."""

    def __init__(self, server: FakeServer) -> None:
        self.model, self._server = server.model, server

    def ask(self, inputs: Arrays) -> Waiting:
        return self._server.ask(inputs)


def by_whole(version: int, runs: list[tuple[str, Windows]]) -> Any:
    return Predictor(SPEC, WINDOWING, _Whole(FakeServer(version))).predict(runs)


@given(
    batches=st.lists(
        st.lists(st.tuples(st.sampled_from("abc"), st.integers(1, 20)), min_size=1, max_size=4), min_size=1, max_size=5
    ),
    swaps=st.sets(st.integers(0, 25), max_size=3),
    seed=st.integers(0, 99),
)
@settings(max_examples=40, deadline=None)
def test_the_answers_are_those_to_whole_windows(
    batches: list[list[tuple[str, int]]], swaps: set[int], seed: int
) -> None:
    """Also where another version takes over between two requests: what it says is of its own summaries."""
    server, stream, asked = FakeServer(), Stream(seed), 0

    def swap(_: str) -> None:
        nonlocal asked
        server.version += asked in swaps
        asked += 1

    server.before = swap
    predictor = Predictor(SPEC, WINDOWING, server)
    for batch in batches:
        runs = [run for key, steps in dict(batch).items() for run in stream.grow(key, steps)]
        found = predictor.predict(runs)
        by = {p.model.version for p in found}
        whole = {version: by_whole(version, runs) for version in by}
        expected = [whole[p.model.version][place] for place, p in enumerate(found)]
        same(found, expected)
    assert max(server.most, default=0) <= 7


def test_only_new_chunks_are_encoded() -> None:
    server, stream = FakeServer(), Stream(0)
    predictor = Predictor(SPEC, WINDOWING, server)
    predictor.predict(stream.grow("a", 20) + stream.grow("b", 20))
    for _ in range(8):
        before = server.encoded
        runs = stream.grow("a", 1)
        same(predictor.predict(runs), by_whole(1, runs))
        assert server.encoded - before <= 2
    assert server.whole == 0
    before, server.version = server.encoded, 2  # another version knows nothing yet
    runs = stream.grow("b", 1)
    same(predictor.predict(runs), by_whole(2, runs))
    assert server.encoded - before >= 4


def test_a_version_without_the_signatures_is_asked_for_whole_windows() -> None:
    server, stream = FakeServer(signatures=False), Stream(1)
    runs = stream.grow("a", 20)
    same(Predictor(SPEC, WINDOWING, server).predict(runs), by_whole(1, runs))
    assert server.whole == sum(len(run) for _, run in runs)


def test_a_window_that_is_refused_is_found_among_the_whole_ones() -> None:
    server, stream = FakeServer(), Stream(2)
    runs = stream.grow("a", 20) + stream.grow("b", 1) + stream.grow("b", 1, value=1e9)
    refused: list[RefusedWindow] = []
    found = Predictor(SPEC, WINDOWING, server).predict(runs, refused.append)
    assert {row.key for row in refused} == {"b"}
    assert {p.key for p in found} >= {"a"}
    assert len(found) + len(refused) == sum(len(run) for _, run in runs)
    assert all(row.inputs["past_values"].shape == (1, PAST, 3) for row in refused)


def test_a_provisional_prediction_keeps_nothing() -> None:
    """Its last steps may change yet."""
    server, stream = FakeServer(), Stream(3)
    predictor = Predictor(SPEC, WINDOWING, server)
    runs = stream.grow("a", 20)
    predictor.predict(runs, provisional=True)
    assert (server.encoded, server.whole) == (0, sum(len(run) for _, run in runs))


def test_the_store_forgets_what_was_not_needed_for_longest() -> None:
    def summaries(chunks: int) -> Summaries:
        return Summaries(np.arange(chunks), np.ones((chunks, 2), np.float32), np.ones(chunks, bool))

    store = SummaryStore(most_bytes=3 * summaries(4).nbytes)
    for key in "abc":
        store.put(1, key, summaries(4))
    store.put(1, "a", summaries(3))
    store.put(2, "a", summaries(4))
    assert len(store) == 3
    assert [len(store.get(1, key)) for key in "abc"] == [3, 0, 4]
    assert len(store.get(2, "a")) == 4
    assert len(store.get(None, "a")) == 0
    store.put(1, "d", summaries(50))  # more than all
    assert len(store) == 0
