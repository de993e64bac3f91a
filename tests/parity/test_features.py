"""Every kind of feature, from a file: the tensors for training, those of live requests, and the oracle's agree."""

from __future__ import annotations

import csv
import math
import random
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any
from zoneinfo import ZoneInfo

import numpy as np
import pytest

from flows.verify import live_windows, training_windows, verify_dataset
from models.reader import windows
from pipelines.ingest import ingest
from schemas.dataset import DatasetFolder
from schemas.spec import Spec
from tests.oracle import Oracle, OracleEvent
from tests.specs import tiny_spec

BERLIN = ZoneInfo("Europe/Berlin")
KINDS = ("sun", "rain", "true")
AREA = {"a": 12.5, "b": 3}

FEATURES: list[dict[str, Any]] = [
    {"name": "area", "role": "static", "table": AREA},
    {"name": "floors", "role": "static", "type": "integer"},
    {"name": "load", "role": "target", "aggregate": "mean"},
    {"name": "sky", "role": "past", "type": "category", "categories": list(KINDS)},
    {"name": "sky_events", "role": "past", "field": "sky", "type": "category", "categories": list(KINDS),
     "aggregate": "count"},
    {"name": "price", "role": "future", "lead": 5, "fill": "none"},
    {"name": "hour", "role": "future", "calendar": "time_of_day", "zone": "Europe/Berlin"},
    {"name": "people", "role": "past", "type": "integer", "aggregate": "sum"},
]  # fmt: skip


LABELLED = [
    {**feature, "role": {"load": "past", "sky": "label"}.get(feature["name"], feature["role"])}
    for feature in FEATURES
    if feature["name"] != "sky_events"
]


def feature_spec(features: list[dict[str, Any]] = FEATURES) -> Spec:
    return tiny_spec(
        stream={
            "features": features,
            "time": {"field": "time", "format": "iso8601", "zone": "Europe/Berlin"},
        },
        grid={"step": "30min", "max_gap": 2, "lateness": "10min"},
        window={"past": 7, "horizon": 4},
    )


def rows() -> list[dict[str, str]]:
    """Five days around the end of daylight saving: local times without an offset, gaps, unknown and missing values."""
    draw = random.Random(3)
    table = []
    for key in ("a", "b", "c"):
        moment = datetime(2021, 10, 29, tzinfo=UTC)
        while moment < datetime(2021, 11, 3, tzinfo=UTC):
            moment += timedelta(minutes=draw.choice([7, 20, 30, 30, 30, 95]))
            table.append({
                "time": moment.astimezone(BERLIN).replace(tzinfo=None).isoformat(sep=" "),
                "key": key,
                "floors": draw.choice(["", "3", "4.0"]),
                "load": draw.choice(["NA", "1.5", "-2e3", "0.1"]),
                "sky": draw.choice(["", *KINDS, "fog", "Sun"]),
                "price": draw.choice(["NaN", "7", "8.25"]),
                "people": draw.choice(["null", "0", "16777216", "5"]),
            })  # fmt: skip
    return sorted(table, key=lambda row: row["time"])


def number(text: str) -> float:
    return math.nan if text in ("", "NA", "NaN", "null") else float(text)


def oracle_events(table: list[dict[str, str]]) -> list[OracleEvent]:
    """The events as the rules say: of a local time that is there twice the first, whichever row it is."""
    events = []
    for position, row in enumerate(table):
        local = datetime.fromisoformat(row["time"]).replace(tzinfo=BERLIN, fold=0)
        sky = math.nan if row["sky"] == "" else float((*KINDS, row["sky"]).index(row["sky"]))
        values = (AREA.get(row["key"], math.nan), number(row["floors"]), number(row["load"]), sky, sky,
                  number(row["price"]), number(row["people"]))  # fmt: skip
        events.append(OracleEvent(row["key"], round(local.timestamp() * 1000), position, values))
    return sorted(events, key=lambda event: (event.time_ms, event.position))


@pytest.fixture(scope="module")
def ingested(tmp_path_factory: pytest.TempPathFactory) -> tuple[Spec, list[dict[str, str]], Path, DatasetFolder]:
    folder = tmp_path_factory.mktemp("features")
    table, path, spec = rows(), folder / "events.csv", feature_spec()
    with path.open("w", newline="") as file:
        writer = csv.DictWriter(file, list(table[0]))
        writer.writeheader()
        writer.writerows(table)
    ingest(spec, inputs=[str(path)], output=str(folder / "dataset"), all_origins=True)
    return spec, table, path, DatasetFolder(folder / "dataset")


def test_training_and_live_agree(ingested: tuple[Spec, list[dict[str, str]], Path, DatasetFolder]) -> None:
    spec, _, path, folder = ingested
    parity = verify_dataset(spec, [str(path)], folder)
    assert parity.holds, parity.lines()
    assert parity.windows > 200
    _, live = next(live_windows(spec, [str(path)]))
    assert {name: array.shape for name, array in live.items()} == {
        "past_values": (7, 8),
        "past_observed": (7, 8),
        "future_values": (4, 2),
        "static_values": (2,),
    }


def test_training_has_what_the_oracle_has(ingested: tuple[Spec, list[dict[str, str]], Path, DatasetFolder]) -> None:
    spec, table, _, folder = ingested
    oracle = Oracle(spec, live=False).run(oracle_events(table))
    found = dict(training_windows(folder))
    assert len(found) == len(oracle.windows)
    for window in oracle.windows:
        of_reader = found[window.key, window.origin_step * spec.grid.step]
        for name, expected in (
            ("past_values", window.values),
            ("past_observed", window.observed),
            ("future_values", window.future),
            ("static_values", window.static),
        ):
            np.testing.assert_array_equal(of_reader[name], np.array(expected), err_msg=name)
    assert folder.manifest.events.dead == 0
    statics = np.array([window.static for window in oracle.windows])
    assert np.isnan(statics[:, 0]).any()  # key c is in no table
    assert len(np.unique(statics[~np.isnan(statics).any(axis=1)], axis=0)) >= 4


def test_a_label_is_of_the_horizon_and_no_input(
    ingested: tuple[Spec, list[dict[str, str]], Path, DatasetFolder], tmp_path: Path
) -> None:
    """Live windows of events without labels are those that training has."""
    _, table, path, _ = ingested
    spec = feature_spec(LABELLED)
    ingest(spec, inputs=[str(path)], output=str(tmp_path / "dataset"), all_origins=True)
    folder = DatasetFolder(tmp_path / "dataset")
    events = [replace(event, values=(*event.values[:4], *event.values[5:])) for event in oracle_events(table)]
    oracle = Oracle(spec, live=False).run(events)
    found = {
        (key.decode(), origin_ms // spec.grid.step): (past, label)
        for batch in windows(folder, "all", batch_size=64).as_numpy_iterator()
        for key, origin_ms, past, label in zip(
            batch["key"], batch["origin_ms"], batch["past_values"], batch["label"], strict=True
        )
    }
    assert len(found) == len(oracle.windows) > 200
    for window in oracle.windows:
        past, label = found[window.key, window.origin_step]
        np.testing.assert_array_equal(past, np.array(window.values))
        assert label == window.label
    assert {window.label for window in oracle.windows} == {-1, 0, 1, 2}

    unlabelled = tmp_path / "live.csv"
    with unlabelled.open("w", newline="") as file:
        writer = csv.DictWriter(file, list(table[0]))
        writer.writeheader()
        writer.writerows({**row, "sky": ""} for row in table)
    parity = verify_dataset(spec, [str(unlabelled)], folder)
    assert parity.holds, parity.lines()
