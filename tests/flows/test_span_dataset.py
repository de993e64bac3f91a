"""A dataset cut from spans: the windows and statistics of an ingest of the whole with the same splits."""

from __future__ import annotations

from itertools import pairwise
from pathlib import Path

import pytest

from flows.span_dataset import cut_dataset, interval_of, spans_within, store_spec, uncovered
from models.evaluation import evaluate_persistence
from pipelines.ingest import ingest
from schemas.dataset import DatasetFolder
from schemas.errors import DatasetError
from schemas.spec import Spec
from schemas.split_spec import SPLITS
from schemas.units import iso_to_ms
from tests.pipelines.records import read_windows
from tests.pipelines.test_ingest import csv_text, random_events, spec_of

CUTS = ("1969-12-31", "1970-01-01T00:00:00.800Z", "1970-01-01T00:00:01.230Z", "1970-01-01T00:00:02.990Z", "1970-01-02")


@pytest.fixture(scope="module")
def events(tmp_path_factory: pytest.TempPathFactory) -> str:
    path = tmp_path_factory.mktemp("spans") / "events.csv"
    path.write_text(csv_text(random_events(5)))
    return str(path)


@pytest.fixture(scope="module")
def store(events: str, tmp_path_factory: pytest.TempPathFactory) -> Path:
    store = tmp_path_factory.mktemp("store")
    for interval in pairwise(CUTS):
        ingest(store_spec(spec_of()), inputs=[events], output=str(store), interval=interval)
    return store


def all_spans(store: Path) -> list[DatasetFolder]:
    return spans_within(store, iso_to_ms(CUTS[0]), iso_to_ms(CUTS[-1]))


def test_it_is_the_ingest_of_the_whole(events: str, store: Path, tmp_path: Path) -> None:
    spec = spec_of(dataset={"shards": 3, "block_windows": 7})
    ingest(spec, inputs=[events], output=str(tmp_path / "whole"))
    cut = cut_dataset(spec, all_spans(store), tmp_path / "cut")
    whole, found = DatasetFolder(tmp_path / "whole"), DatasetFolder(tmp_path / "cut")
    assert found.manifest == cut.manifest
    for split in SPLITS:
        expected = read_windows(whole.path, split)
        assert len(expected) > 10
        windows = read_windows(found.path, split)
        assert windows.keys() == expected.keys()
        for place, window in windows.items():
            for name in ("past", "past_observed", "horizon", "horizon_observed"):
                assert getattr(window, name).tobytes() == getattr(expected[place], name).tobytes()
        for field in ("windows", "windows_by_key", "first_origin_ms", "last_origin_ms"):
            assert getattr(found.split(split), field) == getattr(whole.split(split), field)
        assert sum(shard.windows for shard in found.split(split).shards) == len(expected)
    assert found.statistics.features.keys() == whole.statistics.features.keys()
    for key, moments in whole.statistics.keys.items():
        for name, expected_moments in moments.items():
            of_cut = found.statistics.keys[key][name].model_dump()
            assert of_cut == pytest.approx(expected_moments.model_dump(), rel=1e-9)
    assert found.statistics.sketches.keys() == whole.statistics.sketches.keys()
    assert sum(cut.days.values()) == sum(split.windows for split in cut.manifest.splits.values())
    assert evaluate_persistence(spec, found, "test") | {"dataset": None} == evaluate_persistence(
        spec, whole, "test"
    ) | {"dataset": None}


def test_what_spans_do_not_cover(store: Path, tmp_path: Path) -> None:
    first, second, third, _, last = map(iso_to_ms, CUTS)
    assert [interval_of(span) for span in spans_within(store, second, third)] == [(second, third)]
    spans = all_spans(store)
    assert uncovered(spans, first, last) == []
    assert uncovered(spans[:1] + spans[2:], first - 10, last + 10) == [
        (first - 10, first),
        (second, third),
        (last, last + 10),
    ]
    assert uncovered([], first, last) == [(first, last)]


def test_a_damaged_span_is_told(events: str, store: Path, tmp_path: Path) -> None:
    spec: Spec = spec_of()
    span = all_spans(store)[1]
    [shard] = span.shard_paths("train")
    whole = shard.read_bytes()
    shard.write_bytes(whole[:-1] + b"?")
    with pytest.raises(DatasetError, match="is not the file that was ingested"):
        cut_dataset(spec, all_spans(store), tmp_path / "cut")
    assert not (tmp_path / "cut").exists()
    shard.write_bytes(whole)
    with pytest.raises(DatasetError, match="expected windows"):
        cut_dataset(spec_of(window={"past": 3, "horizon": 2}), all_spans(store), tmp_path / "cut")
