"""Splits: which windows are whose, against a naive reading of the rules, and the published counts."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pipelines.ingest import ingest
from pipelines.kernels.grid import Events
from pipelines.kernels.windowing import Windowing, Windows
from pipelines.splits import Splitter, split_of_key
from schemas.errors import SpecError
from schemas.spec import Spec, load_spec
from schemas.split_spec import SPLITS, KeySplit, RollingSplit
from schemas.units import iso_to_ms, ms_to_iso
from tests.specs import tiny_spec

STEP, PAST, HORIZON = 10, 3, 2
ETT = Path("deploy/specs/etth1.yaml")
ETT_DATA = Path("../shared/data/ett/ETTh1.csv")
ETT_TEST_WINDOWS = {96: 2785, 192: 2689, 336: 2545, 720: 2161}


def split_spec(**split: Any) -> Spec:
    return tiny_spec(stream={"features": [{"name": "load", "role": "target"}]}, grid={"regular": True}, split=split)


def windows_of(spec: Spec, steps: Any) -> list[Windows]:
    time_ms = np.asarray(list(steps), np.int64) * spec.grid.step
    width = len(spec.stream.features)
    events = Events(time_ms, np.arange(len(time_ms)), np.ones((len(time_ms), width)))
    windowing = Windowing(spec)
    return windowing.push(windowing.empty(), events)[1]


def origins(spec: Spec, steps: Any, key: str = "k") -> dict[str, list[int]]:
    """The origin steps of each split."""
    splitter, runs = Splitter(spec, all_origins=False), windows_of(spec, steps)
    intervals = splitter.intervals(key, runs)
    found: dict[str, list[int]] = {name: [] for name in SPLITS}
    for run in runs:
        for name, end in splitter.split(run, intervals):
            found[name] += (run.steps.first + end).tolist()
    return found


def dates(*bounds: int) -> list[str]:
    return [ms_to_iso(bound * STEP) for bound in bounds]


def test_a_window_belongs_to_the_split_of_its_whole_horizon() -> None:
    spec = split_spec(by="dates", train=dates(0, 20), validation=dates(20, 30), test=dates(30, 40))
    # The horizon has two steps: origins 19 and 29 cross a boundary, and the past of 20 lies in train.
    assert origins(spec, range(50)) == {
        "train": list(range(1, 19)),
        "validation": list(range(20, 29)),
        "test": list(range(30, 39)),
    }


@settings(max_examples=100, deadline=None)
@given(
    st.permutations(SPLITS), st.lists(st.integers(0, 45), min_size=6, max_size=6, unique=True),
    st.sampled_from([0, 5, 10, 33]), st.sampled_from([0, 10, 47]),
)  # fmt: skip
def test_purge_and_embargo_take_from_the_split_that_yields(
    order: list[str], bounds: list[int], purge: int, embargo: int
) -> None:
    bounds = sorted(bounds)
    place = {name: (bounds[2 * at], bounds[2 * at + 1]) for at, name in enumerate(order)}
    spec = split_spec(
        by="dates",
        purge=f"{purge}ms",
        embargo=f"{embargo}ms",
        **{name: dates(*interval) for name, interval in place.items()},
    )
    found = origins(spec, range(50))
    for rank, name in enumerate(SPLITS):
        expected = []
        for origin in range(1, 49):
            if not place[name][0] <= origin <= place[name][1] - HORIZON:
                continue
            first_ms, last_ms = origin * STEP, (origin + HORIZON) * STEP
            near = [
                place[other][0] * STEP - purge < last_ms and first_ms < place[other][1] * STEP + embargo
                for other in SPLITS[rank + 1 :]
            ]
            if not any(near):
                expected.append(origin)
        assert found[name] == expected


def test_a_fraction_is_of_each_keys_own_steps() -> None:
    spec = split_spec(by="fraction", train=0.5, test=0.2)
    for first, count in ((0, 40), (1000, 23)):
        validated, tested = first + int(count * 0.5), first + count - int(count * 0.2)
        assert origins(spec, range(first, first + count)) == {
            "train": list(range(first + 1, validated - 1)),
            "validation": list(range(validated, tested - 1)),
            "test": list(range(tested, first + count - 1)),
        }


def test_the_extent_of_a_key_spans_its_restarts() -> None:
    spec = split_spec(by="fraction", train=0.5, test=0.25)
    found = origins(spec, [*range(20), *range(60, 80)])
    assert max(found["train"]) == 18
    assert (min(found["test"]), found["validation"]) == (61, [])


def test_a_key_without_a_closed_step_is_in_no_split() -> None:
    assert Splitter(split_spec(by="fraction", train=0.5, test=0.2), all_origins=False).intervals("k", []) == {}


def test_named_keys_are_in_their_split_and_others_train() -> None:
    spec = split_spec(by="keys", validation=["v"], test=["t", "u"])
    for key, split in (("v", "validation"), ("t", "test"), ("u", "test"), ("k", "train")):
        assert origins(spec, range(20), key) == {name: [] for name in SPLITS} | {split: list(range(1, 19))}


def test_a_fraction_of_keys_is_drawn_by_their_hash_alone() -> None:
    rule = split_spec(by="keys", validation=0.2, test=["key-1", "key-2"]).split
    assert isinstance(rule, KeySplit)
    drawn = [split_of_key(rule, f"key-{number}") for number in range(2000)]
    assert drawn[1] == drawn[2] == "test"
    assert drawn.count("test") == 2
    assert 340 < drawn.count("validation") < 460
    # Golden: a change would move keys between the splits of datasets that are there.
    assert [number for number in range(20) if drawn[number] == "validation"] == GOLDEN_KEYS


GOLDEN_KEYS = [5, 8, 10, 14, 16]


@pytest.mark.parametrize("sliding", [False, True])
def test_rolling_origins_are_folds_and_a_dataset_holds_the_last(sliding: bool) -> None:
    spec = split_spec(
        by="rolling", start=dates(0)[0], first=dates(20)[0], every="50ms", count=3, validation="40ms", test="60ms",
        sliding=sliding, purge="10ms",
    )  # fmt: skip
    assert isinstance(spec.split, RollingSplit)
    trained_from = [0, 50, 100] if sliding else [0, 0, 0]
    assert [fold.train for fold in spec.split.folds] == list(zip(trained_from, [200, 250, 300], strict=True))
    assert [fold.validation for fold in spec.split.folds] == [(200, 240), (250, 290), (300, 340)]
    assert [fold.test for fold in spec.split.folds] == [(240, 300), (290, 350), (340, 400)]
    found = origins(spec, range(60))
    last = spec.model_copy(update={"split": spec.split.folds[-1]})
    assert found == origins(last, range(60))
    assert max(found["train"]) == 27  # its horizon ends a step before the purge


@pytest.mark.parametrize(
    ("split", "problem"),
    [
        ({"by": "week"}, r"\$\.split: .*'week'.*'dates', 'fraction', 'keys', 'rolling', 'ett'"),
        ({"by": "fraction", "train": 0.8, "test": 0.2}, r"\$\.split: train and test must leave something"),
        ({"by": "fraction", "train": 0.8}, r"\$\.split\.test: expected a value"),
        ({"by": "keys", "validation": 0.5, "test": 0.5}, r"\$\.split: validation and test must leave keys"),
        ({"by": "keys", "validation": ["a"], "test": ["b", "a"]}, r"\$\.split: .*both name 'a'"),
        ({"by": "rolling", "start": "2020-01-02", "first": "2020-01-01", "every": "1d", "count": 2,
          "validation": "1d", "test": "1d"}, r"\$\.split: start must be before first"),
        ({"by": "ett", "purge": "-1h"}, r"\$\.split\.purge: expected a duration"),
    ],
)  # fmt: skip
def test_a_wrong_split_is_named(split: dict[str, Any], problem: str) -> None:
    with pytest.raises(SpecError, match=problem):
        tiny_spec(split=split)


# --- the published ETT split ---


def ett_spec(horizon: int) -> Spec:
    spec = load_spec(ETT, {})
    return spec.model_copy(
        update={"window": spec.window.model_copy(update={"horizon": horizon, "min_observed_target": horizon})}
    )


@pytest.mark.parametrize("horizon", ETT_TEST_WINDOWS)
def test_the_ett_split_has_the_published_windows(horizon: int) -> None:
    spec = ett_spec(horizon)
    past = spec.window.past
    first = iso_to_ms("2016-07-01") // spec.grid.step
    found = origins(spec, range(first, first + 17_420))
    assert {name: len(steps) for name, steps in found.items()} == {
        "train": 8640 - past - horizon + 1,
        "validation": 2880 - horizon + 1,
        "test": ETT_TEST_WINDOWS[horizon],
    }
    assert found["test"][0] == first + 11_520  # the first horizon starts with the split: its past is validation's


@pytest.mark.parametrize("horizon", ETT_TEST_WINDOWS)
def test_ingest_of_the_ett_file_gives_the_published_windows(horizon: int, tmp_path: Path) -> None:
    if not ETT_DATA.is_file():
        pytest.skip(f"{ETT_DATA} is not here")
    manifest = ingest(ett_spec(horizon), inputs=[str(ETT_DATA)], output=str(tmp_path / "dataset"))
    assert manifest.splits["test"].windows == ETT_TEST_WINDOWS[horizon]
    assert manifest.splits["train"].windows == 8640 - ett_spec(horizon).window.past - horizon + 1
