"""Which chunks hold from one window to the next, against naive sets of steps."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from pipelines.kernels.grid import Events
from pipelines.kernels.long_context import Bool, ChunkLayout, Chunks, Float32, Int64, Summaries
from pipelines.kernels.windowing import Windowing
from tests.specs import tiny_spec

pasts = st.integers(1, 30)
chunks = st.integers(1, 12)
origins = st.integers(-50, 50)

WIDTH = 2


def steps_of(number: int, chunk: int) -> set[int]:
    return {step for step in range(-200, 300) if step // chunk == number}


@given(past=pasts, chunk=chunks, origin=origins)
def test_the_slots_hold_the_window_and_end_with_its_last_step(past: int, chunk: int, origin: int) -> None:
    layout = ChunkLayout(past, chunk)
    at = np.array([origin])
    numbers = layout.numbers(at)[0].tolist()
    window = set(range(origin - past, origin))
    assert len(numbers) == layout.slots
    assert window <= set().union(*(steps_of(number, chunk) for number in numbers))
    assert origin - 1 in steps_of(numbers[-1], chunk)
    assert layout.whole(at)[0].tolist() == [steps_of(number, chunk) <= window for number in numbers]
    assert layout.touched(at)[0].tolist() == [bool(steps_of(number, chunk) & window) for number in numbers]


@given(past=pasts, chunk=chunks)
def test_no_slot_is_superfluous(past: int, chunk: int) -> None:
    layout = ChunkLayout(past, chunk)
    touched = [len({step // chunk for step in range(origin - past, origin)}) for origin in range(chunk)]
    assert max(touched) == layout.slots


def series(step: Int64) -> tuple[Float32, Bool]:
    """Values and observed flags of two features at absolute steps, the same whichever window asks."""
    values = np.stack((step, step % 7), axis=-1).astype(np.float32)
    values[step % 5 == 0, 1] = np.nan
    return values, np.stack((step % 3 > 0, step % 5 > 0), axis=-1)


def windows(origin: Int64, past: int) -> tuple[Float32, Bool]:
    """The windows of the series at these origins."""
    return series(origin[:, None] - past + np.arange(past))


@given(past=pasts, chunk=chunks, origin=st.lists(origins, min_size=1, max_size=3))
def test_cut_lays_each_step_of_the_window_into_its_place(past: int, chunk: int, origin: list[int]) -> None:
    layout, at = ChunkLayout(past, chunk), np.array(origin)
    numbers = layout.numbers(at)
    which = Chunks(np.repeat(np.arange(len(at)), layout.slots), numbers.ravel())
    values, observed = layout.cut(which, at, *windows(at, past))
    assert values.dtype == np.float32
    for row, (window, number) in enumerate(zip(which.window.tolist(), which.number.tolist(), strict=True)):
        for place, step in enumerate(sorted(steps_of(number, chunk))):
            if origin[window] - past <= step < origin[window]:
                expected, seen = series(np.array([step]))
                np.testing.assert_array_equal(values[row, place], expected[0])
                np.testing.assert_array_equal(observed[row, place], seen[0])
            else:
                assert np.isnan(values[row, place]).all()
                assert not observed[row, place].any()


def encode(values: Float32, observed: Bool) -> tuple[Float32, Bool]:
    """Stands in for the model: tells apart chunks of different content, and says whether there is any."""
    weight = np.arange(1, values.shape[1] + 1, dtype=np.float32)
    seen = np.nansum(np.nan_to_num(values[..., 0]) * weight, axis=1)
    there: Bool = np.logical_or.reduce(np.isfinite(values), axis=(1, 2))
    return np.stack((seen, observed.sum(axis=(1, 2))), axis=-1).astype(np.float32), there


@given(
    past=pasts,
    chunk=chunks,
    origin=origins,
    batches=st.lists(st.lists(st.integers(0, 40), min_size=1, max_size=5), max_size=4),
)
def test_the_joined_summaries_are_those_of_the_whole_windows(
    past: int, chunk: int, origin: int, batches: list[list[int]]
) -> None:
    """Of one window after the other, and of several at once."""
    layout, kept = ChunkLayout(past, chunk), Summaries.none()
    for strides in ([0], *batches):
        at = origin + np.cumsum(strides)
        origin = int(at[-1])
        missing = kept.missing(layout, at)
        values, observed = windows(at, past)
        encoded = encode(*layout.cut(missing, at, values, observed))
        joined, present, kept = kept.join(layout, at, missing, *encoded)
        every = Chunks(np.repeat(np.arange(len(at)), layout.slots), layout.numbers(at).ravel())
        expected, there = encode(*layout.cut(every, at, values, observed))
        np.testing.assert_array_equal(joined.reshape(expected.shape), expected)
        np.testing.assert_array_equal(present.ravel(), there)
        assert len(kept) <= layout.slots


def test_an_event_costs_the_ragged_chunks_not_the_window() -> None:
    layout, kept = ChunkLayout(past=65_536, chunk=512), Summaries.none()
    encoded = []
    for origin in range(1_000_000, 1_001_024):
        at = np.array([origin])
        missing = kept.missing(layout, at)
        encoded.append(len(missing))
        *_, kept = kept.join(
            layout, at, missing, np.zeros((len(missing), WIDTH), np.float32), np.ones(len(missing), bool)
        )
    assert encoded[0] == 129  # 127 whole ones and two ragged
    assert max(encoded[1:]) == 2
    assert len(kept) == 127
    assert kept.nbytes < 127 * (WIDTH * 4 + 16)


def test_a_chunk_that_several_windows_have_is_encoded_once() -> None:
    layout = ChunkLayout(past=8, chunk=4)
    missing = Summaries.none().missing(layout, np.array([8, 9, 10]))
    found = list(zip(missing.window.tolist(), missing.number.tolist(), strict=True))
    assert found == [(0, 0), (0, 1), (1, 0), (1, 2), (2, 0), (2, 2)]  # 1 is whole in all of them


def test_a_chunk_that_nobody_encoded_is_an_error() -> None:
    layout, at = ChunkLayout(past=8, chunk=4), np.array([8])
    only_one = Chunks(np.array([0]), np.array([1]))
    with pytest.raises(KeyError):
        Summaries.none().join(layout, at, only_one, np.ones((1, WIDTH), np.float32), np.ones(1, bool))


@given(
    gaps=st.lists(st.integers(-3, 25), max_size=60),
    chunk=st.integers(1, 5),
    lateness=st.sampled_from(["0ms", "30ms"]),
    cut=st.integers(1, 7),
)
def test_a_chunk_that_two_windows_of_a_key_have_whole_is_the_same_in_both(
    gaps: list[int], chunk: int, lateness: str, cut: int
) -> None:
    """Also with disorder, gaps, and silences after which the key starts anew; this is what summaries are kept by."""
    spec = tiny_spec(grid={"step": "10ms", "lateness": lateness, "max_gap": 1}, window={"past": 8, "horizon": 1})
    windowing, layout = Windowing(spec), ChunkLayout(8, chunk)
    times = np.cumsum([1_000, *gaps]) * 5
    state, seen = windowing.empty(), dict[int, bytes]()
    for start in range(0, len(times), cut):
        part = times[start : start + cut]
        values = np.stack((part % 97, part % 89), axis=-1).astype(np.float64)
        state, runs, _ = windowing.push(state, Events(part, start + np.arange(len(part)), values))
        for run in runs:
            origin = run.origin_step
            window, slot = np.nonzero(layout.whole(origin))
            which = Chunks(window, layout.numbers(origin)[window, slot])
            found = layout.cut(which, origin, run.past_values(), run.past_observed())
            for number, *content in zip(which.number.tolist(), *found, strict=True):
                content_bytes = b"".join(part.tobytes() for part in content)
                assert seen.setdefault(number, content_bytes) == content_bytes
