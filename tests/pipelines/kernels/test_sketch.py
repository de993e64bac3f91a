"""The sketch: its stated error, and merging that does not depend on how or in what order."""

from __future__ import annotations

import math
import random

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from pipelines.kernels.drift import drift, jensen_shannon
from pipelines.kernels.sketch import ALL_BITS, LEADING_BITS, Sketch

FLOATS = st.one_of(
    st.floats(-(2.0**100), 2.0**100, width=32, allow_subnormal=False),
    st.sampled_from([0.0, -0.0, 1.0, 1.5, 3.0, -7.25, 20.0, 21.0, 22.0]),
)
SAMPLES = st.lists(FLOATS, min_size=1, max_size=200).map(lambda values: np.array(values, np.float32))


def parts(sketch: Sketch) -> tuple[int, list[int], list[int]]:
    return sketch.bits, sketch.bucket.tolist(), sketch.count.tolist()


@given(SAMPLES, st.lists(st.floats(0, 1), min_size=1, max_size=9))
def test_a_quantile_is_within_a_128th_of_the_true_one(values: np.ndarray, levels: list[float]) -> None:
    found = Sketch.of(values).quantiles(np.array(levels))
    for level, quantile in zip(levels, found, strict=True):
        true = float(sorted(values)[max(math.ceil(level * len(values)), 1) - 1])
        assert abs(quantile - true) <= abs(true) / 128


@given(st.lists(st.integers(0, 300), min_size=1), st.floats(0, 1))
def test_all_bits_tell_every_value(values: list[int], level: float) -> None:
    [quantile] = Sketch.of(np.array(values, np.float32), ALL_BITS).quantiles(np.array([level]))
    assert quantile == sorted(values)[max(math.ceil(level * len(values)), 1) - 1]


@given(st.lists(SAMPLES, min_size=1, max_size=6), st.randoms(), st.sampled_from([LEADING_BITS, ALL_BITS]))
def test_merging_gives_the_sketch_of_the_whole_in_any_order(
    samples: list[np.ndarray], order: random.Random, bits: int
) -> None:
    whole = Sketch.of(np.concatenate(samples), bits)
    sketches = [Sketch.of(sample, bits) for sample in samples]
    order.shuffle(sketches)
    assert parts(Sketch.merged(sketches)) == parts(whole)
    nested = Sketch.merged([sketches[0], Sketch.merged(sketches[1:])]) if sketches[1:] else sketches[0]
    assert parts(nested) == parts(whole)
    assert whole.size == sum(map(len, samples))


def test_many_values_in_few_buckets_are_counted_alike() -> None:
    values = np.random.default_rng(0).normal(20, 3, 100_000).astype(np.float32)
    pieces = Sketch.merged([Sketch.of(piece) for piece in np.split(values, 10_000)])  # sorted, where the whole is not
    assert parts(Sketch.of(values)) == parts(pieces)


def test_an_empty_sketch_has_no_quantiles() -> None:
    assert np.isnan(Sketch.of(np.empty(0, np.float32)).quantiles(np.array([0.5]))).all()


def test_sketches_of_other_bits_do_not_merge() -> None:
    values = np.ones(1, np.float32)
    with pytest.raises(ValueError, match="same bits"):
        Sketch.merged([Sketch.of(values), Sketch.of(values, ALL_BITS)])


# --- drift ---


def test_jensen_shannon_by_hand() -> None:
    assert jensen_shannon(np.array([1, 1]), np.array([30, 30])) == 0
    assert jensen_shannon(np.array([5, 0]), np.array([0, 7])) == 1
    half = (1 * math.log2(1 / 0.75) + 0.5 * math.log2(0.5 / 0.75) + 0.5 * math.log2(0.5 / 0.25)) / 2
    assert jensen_shannon(np.array([4, 0]), np.array([3, 3])) == pytest.approx(half, rel=1e-12)


@given(SAMPLES, SAMPLES)
def test_drift_is_between_nothing_and_all(left: np.ndarray, right: np.ndarray) -> None:
    assert 0 <= drift(Sketch.of(left), Sketch.of(right)) <= 1
    assert drift(Sketch.of(left), Sketch.of(left)) == 0


def test_drift_grows_with_the_shift_and_not_with_the_sample() -> None:
    draw = np.random.default_rng(1)
    base = Sketch.of(draw.normal(20, 3, 20_000).astype(np.float32))
    same, little, much = (Sketch.of((draw.normal(20, 3, 20_000) + by).astype(np.float32)) for by in (0, 1, 30))
    assert drift(base, same) < 0.002 < 0.01 < drift(base, little) < 0.05 < 0.7 < drift(base, much)


def test_each_category_is_a_bin_of_its_own() -> None:
    def kinds(*counts: int) -> Sketch:
        return Sketch.of(np.repeat(np.arange(len(counts)), counts).astype(np.float32), ALL_BITS)

    assert drift(kinds(50, 50, 0), kinds(5, 5, 0)) == 0
    assert drift(kinds(50, 50, 0), kinds(0, 0, 9)) == 1
    assert drift(kinds(50, 50), kinds(40, 50, 10)) == jensen_shannon(np.array([50, 50, 0]), np.array([40, 50, 10]))


def test_nothing_cannot_drift() -> None:
    with pytest.raises(ValueError, match="with values"):
        drift(Sketch.of(np.ones(1, np.float32)), Sketch.of(np.empty(0, np.float32)))
