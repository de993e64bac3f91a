"""Sizes for a load: by hand, monotone, whole; and the document that tells them."""

from __future__ import annotations

import json
import math
from dataclasses import replace
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from deploy.capacity.costs import ConsumerCosts, Costs, ModelCosts, RecordBytes, load_costs
from deploy.capacity.sizes import Limits, sizes, turn
from deploy.capacity.tables import tables
from deploy.capacity.work import Load, Work, work_of
from schemas.errors import InputError
from schemas.spec import load_spec
from tests.test_tidegauge import WEATHER, complaint
from tidegauge import main

ROUND = Costs(
    machine="a machine of round numbers",
    cores=2,
    measured="2020-01-01",
    consumer=ConsumerCosts(
        turn_us=10_000,
        key_us=100,
        event_us=5,
        number_us=1,
        window_us=10,
        cell_us=0.1,
        output_us=0.5,
        replay_us=20,
        process_bytes=100e6,
        key_bytes=1_000,
    ),
    models={"lstm": ModelCosts(request_us=1_000, step_us=2)},
    bytes=RecordBytes(event=50, number=10, prediction=400, output=5),
    ingest_us=1,
)
RATES, KEYS = st.floats(0.1, 1e8), st.floats(1, 1e10)
WORKS = st.builds(
    Work,
    past=st.integers(1, 2_000),
    features=st.integers(1, 50),
    stride=st.integers(1, 24),
    max_gap=st.integers(0, 10),
    poll_events=st.integers(1, 10_000),
    step_s=st.none() | st.floats(0.01, 86_400),
    forgotten_s=st.none() | st.floats(1, 1e7),
)


def test_a_turn_by_hand() -> None:
    work = Work(numbers=3, features=4, past=10, outputs=20, poll_events=1_000, request_windows=250)
    one = turn(work, ROUND, Limits(server_cores=2), keys=50, windows_per_event=0.5)
    assert dict(one.seconds) == pytest.approx(
        {
            "commits": 0.010,
            "keys": 50 * 100e-6,
            "events": 1_000 * (5 + 3) * 1e-6,
            "windows": 500 * (10 + 40 * 0.1 + 20 * 0.5) * 1e-6,
            "model": (2 * 1_000 + 500 * 10 * 2) * 1e-6 / 2,
        }
    )
    assert one.events_per_s == pytest.approx(1_000 / 0.041)


def test_sizes_by_hand() -> None:
    """41 ms a turn as above, of every consumer, since each has more than enough keys for the turn."""
    work = Work(numbers=3, features=4, past=10, outputs=20, stride=2, poll_events=1_000, request_windows=250)
    limits = Limits(utilisation=0.505, server_cores=2, consumer_bytes=1.1e9, replication=3)
    costs = ROUND.model_copy(update={"consumer": ROUND.consumer.model_copy(update={"key_us": 5.0})})
    found = sizes(Load(events_per_s=1e6, keys=1e6), work, costs, limits)
    assert found.consumer_events_per_s == pytest.approx(1_000 / 0.041)
    assert found.consumers == 82  # 1e6 / (1_000 / 0.041) / 0.505 = 81.2
    assert found.partitions == 256
    assert found.windows_per_s == 500_000
    assert found.requests_per_s == pytest.approx(2_000)
    assert found.server_cores == pytest.approx(2_000 * 1e-3 + 500_000 * 10 * 2e-6)
    assert found.servers == 12
    assert found.broker_in_bytes_per_s == pytest.approx(1e6 * 80 + 500_000 * 500)
    assert found.brokers == 10  # 330 MB/s, three times
    assert found.replay_events == pytest.approx(1e6 * 11 / 82)
    assert found.replay_s == pytest.approx(found.replay_events * 20e-6)
    assert found.state_bytes == pytest.approx(1e6 * (1_000 + 11 * (5 * 4 + 8)))
    assert found.flink_slots == 24  # a day in an hour, a microsecond each
    assert found.breaks_first == "windows"
    few = replace(limits, consumer_bytes=101e6)
    assert sizes(Load(events_per_s=1e6, keys=1e6), work, costs, few).breaks_first == "memory"


@given(WORKS, RATES, KEYS, st.floats(1, 100), st.booleans())
def test_more_load_never_takes_less(work: Work, rate: float, keys: float, times: float, more_events: bool) -> None:
    less = Load(events_per_s=rate, keys=keys)
    more = Load(events_per_s=rate * times, keys=keys) if more_events else Load(events_per_s=rate, keys=keys * times)
    small, large = (sizes(load, work, ROUND, Limits()) for load in (less, more))
    for part in ("consumers", "partitions", "servers", "brokers", "flink_slots", "state_bytes", "windows_per_s"):
        assert getattr(large, part) >= getattr(small, part) * (1 - 1e-9), part


@given(WORKS, RATES, KEYS, st.floats(0.05, 1.0))
def test_parts_are_as_few_as_suffice(work: Work, rate: float, keys: float, utilisation: float) -> None:
    found = sizes(Load(events_per_s=rate, keys=keys), work, ROUND, Limits(utilisation=utilisation))
    capacity = found.consumers * found.consumer_events_per_s * utilisation
    assert capacity >= rate * (1 - 1e-9)
    assert found.consumer_bytes <= Limits().consumer_bytes * (1 + 1e-9)
    assert found.partitions >= max(4, 2 * found.consumers)
    assert math.log2(found.partitions).is_integer()
    assert found.servers * 4 * utilisation >= found.server_cores * (1 - 1e-9)
    assert sum(found.shares.values()) == pytest.approx(1)


@given(RATES, KEYS, st.floats(1.1, 100))
def test_a_machine_that_is_slower_takes_more(rate: float, keys: float, times: float) -> None:
    consumer = {name: value * times for name, value in ROUND.consumer if name.endswith("_us")}
    slower = ROUND.model_copy(update={"consumer": ROUND.consumer.model_copy(update=consumer)})
    work, load = Work(), Load(events_per_s=rate, keys=keys)
    fast, slow = (sizes(load, work, costs, Limits()) for costs in (ROUND, slower))
    assert slow.consumers >= fast.consumers
    assert slow.replay_s * slow.consumers == pytest.approx(fast.replay_s * fast.consumers * times)


def test_the_spec_says_what_an_event_makes() -> None:
    spec = load_spec(WEATHER)
    work = work_of(spec)
    assert (work.past, work.numbers, work.poll_events) == (168, 9, 2_000)
    hourly = Load(events_per_s=1_000, keys=3.6e6)
    assert work.windows_per_event(hourly) == pytest.approx(1)
    assert work.windows_per_event(replace(hourly, keys=3.6e5)) == pytest.approx(0.1)  # ten events share a step
    assert work.windows_per_event(replace(hourly, keys=3.6e6 * 1.3)) == pytest.approx(1.3)  # gaps are filled
    assert work.windows_per_event(replace(hourly, keys=3.6e7)) == 0  # 120 of 168 steps are never observed
    assert work.live_keys(hourly) == 3.6e6 * 0 + min(3.6e6, 1_000 * (3_600 + 175 * 3_600))
    assert work.window_events(hourly) == 3.6e6 * 175


def test_what_costs_are_not_known_must_be_told(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    forest = Work(family="forest")
    with pytest.raises(InputError, match=r"family 'forest': expected one of lstm, or --window-us"):
        sizes(Load(events_per_s=1, keys=1), forest, ROUND, Limits())
    assert sizes(Load(events_per_s=1, keys=1), forest, ROUND, Limits(window_us=100)).consumers == 1
    file = tmp_path / "costs.json"
    file.write_text(json.dumps(ROUND.model_dump() | {"cores": "two"}))
    load = ("--events-per-second", "1e5", "--keys", "1e6")
    [line] = complaint(capsys, "capacity", *load, "--costs", str(file))
    assert "$.cores" in line
    [line] = complaint(capsys, "capacity", *load, "--consumer-mib", "64")
    assert "expected at least" in line


def test_the_verb_tells_the_same_to_people_and_machines(capsys: pytest.CaptureFixture[str]) -> None:
    load = ("--events-per-second", "1e5", "--keys", "1e6")
    assert main(["capacity", *load, "--json"]) == 0
    document = json.loads(capsys.readouterr().out)
    assert main(["capacity", *load]) == 0
    said = capsys.readouterr().out
    assert f"{document['consumers']:,}" in said.splitlines()[0]
    assert f"breaks first: {document['breaks_first']}" in said
    assert load_costs().machine in said


def test_the_tables_of_the_document_are_those_of_the_shipped_costs() -> None:
    text = Path("docs/scale.md").read_text()
    for table in tables(load_costs()):
        assert table in text
