"""Profiles, their protos and the validation of a dataset, against naive counting and by hand."""

from __future__ import annotations

import json
import math
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from google.protobuf import text_format
from tensorflow_metadata.proto.v0 import schema_pb2, statistics_pb2
from typer.testing import CliRunner

from pipelines.ingest import ingest
from schemas.dataset import DatasetFolder, Statistics
from schemas.errors import DatasetError, InputError
from schemas.spec import Spec
from tests.specs import tiny_spec
from tidegauge import app

FEATURES: list[dict[str, Any]] = [
    {"name": "load", "role": "target"},
    {"name": "kind", "role": "past", "type": "category", "categories": ["lo", "hi"]},
    {"name": "people", "role": "past", "type": "integer", "aggregate": "sum"},
    {"name": "hour", "role": "future", "calendar": "time_of_day"},
]
Rows = list[tuple[str, int, str, str, str]]


def profile_spec(**checks: float) -> Spec:
    return tiny_spec(stream={"features": FEATURES}, grid={"max_gap": 3}, checks=checks, dataset={"shards": 2})


def rows(count: int = 400, keys: str = "ab", shift: float = 0.0, step: int = 10, seed: int = 0) -> Rows:
    draw, table = np.random.default_rng(seed), []
    for key in keys:
        for number in range(count):
            load = "" if draw.random() < 0.1 else f"{draw.normal(20, 2) + shift:.3f}"
            table.append((key, number * step, load, draw.choice(["lo", "hi", "odd"]), str(draw.integers(0, 4))))
    return table


def ingested(folder: Path, table: Rows, spec: Spec, name: str = "dataset", **options: Any) -> DatasetFolder:
    path = folder / f"{name}.csv"
    path.write_text("key,time,load,kind,people\n" + "".join(f"{','.join(map(str, row))}\n" for row in table))
    ingest(spec, inputs=[str(path)], output=str(folder / name), all_origins=True, **options)
    return DatasetFolder(folder / name)


def statistics_of(folder: Path, table: Rows) -> Statistics:
    return ingested(folder, table, profile_spec()).statistics


def test_a_profile_is_what_naive_counting_finds(tmp_path: Path) -> None:
    table = rows()
    statistics = statistics_of(tmp_path, table)
    for key in "ab":
        closed = [row for row in table if row[0] == key][:-1]  # nothing closes the last step
        seen = [(time // 10, float(np.float32(float(load)))) for _, time, load, _, _ in closed if load]
        profile = statistics.key_profiles[key].features["load"]
        assert (profile.steps, profile.missing) == (len(closed), len(closed) - len(seen))
        absent = [after - before - 1 for (before, _), (after, _) in pairwise(seen)]
        assert (profile.gaps, profile.longest_gap) == (sum(gap > 0 for gap in absent), max(absent))
        assert profile.moments is not None
        values = sorted(value for _, value in seen)
        assert (profile.moments.count, profile.moments.min, profile.moments.max) == (len(seen), values[0], values[-1])
        assert profile.moments.mean == pytest.approx(math.fsum(values) / len(values), rel=1e-12)
        for level, quantile in zip((0.01, 0.05, 0.25, 0.5, 0.75, 0.95, 0.99), profile.quantiles, strict=True):
            assert quantile == pytest.approx(values[math.ceil(level * len(values)) - 1], rel=1 / 128)
    whole, parts = statistics.profiles["load"], [statistics.key_profiles[key].features["load"] for key in "ab"]
    assert whole.steps == sum(part.steps for part in parts)
    assert whole.missing == sum(part.missing for part in parts)
    assert sum(statistics.sketches["load"].count) == whole.steps - whole.missing
    assert "hour" not in statistics.profiles


def test_a_key_tells_how_its_events_came(tmp_path: Path) -> None:
    regular = [("a", 10 * n, "1", "lo", "0") for n in range(20)]
    jumpy = [("b", time, "1", "lo", "0") for time in (0, 10, 20, 27, 34, 41, 48, 48)]
    lone = [("c", 130, "1", "lo", "0")]
    profiles = statistics_of(tmp_path, [*regular, *jumpy, *lone]).key_profiles
    assert (profiles["a"].interval_ms, profiles["a"].regularity, profiles["a"].stale_ms) == (10, 1.0, 0)
    assert (profiles["b"].interval_ms, profiles["b"].regularity, profiles["b"].stale_ms) == (7, 4 / 6, 142)
    assert (profiles["b"].used, profiles["b"].duplicate) == (7, 1)
    assert (profiles["c"].interval_ms, profiles["c"].regularity, profiles["c"].features) == (None, None, {})


def test_constants_and_gaps_across_a_restart(tmp_path: Path) -> None:
    values = ["1", "1", "", "1", "2", "2"]
    table = [("a", 10 * n, value, "lo", "0") for n, value in enumerate(values)]
    table += [("a", 10 * (100 + n), "2", "lo", "0") for n in range(3)]
    profile = statistics_of(tmp_path, table).key_profiles["a"].features["load"]
    assert (profile.steps, profile.missing) == (102, 96)
    assert (profile.gaps, profile.longest_gap, profile.longest_constant) == (2, 95, 3)


def test_the_statistics_are_the_same_on_every_run(tmp_path: Path) -> None:
    table = rows(keys="abcdefg", count=60)
    one = ingested(tmp_path, table, profile_spec(), "one")
    two = ingested(tmp_path, table[::-1], profile_spec(), "two", beam_args=["--direct_num_workers=2"])
    for name in ("stats.json", "feature_stats.pb", "features.pbtxt"):
        assert (one.path / name).read_bytes() == (two.path / name).read_bytes()


# --- tensorflow-metadata ---


def test_the_protos_are_tensorflow_metadatas(tmp_path: Path) -> None:
    dataset = ingested(tmp_path, rows(), profile_spec())
    found = statistics_pb2.DatasetFeatureStatisticsList.FromString((dataset.path / "feature_stats.pb").read_bytes())
    [of_all] = found.datasets
    features = {feature.path.step[0]: feature for feature in of_all.features}
    assert set(features) == {"load", "kind", "people"}
    load, profile = features["load"], dataset.statistics.profiles["load"]
    assert of_all.num_examples == profile.steps
    assert load.type == statistics_pb2.FeatureNameStatistics.FLOAT
    assert load.num_stats.common_stats.num_missing == profile.missing
    assert profile.moments is not None
    assert load.num_stats.mean == profile.moments.mean
    for histogram in load.num_stats.histograms:
        assert sum(bucket.sample_count for bucket in histogram.buckets) == pytest.approx(profile.moments.count)
        assert histogram.buckets[0].low_value == profile.moments.min
        assert histogram.buckets[-1].high_value == profile.moments.max
    kind = features["kind"].string_stats
    frequencies = {value.value: value.frequency for value in kind.top_values}
    assert set(frequencies) == {"lo", "hi", "(unknown)"}
    assert sum(frequencies.values()) == kind.common_stats.num_non_missing == dataset.statistics.profiles["kind"].steps
    assert features["people"].type == statistics_pb2.FeatureNameStatistics.INT
    assert features["people"].num_stats.num_zeros > 0

    schema = text_format.Parse((dataset.path / "features.pbtxt").read_text(), schema_pb2.Schema())
    types = {feature.name: feature.type for feature in schema.feature}
    assert types == {"load": schema_pb2.FLOAT, "kind": schema_pb2.BYTES, "people": schema_pb2.INT}
    assert list(schema.feature[1].string_domain.value) == ["lo", "hi", "(unknown)"]


# --- validation ---


def test_without_limits_everything_is_only_said(tmp_path: Path) -> None:
    baseline = ingested(tmp_path, rows(), profile_spec(), "baseline")
    dataset = ingested(tmp_path, rows(shift=50, keys="bc", step=20), profile_spec(), baseline=baseline)
    report = json.loads((dataset.path / "validation.json").read_text())
    assert report["baseline"] == baseline.manifest.fingerprint
    assert all(check["passed"] for check in report["checks"])
    values = {(check["name"], check["feature"]): check["value"] for check in report["checks"]}
    assert values["drift", "load"] > 0.5 > 0.05 > values["drift", "kind"]
    assert values["new_keys", None] == 0.5
    assert values["broken_step", None] == 1.0
    assert values["missing_rise", "load"] == pytest.approx(0.5, abs=0.1)


@pytest.mark.parametrize(
    ("limit", "changed", "message"),
    [
        ({"max_missing": 0.3}, {"step": 20}, "missing of 'load': expected at most 0.3, got 0.5"),
        ({"max_missing_rise": 0.1}, {"step": 20}, "missing_rise of 'load': expected at most 0.1, got"),
        ({"max_drift": 0.1}, {"shift": 9.0}, "drift of 'load': expected at most 0.1, got"),
        ({"max_new_keys": 0.0}, {"keys": "abc"}, r"new_keys: .* \(1 of 3 keys are not in the baseline \(c\)\)"),
        ({"max_broken_step": 0.4}, {"step": 20}, r"broken_step: .*2 of 2 keys have another time .* \(a, b\)"),
    ],
)
def test_beyond_a_limit_nothing_is_published(
    limit: dict[str, float], changed: dict[str, Any], message: str, tmp_path: Path
) -> None:
    baseline = ingested(tmp_path, rows(), profile_spec(), "baseline")
    assert ingested(tmp_path, rows(seed=1), profile_spec(**limit), "alike", baseline=baseline).manifest.splits
    with pytest.raises(InputError, match=f"not published: {message}"):
        ingested(tmp_path, rows(seed=1, **changed), profile_spec(**limit), baseline=baseline)
    assert not (tmp_path / "dataset").exists()


def test_limits_change_no_fingerprint() -> None:
    assert profile_spec(max_drift=0.1).fingerprint == profile_spec().fingerprint


def test_a_baseline_without_profiles_is_refused(tmp_path: Path) -> None:
    baseline = ingested(tmp_path, rows(), profile_spec(), "baseline")
    baseline.statistics = baseline.statistics.model_copy(update={"key_profiles": {}})
    with pytest.raises(DatasetError, match="expected a baseline with profiles"):
        ingested(tmp_path, rows(), profile_spec(), baseline=baseline)


def test_the_command_line_takes_a_baseline(tmp_path: Path) -> None:
    ingested(tmp_path, rows(), profile_spec(), "baseline")
    (tmp_path / "spec.yaml").write_text(
        json.dumps(profile_spec(max_drift=0.1).model_dump(mode="json", exclude_defaults=True))
    )
    command = ["ingest", "--spec", str(tmp_path / "spec.yaml"), "--input", str(tmp_path / "baseline.csv"),
               "--output", str(tmp_path / "again"), "--baseline", str(tmp_path / "baseline"),
               "--all-origins"]  # fmt: skip
    result = CliRunner().invoke(app, command)
    assert result.exit_code == 0, result.output
    report = json.loads((tmp_path / "again" / "validation.json").read_text())
    assert [check["value"] for check in report["checks"] if check["name"] == "drift"] == [0, 0, 0]
