"""The closed loop as a user watches it: a change of the world, a better model, a bad one, and not a prediction lost."""

from __future__ import annotations

import csv
import gzip
import json
import os
import subprocess
import sys
from collections import Counter, defaultdict
from pathlib import Path
from typing import Any

import pytest

from flows.demo_parts import WEATHER_LOOP_SPEC, WEATHER_SPEC, demo_inputs
from flows.history import History
from flows.regime_change import RegimeChange
from flows.simulate import simulate
from models.registry import Registry
from schemas.errors import InputError, SpecError
from schemas.spec import load_spec
from schemas.units import iso_to_ms

HOUR_MS = 3_600_000


@pytest.fixture(scope="module")
def simulated(tmp_path_factory: pytest.TempPathFactory, jars_dir: Path) -> tuple[dict[str, Any], Path]:
    output = tmp_path_factory.mktemp("simulated") / "simulation"
    done = subprocess.run(
        [sys.executable, "-m", "tidegauge", "simulate", "--output", str(output), "--json"],
        env=os.environ | {"TIDEGAUGE_HOME": str(jars_dir.parents[1])},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr[-4_000:] + done.stdout[-4_000:]
    return json.loads(done.stdout), output


@pytest.mark.slow
def test_the_loop_finds_a_better_model_and_takes_a_bad_one_back(simulated: tuple[dict[str, Any], Path]) -> None:
    result, output = simulated
    assert result["holds"] is True

    # Errors rise with the change and drift is told; then a version that was retrained on it answers, and they fall.
    assert result["error_changed"] > 1.5 * result["error_before"]
    told = [one for one in result["triggers"] if one["time_ms"] > result["change_ms"]]
    assert told[0]["kind"] in ("input_drift", "error_drift")
    assert result["error_after"] < 0.7 * result["error_changed"]
    assert 0 < result["ms_to_better"] <= 5 * 7 * 24 * HOUR_MS
    assert told[0]["time_ms"] < result["change_ms"] + result["ms_to_better"]

    # The bad one is taken back on as many windows as are set, and what answers then is as good as before.
    assert result["probation_windows"] == result["probation_wanted"] == 120
    assert result["restored"] == result["better"]
    assert result["error_sabotaged"] > 1.5 * result["error_after"]
    assert result["error_restored"] < 0.7 * result["error_sabotaged"]

    # The registry says why each version is there.
    spec = load_spec(output / "spec.yaml", {})
    records = Registry(spec.paths.models, spec.model_name).records()
    reasons = {(one.event, one.version): one.reason for one in records}
    refused = [one.reason for one in records if one.event == "refused"]
    assert any("the gate: skill against persistence" in reason for reason in refused)  # with nothing of the new world
    assert "mae / champion's" in reasons["promoted", result["better"]]
    assert "of persistence's" in reasons["confirmed", result["better"]]
    assert reasons["pushed", result["sabotaged"]] == "a sabotaged model, pushed by hand"
    assert "on 120 windows that both predicted" in reasons["rolled_back", result["sabotaged"] + 1]
    assert (output / "simulation.png").stat().st_size > 10_000


@pytest.mark.slow
def test_no_prediction_is_lost_or_doubled_while_versions_change(simulated: tuple[dict[str, Any], Path]) -> None:
    """Against a naive count of the windows that the file has."""
    result, _ = simulated
    [data] = demo_inputs(WEATHER_SPEC, ())
    seen: defaultdict[str, dict[int, bool]] = defaultdict(dict)
    with gzip.open(data, "rt") as file:
        for row in csv.DictReader(file):
            seen[row["origin"]][iso_to_ms(row["time_hour"])] = row["temp"] != "NA"
    expected: Counter[str] = Counter()
    for key, hours in seen.items():
        newest = max(time_ms for time_ms in hours if time_ms <= result["end_ms"])
        for origin_ms in range(result["begin_ms"] + HOUR_MS, newest + 2 * HOUR_MS, HOUR_MS):
            past = [hours.get(origin_ms - back * HOUR_MS, False) for back in range(1, 25)]
            expected[key] += sum(past) >= 18 and any(past[:7])
    assert result["predictions"]["windows"] == result["predictions"]["equal"] == expected.total()
    assert sum(one["windows"] for one in result["served"]) == expected.total()
    assert result["lost"] == result["doubled"] == result["failed"] == 0
    assert len(result["served"]) >= 4  # the first, the better, the bad and what it was replaced by


def test_a_change_moves_the_targets_of_every_series_from_its_time_on() -> None:
    spec = load_spec(WEATHER_LOOP_SPEC, {})
    history = History.read(spec, demo_inputs(WEATHER_SPEC, ()))
    at_ms = iso_to_ms("2013-06-01")
    change = RegimeChange.of(spec, history, at_ms, 2.0)
    changed = change.applied(spec, history)
    moved = changed.values - history.values
    later = history.time_ms >= at_ms
    known = moved[:, 0] == moved[:, 0]
    assert set(moved[later & known, 0].round(6)) == {change.offsets["temp"]}
    assert not moved[~later & known, 0].any()
    assert (moved[:, 1:] == 0)[moved[:, 1:] == moved[:, 1:]].all()
    assert 20 < change.offsets["temp"] < 50  # two standard deviations of a half-year in New York, degF


def test_what_is_asked_of_the_user(tmp_path: Path) -> None:
    with pytest.raises(SpecError, match=r"\$\.serving\.shadow: expected it"):
        simulate(WEATHER_SPEC, demo_inputs(WEATHER_SPEC, ()), output=tmp_path / "bare")
    few = tmp_path / "few.csv"
    with gzip.open(demo_inputs(WEATHER_SPEC, ())[0], "rt") as file:
        few.write_text("".join(file.readlines()[:100]))
    with pytest.raises(InputError, match="expected events until"):
        simulate(WEATHER_LOOP_SPEC, [str(few)], output=tmp_path / "few")
