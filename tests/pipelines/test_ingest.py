"""The whole ingest: datasets against the naive oracle, the same bytes on every run, and what a user does wrong."""

from __future__ import annotations

import gzip
import json
import logging
import math
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from google.protobuf import text_format
from tensorflow_metadata.proto.v0 import schema_pb2

from pipelines.ingest import ingest
from schemas.dataset import ALL_ORIGINS, DatasetFolder, Manifest, Moments
from schemas.errors import DatasetError, InputError, SpecError
from schemas.spec import Spec
from schemas.split_spec import SPLITS
from tests.oracle import Oracle, OracleEvent
from tests.pipelines.records import ReadWindow, read_windows
from tests.specs import tiny_spec

KEYS = ("a", "é", "b/c", "d,1", "e")
SPLIT = {
    "by": "dates",
    "train": ["1970-01-01T00:00:00.200Z", "1970-01-01T00:00:02Z"],
    "validation": ["1970-01-01T00:00:02Z", "1970-01-01T00:00:03Z"],
    "test": ["1970-01-01T00:00:03Z", "1970-01-01T00:00:04.105Z"],
}


def spec_of(**sections: Any) -> Spec:
    return tiny_spec(
        **{"window": {"min_observed_target": 2}, "split": SPLIT, "dataset": {"block_windows": 7, "shards": 2}}
        | sections
    )


def random_events(seed: int, count: int = 1500) -> list[OracleEvent]:
    """Events of several keys in no order, with gaps, restarts, missing values and repeated times."""
    rng = np.random.default_rng(seed)
    events = []
    for position in range(count):
        values = tuple(math.nan if rng.random() < 0.15 else round(float(rng.normal()), 3) for _ in range(2))
        key = KEYS[int(rng.integers(len(KEYS) if position % 2 else 2))]
        time_ms = int(rng.integers(0, 4400))
        if 1000 <= time_ms < 1200 and key != "e":
            time_ms = 990  # an outage
        events.append(OracleEvent(key, time_ms, position, values))
    return events


def csv_text(events: list[OracleEvent]) -> str:
    lines = ["time,key,load,heat"]
    for event in events:
        numbers = ["NA" if math.isnan(value) else repr(value) for value in event.values]
        lines.append(f'{event.time_ms},"{event.key}",{",".join(numbers)}')
    return "\n".join(lines) + "\n"


@pytest.fixture(scope="module")
def events() -> list[OracleEvent]:
    return random_events(0)


@pytest.fixture(scope="module")
def inputs(events: list[OracleEvent], tmp_path_factory: pytest.TempPathFactory) -> list[str]:
    """The events in three files, one of them gzipped and one given by a pattern."""
    folder = tmp_path_factory.mktemp("inputs")
    (folder / "z-first.csv").write_text(csv_text(events[:500]))
    (folder / "second.csv.gz").write_bytes(gzip.compress(csv_text(events[500:900]).encode()))
    (folder / "third-1.csv").write_text(csv_text(events[900:]))
    return [str(folder / "z-first.csv"), str(folder / "second.csv.gz"), str(folder / "third-*.csv")]


def by_oracle(spec: Spec, events: list[OracleEvent]) -> Oracle:
    return Oracle(spec, live=False).run(sorted(events, key=lambda event: (event.time_ms, event.position)))


def expected_split(spec: Spec, origin_step: int) -> str | None:
    first_ms = origin_step * spec.grid.step + spec.grid.offset
    end_ms = first_ms + spec.window.horizon * spec.grid.step
    assert spec.split is not None
    for name in SPLITS:
        start, end = spec.split.interval(name)
        if start <= first_ms and end_ms <= end:
            return name
    return None


def folder_bytes(folder: Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


@pytest.mark.parametrize(
    "changed",
    [
        {},
        {"grid": {"step": "30ms", "offset": "5ms", "max_gap": 2}},
        {"grid": {"regular": True}, "window": {"past": 5, "horizon": 4, "stride": 3, "min_observed": 2}},
    ],
)
def test_a_dataset_holds_the_windows_of_the_oracle(
    changed: dict[str, Any], events: list[OracleEvent], inputs: list[str], tmp_path: Path
) -> None:
    spec = spec_of(**changed)
    manifest = ingest(spec, inputs=inputs, output=str(tmp_path / "dataset"))
    oracle = by_oracle(spec, events)
    counts = manifest.events
    assert (counts.used, counts.duplicate, counts.late, counts.dead) == (
        *(oracle.outcomes.count(name) for name in ("used", "duplicate", "late")),
        0,
    )
    rows: dict[tuple[str, int], tuple[Any, Any]] = {}
    for split in SPLITS:
        expected = {
            (window.key, window.origin_step): window
            for window in oracle.windows
            if window.labelled and expected_split(spec, window.origin_step) == split
        }
        found = read_windows(tmp_path / "dataset", split)
        assert found.keys() == expected.keys()
        assert len(found) > 10
        assert manifest.splits[split].windows == len(found)
        assert sum(manifest.splits[split].windows_by_key.values()) == len(found)
        origins = [step * spec.grid.step + spec.grid.offset for _, step in found]
        assert manifest.splits[split].first_origin_ms == min(origins)
        assert manifest.splits[split].last_origin_ms == max(origins)
        for place, window in expected.items():
            np.testing.assert_array_equal(found[place].past, np.array(window.values))
            np.testing.assert_array_equal(found[place].past_observed, np.array(window.observed))
            assert found[place].horizon_observed[:, 0].sum() >= spec.window.min_observed_target
            if split == "train":
                _note_rows(rows, place, found[place])
    _check_statistics(tmp_path / "dataset", spec, rows)


def _note_rows(rows: dict[tuple[str, int], tuple[Any, Any]], place: tuple[str, int], window: ReadWindow) -> None:
    key, origin = place
    for at, (values, observed) in enumerate(
        zip(
            np.concatenate((window.past, window.horizon)),
            np.concatenate((window.past_observed, window.horizon_observed)),
            strict=True,
        ),
        start=origin - len(window.past),
    ):
        rows[key, at] = (values, observed)


def _check_statistics(folder: Path, spec: Spec, rows: dict[tuple[str, int], tuple[Any, Any]]) -> None:
    statistics = DatasetFolder(folder).statistics

    def check(moments: Moments, index: int, key: str | None) -> None:
        seen = [float(v[index]) for (k, _), (v, o) in rows.items() if o[index] and key in (None, k)]
        assert moments.count == len(seen)
        assert (moments.min, moments.max) == (min(seen), max(seen))
        assert moments.mean == pytest.approx(np.mean(seen), rel=1e-12, abs=1e-12)
        assert moments.std == pytest.approx(np.std(seen), rel=1e-12)

    for index, feature in enumerate(spec.stream.features):
        check(statistics.features[feature.name], index, None)
        for key in {key for key, _ in rows}:
            check(statistics.keys[key][feature.name], index, key)


def test_all_origins_holds_every_window_with_blank_steps_beyond_the_end(
    events: list[OracleEvent], inputs: list[str], tmp_path: Path
) -> None:
    spec = spec_of(split=None)
    manifest = ingest(spec, inputs=inputs, output=str(tmp_path / "dataset"), all_origins=True)
    expected = {(window.key, window.origin_step): window for window in by_oracle(spec, events).windows}
    found = read_windows(tmp_path / "dataset", ALL_ORIGINS)
    assert found.keys() == expected.keys()
    assert list(manifest.splits) == [ALL_ORIGINS]
    last = max(found, key=lambda place: place[1])
    assert not found[last].horizon_observed[:, :2].any()
    assert np.isfinite(found[last].horizon[:, 2]).all()


def test_every_file_has_the_same_bytes_on_every_run(inputs: list[str], tmp_path: Path) -> None:
    spec = spec_of()
    ingest(spec, inputs=inputs, output=str(tmp_path / "one"))
    ingest(spec, inputs=inputs, output=str(tmp_path / "two"))
    workers = ["--direct_num_workers=2", "--direct_running_mode=multi_threading"]
    ingest(spec, inputs=inputs, output=str(tmp_path / "three"), beam_args=workers)
    assert folder_bytes(tmp_path / "one") == folder_bytes(tmp_path / "two") == folder_bytes(tmp_path / "three")
    assert {path.name for path in tmp_path.iterdir()} == {"one", "two", "three"}


def test_the_schema_describes_the_records(inputs: list[str], tmp_path: Path) -> None:
    ingest(spec_of(), inputs=inputs, output=str(tmp_path / "dataset"))
    schema = text_format.Parse((tmp_path / "dataset" / "schema.pbtxt").read_text(), schema_pb2.Schema())
    assert [feature.name for feature in schema.feature] == ["key", "first_step", "values", "observed", "origins"]


def test_bad_rows_are_dead_letters(inputs: list[str], events: list[OracleEvent], tmp_path: Path) -> None:
    bad = tmp_path / "bad.csv"
    bad.write_bytes(b"key,time,load,heat\na,noon,1,2\na,5,hot,2\n\n\xff,5,1,2\na,253370764800000,1,2\n")
    for name in ("one", "two"):
        manifest = ingest(spec_of(), inputs=[*inputs, str(bad)], output=str(tmp_path / name))
    counts = manifest.events
    assert (counts.rows, counts.dead) == (len(events) + 4, 4)
    assert counts.dead_by_reason == {"decode": 1, "time": 1, "time_range": 1, "type": 1}
    assert counts.rows == counts.used + counts.duplicate + counts.late + counts.dead
    assert folder_bytes(tmp_path / "one") == folder_bytes(tmp_path / "two")
    [path] = (tmp_path / "one" / "dead-letters").iterdir()
    assert path.name == "00003-bad.csv.jsonl"
    lines = [json.loads(line) for line in path.read_text().splitlines()]
    assert [line["source"] for line in lines] == [f"{bad}:{number}" for number in (2, 3, 5, 6)]
    assert [line["reason"] for line in lines] == ["time", "type", "decode", "time_range"]
    assert lines[1]["text"] == "a,5,hot,2"
    assert bytes.fromhex(lines[2]["hex"]) == b"\xff,5,1,2"


def _ingest_files(tmp_path: Path, *contents: bytes, spec: Spec | None = None) -> Manifest:
    paths = []
    for index, content in enumerate(contents):
        paths.append(str(tmp_path / f"{index}.csv"))
        Path(paths[-1]).write_bytes(content)
    return ingest(spec or spec_of(), inputs=paths, output=str(tmp_path / "dataset"))


def test_input_that_cannot_be_used_is_a_clear_error_for_each_file(
    tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(InputError) as caught:
        _ingest_files(tmp_path, b"PNG", b"key,time,load,heat\n", b"")
    assert [line.split(": ")[0] for line in str(caught.value).splitlines()] == [
        f"{tmp_path}/0.csv:1",
        f"{tmp_path}/2.csv:1",
    ]
    assert not (tmp_path / "dataset").exists()
    assert not list(tmp_path.glob("dataset.tmp-*"))
    assert "Traceback" not in capfd.readouterr().err


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"key,time,load,heat\n", "expected events, got no row"),
        (b"key,time,load,heat\na,noon,1,2\n", "expected events, got 1 dead rows \\(1 'time'\\)"),
        (b"key,time,load,heat\na,5,1,2\n", "expected windows in the split 'train', got none from 1 events"),
    ],
)
def test_input_without_a_window_to_train_on_is_an_error(content: bytes, message: str, tmp_path: Path) -> None:
    with pytest.raises(InputError, match=message):
        _ingest_files(tmp_path, content)


def test_a_split_without_windows_is_a_warning(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    content = csv_text([event for event in random_events(1, 600) if event.time_ms < 2000]).encode()
    with caplog.at_level(logging.WARNING, logger="pipelines"):
        manifest = _ingest_files(tmp_path, content)
    assert [record.getMessage().split(",")[0] for record in caplog.records if record.name == "pipelines.ingest"] == [
        "expected windows in the split 'validation'",
        "expected windows in the split 'test'",
    ]
    assert manifest.splits["test"].first_origin_ms is None
    assert [shard.blocks for shard in manifest.splits["test"].shards] == [0, 0]
    assert read_windows(tmp_path / "dataset", "test") == {}


@pytest.mark.parametrize(
    ("pattern", "message"),
    [("missing.csv", "expected an input file, got no such file"), ("*.csv", "got a pattern that no file matches")],
)
def test_a_missing_input_is_an_error(pattern: str, message: str, tmp_path: Path) -> None:
    with pytest.raises(InputError, match=message):
        ingest(spec_of(), inputs=[str(tmp_path / pattern)], output=str(tmp_path / "dataset"))


def test_no_splits_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(SpecError, match=r"\$\.split: expected a section"):
        ingest(spec_of(split=None), inputs=["x.csv"], output=str(tmp_path / "dataset"))


def test_a_dataset_is_replaced_only_when_told_to(inputs: list[str], tmp_path: Path) -> None:
    output = tmp_path / "dataset"
    ingest(spec_of(), inputs=inputs, output=str(output))
    before = folder_bytes(output)
    with pytest.raises(DatasetError, match="expected a new folder, got a dataset"):
        ingest(spec_of(), inputs=inputs[:1], output=str(output))
    assert folder_bytes(output) == before
    ingest(spec_of(), inputs=inputs[:1], output=str(output), overwrite=True)
    assert folder_bytes(output) != before
    assert [path.name for path in tmp_path.iterdir()] == ["dataset"]


def test_what_is_no_dataset_is_never_replaced(inputs: list[str], tmp_path: Path) -> None:
    (tmp_path / "thesis").mkdir()
    (tmp_path / "thesis" / "chapter.txt").write_text("precious")
    with pytest.raises(DatasetError, match="got something else"):
        ingest(spec_of(), inputs=inputs, output=str(tmp_path / "thesis"), overwrite=True)
    assert (tmp_path / "thesis" / "chapter.txt").read_text() == "precious"


def test_a_job_that_fails_leaves_what_was_there(inputs: list[str], tmp_path: Path) -> None:
    output = tmp_path / "dataset"
    ingest(spec_of(), inputs=inputs, output=str(output))
    before = folder_bytes(output)
    (tmp_path / "bad.csv").write_bytes(b"PNG")
    with pytest.raises(InputError):
        ingest(spec_of(), inputs=[str(tmp_path / "bad.csv")], output=str(output), overwrite=True)
    assert folder_bytes(output) == before


def test_the_batch_plane_needs_no_tensorflow() -> None:
    script = "import sys, pipelines.ingest; sys.exit('tensorflow' in sys.modules)"
    subprocess.run([sys.executable, "-c", script], check=True, timeout=60)
