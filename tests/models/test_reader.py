"""The reader delivers what the window kernel made: every window once, bit for bit."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tensorflow as tf

from models.reader import BLOCKS_AT_ONCE, windows
from pipelines.kernels.grid import Events
from pipelines.kernels.windowing import Windowing
from schemas.dataset import DatasetFolder
from schemas.errors import DatasetError
from schemas.spec import Spec
from schemas.split_spec import DateSplit
from tests.models.conftest import easy_series, easy_spec
from tests.models.datasets import Series, lay_dataset, seal

Window = dict[str, bytes]


def kernel_windows(spec: Spec, series: Series, split: str) -> dict[tuple[str, int], Window]:
    """What the reader must deliver for each key and origin, straight from the kernel's arrays."""
    assert isinstance(spec.split, DateSplit)
    start, end = spec.split.interval(split)
    roles = [feature.role for feature in spec.stream.features]
    targets = [index for index, role in enumerate(roles) if role == "target"]
    windowing, expected = Windowing(spec), {}
    for key, (time_ms, values) in series.items():
        events = Events(time_ms, np.arange(len(time_ms)), values)
        for run in windowing.push(windowing.empty(), events)[1]:
            past_values, past_observed = run.past_values(), run.past_observed()
            future = windowing.future_values(run.origin_step)
            for index in np.flatnonzero(windowing.labelled(run)):
                origin_ms = int(run.origin_step[index]) * spec.grid.step + spec.grid.offset
                if not start <= origin_ms <= end - spec.window.horizon * spec.grid.step:
                    continue
                rows = slice(int(run.end[index]), int(run.end[index]) + spec.window.horizon)
                expected[key, origin_ms] = {
                    "past_values": past_values[index].tobytes(),
                    "past_observed": past_observed[index].tobytes(),
                    "future_values": future[index].tobytes(),
                    "first_step": (run.origin_step[index] - spec.window.past).tobytes(),
                    "target_values": run.steps.values[rows][:, targets].tobytes(),
                    "target_observed": run.steps.observed[rows][:, targets].tobytes(),
                }
    return expected


def delivered(batches: Iterable[dict[str, Any]]) -> list[tuple[tuple[str, int], Window]]:
    return [
        (
            (batch["key"][index].decode(), int(batch["origin_ms"][index])),
            {name: value[index].tobytes() for name, value in batch.items() if name not in ("key", "origin_ms")},
        )
        for batch in batches
        for index in range(len(batch["key"]))
    ]


@pytest.fixture
def holed(tmp_path: Path) -> tuple[DatasetFolder, Series]:
    """Small blocks with and without masks, more of them than are cut at once, and an offset grid with a stride."""
    spec = easy_spec(window={"stride": 3, "min_observed": 20, "min_observed_target": 4}, grid={"offset": "20min"})
    series = easy_series()
    return lay_dataset(tmp_path / "dataset", spec, series, block_windows=7, shards=2), series


@pytest.mark.parametrize("seed", [None, 5])
@pytest.mark.parametrize("split", ["train", "test"])
def test_every_window_of_the_kernel_is_delivered_once_bit_for_bit(
    holed: tuple[DatasetFolder, Series], split: str, seed: int | None
) -> None:
    folder, series = holed
    expected = kernel_windows(folder.spec, series, split)
    got = delivered(windows(folder, split, batch_size=32, shuffle_seed=seed).as_numpy_iterator())
    assert len(got) == len(expected) == folder.split(split).windows
    assert dict(got) == expected


def test_the_fixture_covers_what_it_claims(holed: tuple[DatasetFolder, Series]) -> None:
    folder, _ = holed
    records = [
        tf.train.Example.FromString(record.numpy())
        for record in tf.data.TFRecordDataset([str(path) for path in folder.shard_paths("train")])
    ]
    assert len(records) > 2 * BLOCKS_AT_ONCE
    for name in ("observed", "origins"):
        assert any(name in record.features.feature for record in records)


def test_left_out_masks_mean_all_observed_and_every_candidate(tmp_path: Path) -> None:
    spec = easy_spec()
    hours = np.arange(24 * 51, dtype=np.int64)
    series = {"whole": (hours * 3_600_000, np.stack((hours, 2.0 * hours), axis=1))}
    folder = lay_dataset(tmp_path / "dataset", spec, series, block_windows=11)
    (batch,) = windows(folder, "test", batch_size=1000).as_numpy_iterator()
    assert batch["past_observed"].all()
    assert batch["target_observed"].all()
    assert dict(delivered([batch])) == kernel_windows(spec, series, "test")


def test_names_shapes_and_dtypes(easy_dataset: DatasetFolder) -> None:
    element = windows(easy_dataset, "train", batch_size=32).element_spec
    assert {name: (tuple(form.shape), form.dtype) for name, form in element.items()} == {
        "past_values": ((None, 26, 3), tf.float32),
        "past_observed": ((None, 26, 3), tf.bool),
        "future_values": ((None, 6, 1), tf.float32),
        "key": ((None,), tf.string),
        "target_values": ((None, 6, 1), tf.float32),
        "target_observed": ((None, 6, 1), tf.bool),
        "origin_ms": ((None,), tf.int64),
        "first_step": ((None,), tf.int64),
    }


def test_a_spec_without_known_future_has_no_such_input(tmp_path: Path) -> None:
    features = [{"name": "wind", "role": "past"}, {"name": "load", "role": "target"}]
    folder = lay_dataset(tmp_path / "dataset", easy_spec(stream={"features": features}), easy_series())
    assert "future_values" not in windows(folder, "train", batch_size=32).element_spec


@pytest.mark.parametrize("seed", [None, 5])
def test_only_the_last_batch_is_short(holed: tuple[DatasetFolder, Series], seed: int | None) -> None:
    folder, _ = holed
    count = folder.split("train").windows
    sizes = [
        len(batch["key"]) for batch in windows(folder, "train", batch_size=32, shuffle_seed=seed).as_numpy_iterator()
    ]
    assert sizes == [32] * (count // 32) + [count % 32]


def test_each_pass_has_its_order_and_a_seed_always_the_same(holed: tuple[DatasetFolder, Series]) -> None:
    folder, _ = holed

    def orders(seed: int) -> list[list[tuple[str, int]]]:
        shuffled = windows(folder, "train", batch_size=32, shuffle_seed=seed)
        return [[name for name, _ in delivered(shuffled.as_numpy_iterator())] for _ in range(2)]

    first, second = orders(1)
    assert first != second
    assert sorted(first) == sorted(second) != first
    assert orders(1) == [first, second]
    assert orders(2)[0] != first


def test_a_batch_mixes_keys_and_times(holed: tuple[DatasetFolder, Series]) -> None:
    folder, _ = holed
    batch = next(windows(folder, "train", batch_size=32, shuffle_seed=0).as_numpy_iterator())
    assert len(set(batch["key"])) == 2
    assert np.ptp(batch["origin_ms"]) > 10 * 24 * 3_600_000


def test_a_sample_is_drawn_from_all_of_the_split_anew_each_time(holed: tuple[DatasetFolder, Series]) -> None:
    folder, series = holed
    whole = kernel_windows(folder.spec, series, "train")

    def sample(seed: int, size: int) -> list[tuple[tuple[str, int], bytes]]:
        drawn = windows(folder, "train", batch_size=32, shuffle_seed=seed, sample=size)
        return delivered(drawn.as_numpy_iterator())

    first = sample(1, 100)
    assert len(first) == 96  # whole batches
    assert len(dict(first)) == 96
    assert dict(first).items() <= whole.items()
    assert sample(1, 100) == first
    assert len(dict(first).keys() & dict(sample(2, 100)).keys()) < 80
    origins = sorted(origin for _, origin in whole)
    early = sum(origin < origins[len(origins) // 2] for (_, origin), _ in first)
    assert 24 < early < 72
    assert len(sample(1, 5)) == 5
    assert dict(sample(1, 10**6)) == whole


def test_repeat_runs_across_the_end_of_a_pass(easy_dataset: DatasetFolder) -> None:
    count = easy_dataset.split("test").windows
    batches = windows(easy_dataset, "test", batch_size=100, repeat=True).take(2 * count // 100).as_numpy_iterator()
    got = [name for name, _ in delivered(batches)]
    assert len(got) == 2 * count // 100 * 100
    assert got[count:] == got[: len(got) - count]


def test_refuses_what_it_cannot_read(easy_dataset: DatasetFolder, tmp_path: Path) -> None:
    with pytest.raises(DatasetError, match="expected a split of"):
        windows(easy_dataset, "tset", batch_size=1)
    folder = lay_dataset(tmp_path / "dataset", easy_spec(), easy_series())
    other = seal(folder.path, folder.manifest.model_copy(update={"layout": "rows"}))
    with pytest.raises(DatasetError, match=r"expected a layout of .*, got 'rows'"):
        windows(other, "train", batch_size=1)
    folder.shard_paths("train")[0].unlink()
    with pytest.raises(DatasetError, match="expected a file of the split 'train'"):
        windows(folder, "train", batch_size=1)


def test_fewer_windows_than_the_manifest_says_do_not_pass_unnoticed(tmp_path: Path) -> None:
    folder = lay_dataset(tmp_path / "dataset", easy_spec(), easy_series())
    folder.shard_paths("test")[0].write_bytes(b"")
    with pytest.raises(tf.errors.OpError):
        list(windows(folder, "test", batch_size=8))


def test_a_batch_of_many_short_series_mixes_more_keys_than_one_group_of_blocks_has(tmp_path: Path) -> None:
    keys = tuple(f"k{number:02d}" for number in range(4 * BLOCKS_AT_ONCE))
    folder = lay_dataset(tmp_path / "dataset", easy_spec(), easy_series(days=12, keys=keys))
    first = next(iter(windows(folder, "train", batch_size=256, shuffle_seed=1).as_numpy_iterator()))
    assert len(set(first["key"].tolist())) > 2 * BLOCKS_AT_ONCE
