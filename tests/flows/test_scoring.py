"""Batch scoring against the live path, with a real model server; the same bytes on every run; clear errors."""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
import pytest

from deploy.local.ports import free_port
from deploy.local.stack import down
from flows import scoring
from flows.history import History
from flows.local_stack import start_model_server
from flows.predict import lines, predict
from flows.scoring import ScoringSummary, score
from models.export import export
from models.forecaster import build_forecaster
from pipelines.ingest import ingest
from pipelines.kernels.windowing import Windowing
from schemas.dataset import DatasetFolder
from schemas.errors import DatasetError, FingerprintMismatch, InputError, ModelError, ServingError
from schemas.event import EventReader
from schemas.prediction import Prediction, PredictionWriter
from schemas.spec import Spec, parse_spec
from streaming.partition import Partition
from streaming.predictor import Predictor
from streaming.serving_client import ServingClient
from tests.specs import tiny_spec

KEYS = ("a", "é", "b/c")
FORECASTS = ("load_mean", "load_q0.1", "load_q0.5", "load_q0.9")
SPLIT = {
    "by": "dates",
    "train": ["1970-01-01", "1970-01-01T00:00:02Z"],
    "validation": ["1970-01-01T00:00:02Z", "1970-01-01T00:00:02.5Z"],
    "test": ["1970-01-01T00:00:02.5Z", "1970-01-01T00:00:03Z"],
}


@dataclass(frozen=True)
class Published:
    """A stream with a file of events, a dataset and a published model."""

    spec: Spec
    file: str
    dataset: Path
    model: Path


@dataclass
class Record:
    offset: int
    value: bytes
    timestamp: int = 0
    key: bytes | None = None
    headers: tuple[tuple[str, bytes], ...] = ()


@pytest.fixture(scope="module")
def published(tmp_path_factory: pytest.TempPathFactory) -> Published:
    folder = tmp_path_factory.mktemp("published")
    spec = tiny_spec(
        split=SPLIT,
        model={"family": "lstm", "units": 4, "segment": 1, "scaling": "per_key", "quantiles": [0.1, 0.5, 0.9]},
        dataset={"block_windows": 7, "shards": 2},
        serving={"address": f"127.0.0.1:{free_port()}", "max_batch": 16, "deadline": "30s"},
        paths={"models": str(folder / "models")},
    )
    rng = np.random.default_rng(0)
    lines = ["time,key,load,heat", "noon,a,1,2"]
    for time_ms in np.sort(rng.integers(0, 3000, 700)).tolist():
        load, heat = rng.normal(50, 9), rng.normal()
        lines.append(f"{time_ms},{rng.choice(KEYS)},{load:.3f},{'NA' if heat > 1 else f'{heat:.3f}'}")
    (folder / "events.csv").write_text("\n".join(lines) + "\n")
    ingest(spec, inputs=[str(folder / "events.csv")], output=str(folder / "dataset"))
    statistics = DatasetFolder(folder / "dataset").statistics
    model = folder / "models" / "tiny"
    model.mkdir(parents=True)
    weights = build_forecaster(spec, statistics).get_weights()
    export(spec, statistics, weights, to=model / "3", lineage={})
    return Published(spec, str(folder / "events.csv"), folder / "dataset", model)


@pytest.fixture(scope="module")
def server(published: Published, tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    state = tmp_path_factory.mktemp("state")
    start_model_server(published.spec, state)
    with ServingClient(published.spec) as client:
        client.wait_until_available(60)
    yield published.spec.serving.address
    down(state)


@pytest.fixture(scope="module")
def scored(published: Published, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, ScoringSummary]:
    output = tmp_path_factory.mktemp("scored") / "out"
    return output, score(published.spec, inputs=[published.file], model=str(published.model), output=str(output))


def live_predictions(spec: Spec, file: str) -> list[Prediction]:
    """What the consumer would have predicted, had the file been the topic: 37 events a poll."""
    windowing, history = Windowing(spec), History.read(spec, [file])
    partition = Partition(
        spec, windowing, EventReader(spec), name="events[0]", partitions=1, start_offset=0, live_from=0
    )
    records = [Record(offset, payload) for offset, payload in enumerate(history.payloads(spec))]
    predictions = []
    with ServingClient(spec) as client:
        predictor = Predictor(spec, windowing, client)
        for first in range(0, len(records), 37):
            stage = partition.stage(records[first : first + 37], now_ms=10_000)
            partition.apply(stage)
            predictions += predictor.predict(stage.windows)
    return predictions


def rows(output: Path) -> dict[str, dict[str, Any]]:
    found = [row for path in sorted(output.glob("*.parquet")) for row in pq.read_table(path).to_pylist()]
    by_id = {row["id"]: row for row in found}
    assert len(by_id) == len(found)
    return by_id


def contents(folder: Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def test_scored_files_equal_the_live_predictions(
    published: Published, server: str, scored: tuple[Path, ScoringSummary], tmp_path: Path
) -> None:
    expected = live_predictions(published.spec, published.file)
    assert len(expected) > 200
    summary = score(published.spec, inputs=[published.file], server=server, output=str(tmp_path / "out"))
    for output, found_summary in (scored, (tmp_path / "out", summary)):
        found = rows(output)
        assert found_summary.predictions == len(found) == len(expected)
        for live in expected:
            row = found[live.id("tiny")]
            assert (row["key"], row["origin_ms"], row["role"]) == (live.key, live.origin_ms, "champion")
            assert row["window_digest"] == live.window_digest
            assert row["observed_fraction"] == live.observed_fraction
            assert np.float32(row["load_last_observed"]) == live.last_observed[0]
            assert row["load_last_observed_ms"] == live.last_observed_ms[0]
            assert (row["model_name"], row["model_version"]) == ("tiny", 3)
            np.testing.assert_allclose(row["load_mean"], live.mean[:, 0], rtol=1e-6, atol=1e-6)
            assert live.levels == (0.1, 0.5, 0.9)
            for number, level in enumerate(("0.1", "0.5", "0.9")):
                np.testing.assert_allclose(row[f"load_q{level}"], live.quantiles[:, 0, number], rtol=1e-6, atol=1e-6)
            assert row["load_q0.1"] < row["load_q0.5"] == row["load_mean"] < row["load_q0.9"]
            [target] = json.loads(PredictionWriter(published.spec).value(live))["targets"]
            assert list(target["quantiles"]) == ["0.1", "0.5", "0.9"]
            np.testing.assert_array_equal(np.float32(target["quantiles"]["0.9"]), live.quantiles[:, 0, 2])


def test_a_forecast_in_words_has_the_widest_interval(published: Published, server: str) -> None:
    found = predict(published.spec, [published.file], key="a")
    head, *_, first = lines(published.spec, found)[-published.spec.window.horizon - 1 :]
    assert head.split() == ["step", "starts", "load", "(MW)", "0.1", "quantile", "0.9", "quantile"]
    mean, low, high = map(float, first.split()[-3:])
    assert low <= mean <= high


def test_the_files_have_the_same_bytes_on_every_run(
    published: Published, scored: tuple[Path, ScoringSummary], tmp_path: Path
) -> None:
    again = tmp_path / "again"
    score(
        published.spec,
        inputs=[published.file],
        model=str(published.model / "3"),
        output=str(again),
        beam_args=["--direct_num_workers=2", "--direct_running_mode=multi_threading"],
    )
    assert contents(again) == contents(scored[0])
    assert [path.name for path in tmp_path.iterdir()] == ["again"]


def test_dead_letters_of_the_input_are_kept_and_counted(scored: tuple[Path, ScoringSummary]) -> None:
    output, summary = scored
    assert (summary.events.rows, summary.events.dead) == (701, 1)
    [path] = (output / "_dead-letters").iterdir()
    assert json.loads(path.read_text())["text"] == "noon,a,1,2"


def test_a_dataset_is_scored_by_split_in_portions(
    published: Published, scored: tuple[Path, ScoringSummary], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(scoring, "PORTION_WINDOWS", 30)
    summary = score(published.spec, data=str(published.dataset), model=str(published.model), output=str(tmp_path / "o"))
    manifest = DatasetFolder(published.dataset).manifest
    by_split: dict[str, int] = {}
    for file in summary.files:
        by_split[file.split] = by_split.get(file.split, 0) + file.predictions
    assert by_split == {name: split.windows for name, split in manifest.splits.items()}
    assert len(summary.files) > 6
    everything, found = rows(scored[0]), rows(tmp_path / "o")
    assert found.keys() < everything.keys()
    for place, row in found.items():
        for name in FORECASTS:
            np.testing.assert_allclose(row.pop(name), everything[place][name], rtol=1e-6, atol=1e-6)
        assert row.items() <= everything[place].items()


def test_datasets_of_both_layouts_give_the_same_predictions(published: Published, tmp_path: Path) -> None:
    document = published.spec.model_dump(mode="json", exclude_defaults=True)
    spec = parse_spec(document | {"dataset": {"layout": "window"}})
    ingest(spec, inputs=[published.file], output=str(tmp_path / "windows"))
    for name, data in (("a", tmp_path / "windows"), ("b", published.dataset)):
        score(spec, data=str(data), model=str(published.model), output=str(tmp_path / name))
    found, expected = rows(tmp_path / "a"), rows(tmp_path / "b")
    assert found.keys() == expected.keys()
    for place, row in found.items():
        for name in FORECASTS:
            np.testing.assert_allclose(row.pop(name), expected[place][name], rtol=1e-6, atol=1e-6)
        assert row.items() <= expected[place].items()


def test_a_model_of_other_windows_is_refused_before_the_job(published: Published, server: str, tmp_path: Path) -> None:
    document = published.spec.model_dump(mode="json", exclude_defaults=True)
    other = parse_spec(document | {"window": document["window"] | {"stride": 2}})
    for source in ({"model": str(published.model)}, {"server": server}):
        with pytest.raises(FingerprintMismatch, match=f"expected a model of the windows {other.window_fingerprint}"):
            score(other, inputs=[published.file], output=str(tmp_path / "out"), **source)
    with pytest.raises(DatasetError, match="expected windows"):
        score(other, data=str(published.dataset), model=str(published.model), output=str(tmp_path / "out"))
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    ("wrong", "error", "message"),
    [
        ({"model": "nowhere/tiny"}, ModelError, "got no version there"),
        ({"server": "127.0.0.1:1"}, ServingError, "127.0.0.1:1"),
        ({"server": "here"}, InputError, "expected HOST:PORT"),
        ({}, InputError, "expected either"),
    ],
)
def test_a_model_that_is_not_there_is_a_clear_error(
    published: Published, wrong: dict[str, str], error: type[Exception], message: str, tmp_path: Path
) -> None:
    with pytest.raises(error, match=message):
        score(published.spec, inputs=[published.file], output=str(tmp_path / "out"), **wrong)
    assert not list(tmp_path.iterdir())


def test_a_failure_within_the_job_leaves_nothing_and_no_traceback(
    published: Published, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    shutil.copytree(published.dataset, tmp_path / "dataset")
    [shard, *_] = DatasetFolder(tmp_path / "dataset").shard_paths("train")
    shard.write_bytes(shard.read_bytes()[:-5])
    with pytest.raises(DatasetError, match="damaged"):
        score(published.spec, data=str(tmp_path / "dataset"), model=str(published.model), output=str(tmp_path / "out"))
    assert [path.name for path in tmp_path.iterdir()] == ["dataset"]
    assert "Traceback" not in capfd.readouterr().err


def test_an_output_in_use_is_never_touched(published: Published, tmp_path: Path) -> None:
    (tmp_path / "thesis.txt").write_text("precious")
    with pytest.raises(DatasetError, match="expected a new folder"):
        score(published.spec, inputs=[published.file], model=str(published.model), output=str(tmp_path))
    assert [path.name for path in tmp_path.iterdir()] == ["thesis.txt"]
