"""Spans: intervals laid end to end are one ingest of the whole, and each can be made again."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from models import reader
from pipelines.ingest import ingest
from pipelines.kernels.drift import drift
from pipelines.profiles import sketch_of
from pipelines.sources.files import match_files
from pipelines.sources.inputs import Inputs
from schemas.dataset import SPANS_FOLDER, DatasetFolder
from schemas.errors import DatasetError, InputError, SpecError
from schemas.spec import Spec
from schemas.split_spec import SPLITS
from schemas.units import ms_to_iso
from tests.pipelines.records import read_windows
from tests.pipelines.test_ingest import SPLIT, csv_text, folder_bytes, random_events, spec_of
from tests.specs import tiny_spec

CUTS = ("1969-12-31", "1970-01-01T00:00:01.200Z", "1970-01-01T00:00:01.230Z", "1970-01-01T00:00:02.990Z", "1970-01-02")


@pytest.fixture(scope="module")
def inputs(tmp_path_factory: pytest.TempPathFactory) -> list[str]:
    path = tmp_path_factory.mktemp("spans") / "events.csv"
    path.write_text(csv_text(random_events(5)) + "broken,a,1,2\n")
    return [str(path)]


def span(spec: Spec, inputs: list[str], output: Path, start: str, end: str, **options: Any) -> None:
    ingest(spec, inputs=inputs, output=str(output), interval=(start, end), **options)


def windows_of(folder: Path, split: str) -> dict[Any, tuple[bytes, ...]]:
    return {
        place: tuple(part.tobytes() for part in (w.past, w.past_observed, w.horizon, w.horizon_observed))
        for place, w in read_windows(folder, split).items()
    }


@pytest.mark.parametrize("changed", [{}, {"grid": {"max_gap": 3, "lateness": "20ms"}}, {"grid": {"regular": True}}])
def test_spans_laid_end_to_end_are_one_ingest_of_the_whole(
    changed: dict[str, Any], inputs: list[str], tmp_path: Path
) -> None:
    spec = spec_of(**changed)
    whole = ingest(spec, inputs=inputs, output=str(tmp_path / "whole"))
    for start, end in pairwise(CUTS):
        span(spec, inputs, tmp_path / "spans", start, end)
    parts = DatasetFolder(tmp_path / "spans")
    for split in SPLITS:
        expected = windows_of(tmp_path / "whole", split)
        assert len(expected) > 10
        assert windows_of(tmp_path / "spans", split) == expected
        for field in ("windows", "windows_by_key", "first_origin_ms", "last_origin_ms"):
            assert getattr(parts.split(split), field) == getattr(whole.splits[split], field)
    counts = parts.manifest.events
    assert counts.rows == counts.used + counts.duplicate + counts.late + counts.dead
    assert (counts.used, counts.duplicate) == (whole.events.used, whole.events.duplicate)
    assert counts.dead == len(CUTS) - 1  # a row without a time belongs to no interval: each span reports it
    statistics = DatasetFolder(tmp_path / "whole").statistics
    for name, moments in statistics.features.items():
        assert parts.statistics.features[name].count == pytest.approx(moments.count, rel=0.02)
        assert parts.statistics.features[name].mean == pytest.approx(moments.mean, abs=0.05)
    for name, sketch in statistics.sketches.items():
        assert drift(sketch_of(sketch), sketch_of(parts.statistics.sketches[name])) < 0.02


def test_a_span_made_again_has_the_same_bytes(inputs: list[str], tmp_path: Path) -> None:
    spec, output = spec_of(), tmp_path / "dataset"
    for start, end in pairwise(CUTS):
        span(spec, inputs, output, start, end)
    before = folder_bytes(output)
    span(spec, inputs, output, CUTS[1], CUTS[2])
    digest = DatasetFolder(output).digest
    assert folder_bytes(output) == before
    span(spec, inputs[:1], output, "1970-01-02", "1970-01-03")
    assert DatasetFolder(output).digest != digest
    shutil.rmtree(output / SPANS_FOLDER / "19700102T000000Z_19700103T000000Z")
    assert DatasetFolder(output).digest == digest
    assert len(list((output / SPANS_FOLDER).iterdir())) == len(CUTS) - 1


def test_the_training_reader_reads_all_spans(inputs: list[str], tmp_path: Path) -> None:
    spec, output = spec_of(), tmp_path / "dataset"
    for start, end in pairwise(CUTS):
        span(spec, inputs, output, start, end)
    folder = DatasetFolder(output)
    batches = reader.windows(folder, "train", batch_size=64).as_numpy_iterator()
    origins = np.concatenate([batch["origin_ms"] for batch in batches])
    expected = [step * spec.grid.step for _, step in windows_of(output, "train")]
    assert sorted(origins.tolist()) == sorted(expected)


@pytest.mark.parametrize(
    ("interval", "message"),
    [
        (("soon", "1970-01-02"), "expected ISO 8601 times, got 'soon'"),
        (("1970-01-01", "1970-01-01T00:00:00.005Z"), "expected the start of a step of the grid"),
        (("1970-01-02", "1970-01-01"), "expected a start before the end"),
    ],
)
def test_what_is_no_interval(interval: tuple[str, str], message: str, inputs: list[str], tmp_path: Path) -> None:
    with pytest.raises(InputError, match=message):
        span(spec_of(), inputs, tmp_path / "dataset", *interval)


def test_intervals_that_do_not_fit(inputs: list[str], tmp_path: Path) -> None:
    spec, output = spec_of(), tmp_path / "dataset"
    span(spec, inputs, output, CUTS[0], CUTS[1])
    with pytest.raises(DatasetError, match=r"overlaps the span 19691231T000000Z_19700101T000001\.200Z"):
        span(spec, inputs, output, "1970-01-01T00:00:01Z", CUTS[3])
    with pytest.raises(DatasetError, match="expected a new folder"):
        ingest(spec, inputs=inputs, output=str(output), overwrite=True)
    ingest(spec, inputs=inputs, output=str(tmp_path / "whole"))
    with pytest.raises(DatasetError, match="got one that was ingested whole"):
        span(spec, inputs, tmp_path / "whole", CUTS[0], CUTS[1])
    fractions = spec_of().model_copy(
        update={"split": tiny_spec(split={"by": "fraction", "train": 0.6, "test": 0.2}).split}
    )
    with pytest.raises(SpecError, match="got fractions"):
        span(fractions, inputs, output, *CUTS[:2])


def test_spans_of_different_specs_are_no_dataset(inputs: list[str], tmp_path: Path) -> None:
    span(spec_of(), inputs, tmp_path / "dataset", CUTS[0], CUTS[1])
    span(spec_of(window={"past": 4}), inputs, tmp_path / "dataset", CUTS[1], CUTS[2])
    with pytest.raises(DatasetError, match="expected a span of the spec"):
        DatasetFolder(tmp_path / "dataset")


@pytest.mark.parametrize("seconds", [0.0, 0.15, 0.4])
def test_a_job_that_is_killed_leaves_the_other_spans(seconds: float, inputs: list[str], tmp_path: Path) -> None:
    spec, output = spec_of(), tmp_path / "dataset"
    span(spec, inputs, output, CUTS[0], CUTS[1])
    before = folder_bytes(output)
    script = (
        "import json, sys\n"
        "from pipelines.ingest import ingest\n"
        "from tests.specs import tiny_spec\n"
        "output, sections, start, end, *inputs = sys.argv[1:]\n"
        "spec = tiny_spec(**json.loads(sections))\n"
        "print('begun', flush=True)\n"
        "ingest(spec, inputs=inputs, output=output, interval=(start, end))\n"
    )
    sections = {"window": {"min_observed_target": 2}, "split": SPLIT, "dataset": {"block_windows": 7, "shards": 2}}
    command = [sys.executable, "-c", script, str(output), json.dumps(sections), CUTS[1], CUTS[3], *inputs]
    job = subprocess.Popen(command, stdout=subprocess.PIPE, cwd=Path(__file__).parents[2])
    assert job.stdout is not None
    with job.stdout:
        assert job.stdout.readline() == b"begun\n"
        time.sleep(seconds)
        os.kill(job.pid, signal.SIGKILL)
        job.wait()
    visible = {name: data for name, data in folder_bytes(output).items() if ".tmp-" not in name}
    done = len(list(output.glob(f"{SPANS_FOLDER}/*/COMPLETED"))) - len(
        list(output.glob(f"{SPANS_FOLDER}/*.tmp-*/COMPLETED"))
    )
    assert visible == before or done == 2
    DatasetFolder(output)
    span(spec, inputs, output, CUTS[1], CUTS[3])
    span(spec, inputs, tmp_path / "fresh", CUTS[0], CUTS[1])
    span(spec, inputs, tmp_path / "fresh", CUTS[1], CUTS[3])
    assert folder_bytes(output) == folder_bytes(tmp_path / "fresh")


@pytest.mark.parametrize("of_time", ["epoch_ms", "timestamp", "text"])
def test_row_groups_beside_the_span_are_not_read(of_time: str, tmp_path: Path) -> None:
    """By their own statistics, a day to spare for local times; of times as texts nothing is known."""
    day_ms, each = 86_400_000, 20
    time_ms = np.repeat(np.arange(10) * day_ms, each) + np.tile(np.arange(each) * 10, 10)
    times = {
        "epoch_ms": pa.array(time_ms),
        "timestamp": pa.array(time_ms).cast(pa.timestamp("ms")),
        "text": pa.array([ms_to_iso(ms) for ms in time_ms.tolist()]),
    }[of_time]
    columns = {"key": pa.array(["x"] * len(time_ms)), "time": times, "load": time_ms / 1.0, "heat": time_ms / 2.0}
    path = tmp_path / "events.parquet"
    pq.write_table(pa.table(columns), path, row_group_size=each)
    spec = tiny_spec(stream={"time": {"field": "time", "format": "epoch_ms" if of_time == "epoch_ms" else "iso8601"}})
    [file] = match_files([str(path)])
    inputs = Inputs(spec, (5 * day_ms, 5 * day_ms + 1_000))
    found = [batch for piece in inputs.pieces(file) for batch in inputs.read(piece)]
    rows = np.concatenate([batch.events.row for batch in found])
    expected = range(len(time_ms)) if of_time == "text" else range(4 * each, 7 * each)
    assert rows.tolist() == list(expected)
    assert np.concatenate([batch.events.time_ms for batch in found]).tolist() == time_ms[rows].tolist()
