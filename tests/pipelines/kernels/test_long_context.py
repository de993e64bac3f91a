"""Which chunks hold from one window to the next, against naive sets of steps."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from pipelines.kernels.long_context import Bool, ChunkLayout, Float32, Int64, SummaryCache

pasts = st.integers(1, 30)
chunks = st.integers(1, 12)
origins = st.integers(-50, 50)

WIDTH = 2


def steps_of(number: int, chunk: int) -> set[int]:
    return {step for step in range(-200, 200) if step // chunk == number}


@given(past=pasts, chunk=chunks, origin=origins)
def test_the_slots_hold_the_window_and_end_with_its_last_step(past: int, chunk: int, origin: int) -> None:
    layout = ChunkLayout(past, chunk)
    numbers = layout.numbers(origin).tolist()
    window = set(range(origin - past, origin))
    assert len(numbers) == layout.slots
    assert window <= set().union(*(steps_of(number, chunk) for number in numbers))
    assert origin - 1 in steps_of(numbers[-1], chunk)
    assert layout.whole(origin).tolist() == [steps_of(number, chunk) <= window for number in numbers]


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


@given(past=pasts, chunk=chunks, origin=origins)
def test_cut_lays_each_step_of_the_window_into_its_place(past: int, chunk: int, origin: int) -> None:
    layout = ChunkLayout(past, chunk)
    numbers = layout.numbers(origin)
    values, observed = layout.cut(numbers, origin, *series(np.arange(origin - past, origin)))
    assert values.dtype == np.float32
    for slot, number in enumerate(numbers.tolist()):
        for place, step in enumerate(sorted(steps_of(number, chunk))):
            if origin - past <= step < origin:
                expected, seen = series(np.array([step]))
                np.testing.assert_array_equal(values[slot, place], expected[0])
                np.testing.assert_array_equal(observed[slot, place], seen[0])
            else:
                assert np.isnan(values[slot, place]).all()
                assert not observed[slot, place].any()


def encode(values: Float32, observed: Bool) -> tuple[Float32, Bool]:
    """Stands in for the model: tells apart chunks of different content, and says whether there is any."""
    weight = np.arange(1, values.shape[1] + 1, dtype=np.float32)
    seen = np.nansum(np.nan_to_num(values[..., 0]) * weight, axis=1)
    there: Bool = np.logical_or.reduce(np.isfinite(values), axis=(1, 2))
    return np.stack((seen, observed.sum(axis=(1, 2))), axis=-1).astype(np.float32), there


@given(past=pasts, chunk=chunks, origin=origins, strides=st.lists(st.integers(1, 40), max_size=8))
def test_the_joined_summaries_are_those_of_the_whole_window(
    past: int, chunk: int, origin: int, strides: list[int]
) -> None:
    layout = ChunkLayout(past, chunk)
    cache = SummaryCache(layout)
    for stride in (0, *strides):
        origin += stride
        window = series(np.arange(origin - past, origin))
        missing = cache.missing(origin)
        joined, present = cache.join(origin, missing, *encode(*layout.cut(missing, origin, *window)))
        expected, there = encode(*layout.cut(layout.numbers(origin), origin, *window))
        np.testing.assert_array_equal(joined, expected)
        np.testing.assert_array_equal(present, there)
        assert len(cache) <= layout.slots


def test_an_event_costs_the_ragged_chunks_not_the_window() -> None:
    layout = ChunkLayout(past=65_536, chunk=512)
    cache = SummaryCache(layout)
    encoded = []
    for origin in range(1_000_000, 1_001_024):
        missing = cache.missing(origin)
        encoded.append(len(missing))
        cache.join(origin, missing, np.zeros((len(missing), WIDTH), np.float32), np.ones(len(missing), bool))
    assert encoded[0] == 129  # 127 whole ones and two ragged
    assert max(encoded[1:]) == 2
    assert len(cache) == 127


def test_summaries_are_void_once_the_key_starts_anew() -> None:
    layout = ChunkLayout(past=8, chunk=4)
    cache = SummaryCache(layout)
    cache.join(8, cache.missing(8), np.ones((2, WIDTH), np.float32), np.ones(2, bool))
    assert cache.missing(8).tolist() == []
    cache.clear()
    assert cache.missing(8).tolist() == [0, 1]


def test_a_chunk_that_nobody_encoded_is_an_error() -> None:
    cache = SummaryCache(ChunkLayout(past=8, chunk=4))
    with pytest.raises(KeyError):
        cache.join(8, np.array([1]), np.ones((1, WIDTH), np.float32), np.ones(1, bool))
