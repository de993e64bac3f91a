"""The demo as a user runs it, with its counts checked against the naive oracle."""

from __future__ import annotations

import csv
import gzip
import json
import math
import os
import re
import subprocess
import sys
from collections import Counter
from pathlib import Path
from typing import Any

import pytest

from flows.demo_parts import WEATHER_SPEC, demo_inputs
from schemas.errors import InputError
from schemas.spec import Spec, load_spec
from schemas.split_spec import SPLITS
from schemas.units import iso_to_ms
from tests.oracle import Oracle, OracleEvent


@pytest.fixture(scope="module")
def spec() -> Spec:
    return load_spec(WEATHER_SPEC, {})


@pytest.fixture(scope="module")
def oracle(spec: Spec) -> Oracle:
    """Every window of the weather file, found one event at a time."""
    [data] = demo_inputs(WEATHER_SPEC, ())
    with gzip.open(data, "rt") as file:
        rows = list(csv.DictReader(file))
    names = [feature.name for feature in spec.stream.features if not feature.calendar]
    events = [
        OracleEvent(
            row["origin"],
            iso_to_ms(row["time_hour"]),
            number,
            tuple(math.nan if row[name] == "NA" else float(row[name]) for name in names),
        )
        for number, row in enumerate(rows)
    ]
    events.sort(key=lambda event: event.time_ms)
    return Oracle(spec, live=False, contents=False).run(events)


def demo(output: Path, jars_dir: Path, *arguments: str) -> dict[str, Any]:
    done = subprocess.run(
        [sys.executable, "-m", "tidegauge", "demo", *arguments, "--output", str(output), "--json"],
        env=os.environ | {"TIDEGAUGE_HOME": str(jars_dir.parents[1])},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr[-2_000:] + done.stdout[-2_000:]
    found: dict[str, Any] = json.loads(done.stdout)
    return found


def test_the_demo_s_counts_are_the_oracle_s(spec: Spec, oracle: Oracle, tmp_path: Path, jars_dir: Path) -> None:
    quick = tmp_path / "weather.yaml"
    quick.write_text(re.sub(r"epochs: \d+", "epochs: 1", WEATHER_SPEC.read_text()))
    result = demo(tmp_path / "demo", jars_dir, "--spec", str(quick), "--input", *demo_inputs(WEATHER_SPEC, ()))

    step = spec.grid.step
    expected: dict[str, Counter[str]] = {name: Counter() for name in SPLITS}
    for window in oracle.windows:
        start = window.origin_step * step
        for name in SPLITS:
            first, end = spec.split.interval(name) if spec.split else (0, 0)
            if window.labelled and first <= start and start + spec.window.horizon * step <= end:
                expected[name][window.key] += 1
    assert result["windows"] == {name: dict(counts) for name, counts in expected.items()}
    assert min(sum(counts.values()) for counts in expected.values()) > 1_000

    outcomes = Counter(oracle.outcomes)
    stream = result["stream"]
    assert {name: stream[name] for name in ("used", "duplicate", "late")} == {
        name: outcomes[name] for name in ("used", "duplicate", "late")
    }
    assert stream["in"] == len(oracle.outcomes)
    assert result["predictions_read"] == stream["predictions"] == len(oracle.windows)
    assert result["predictions_doubled"] == 0
    for parity in (result["inputs_parity"], result["predictions_parity"]):
        assert parity["windows"] == parity["equal"] == len(oracle.windows)
    assert result["test_skill"] > 0
    assert result["live"]["mae"] == pytest.approx(result["test_mae"], rel=1e-4)
    assert result["holds"] is True
    assert (tmp_path / "demo" / "forecasts.png").stat().st_size > 10_000


@pytest.mark.slow
def test_the_demo_of_texts(tmp_path: Path, jars_dir: Path) -> None:
    result = demo(tmp_path / "demo", jars_dir, "--spec", str(WEATHER_SPEC.with_name("languages.yaml")))
    [data] = demo_inputs(WEATHER_SPEC.with_name("languages.yaml"), ())
    with gzip.open(data, "rt") as file:
        rows = len(list(csv.DictReader(file)))
    assert sum(result["documents"].values()) == rows == result["ingested"]["used"]
    test = result["documents"]["test"]
    assert [result["stream"][name] for name in ("in", "used", "predictions")] == [test] * 3
    assert (result["predictions_read"], result["predictions_doubled"]) == (test, 0)
    assert result["live_accuracy"] == pytest.approx(result["test_accuracy"], abs=1e-9)
    assert result["test_accuracy"] > 0.85
    assert result["holds"] is True


def test_a_spec_without_shipped_data_needs_inputs() -> None:
    with pytest.raises(InputError, match="expected --input"):
        demo_inputs(WEATHER_SPEC.with_name("ag_news.yaml"), ())
    assert demo_inputs(WEATHER_SPEC, ["mine.csv"]) == ["mine.csv"]
