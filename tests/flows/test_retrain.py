"""Retraining with the real model server: promoted, refused, killed, and what a person can read of it."""

from __future__ import annotations

import html
import json
import math
import shutil
import signal
import subprocess
import sys
import time
import uuid
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import psutil  # type: ignore[import-untyped]
import pytest
from kafka import KafkaProducer

import tidegauge
from deploy.local.ports import free_port
from deploy.local.stack import down
from deploy.local.state import claim
from flows.canary import CanaryFailed, try_out
from flows.local_stack import start_model_server
from flows.model_list import list_models
from flows.prune import prune
from flows.retrain import RetrainResult, retrain
from flows.retrain_folders import locked, run_folder, span_store
from flows.rollback import roll_back
from models import stored
from models.export import export
from models.registry import Registry
from models.version_files import identity_of
from schemas.dataset import DatasetFolder
from schemas.errors import InputError, ModelError
from schemas.retrain_spec import Gate
from schemas.settings_spec import Serving
from schemas.spec import Spec, parse_spec
from schemas.units import iso_to_ms
from streaming.serving_client import ServingClient
from streaming.topics import NewTopic, TopicAdmin
from tests.conftest import Kafka
from tests.models.conftest import HOUR_MS, KERAS_ON_NUMPY_2

pytestmark = pytest.mark.filterwarnings(KERAS_ON_NUMPY_2)

FIRST = ("1970-01-21", "1970-01-26")
SECOND = ("1970-01-26", "1970-01-31")
THIRD = ("1970-01-31", "1970-02-05")
FOURTH = ("1970-02-05", "1970-02-10")
DAY_MS = 24 * HOUR_MS


def rows(days: int) -> Iterator[tuple[str, int, float]]:
    """(site, time, load) of two sites, every hour, in the order of their times; it swings with the day."""
    rng = np.random.default_rng(5)
    for hour in range(24 * days):
        for number, site in enumerate(("north", "süd")):
            swing = 20 * math.sin(2 * math.pi * (hour + 3 * number) / 24)
            yield site, hour * HOUR_MS, round(100 * (number + 1) + swing + float(rng.normal()), 3)


@pytest.fixture(scope="module")
def events(tmp_path_factory: pytest.TempPathFactory) -> str:
    path = tmp_path_factory.mktemp("events") / "events.csv"
    path.write_text("site,time,load\n" + "".join(f"{site},{time_ms},{load}\n" for site, time_ms, load in rows(41)))
    return str(path)


@dataclass
class Loop:
    """A stream with a model server of its own."""

    root: Path
    spec: Spec
    events: str

    def run(self, interval: tuple[str, str], **options: Any) -> RetrainResult:
        spec = options.pop("spec", self.spec)
        return retrain(spec, **{"inputs": [self.events], "interval": interval, "quiet": True} | options)

    @property
    def registry(self) -> Registry:
        return Registry(self.spec.paths.models, self.spec.model_name)

    def served(self) -> int:
        with ServingClient(self.spec) as client:
            return client.wait_until_available(30)

    def folder(self, interval: tuple[str, str]) -> Path:
        return run_folder(self.spec, *map(iso_to_ms, interval))

    def card(self, interval: tuple[str, str]) -> str:
        return (self.folder(interval) / "card.html").read_text()


def loop_spec(folder: Path, address: str) -> Spec:
    features = [
        {"name": "load", "role": "target", "unit": "MW"},
        {"name": "time_of_day", "role": "future", "calendar": "time_of_day"},
    ]
    event_time = {"field": "time", "format": "epoch_ms"}
    return parse_spec(
        {
            "stream": {"name": "easy", "key": "site", "time": event_time, "features": features},
            "grid": {"step": "1h", "regular": True, "max_gap": 2},
            "window": {"past": 12, "horizon": 3},
            "model": {"family": "linear"},
            "retrain": {
                "interval": "5d",
                "range": "20d",
                "gate": {"first": {"persistence": 0.0}, "ratio": {"mae": 1.5}},
                "canary": {"requests": 5, "latency": "5s"},
                "wait": "60s",
            },
            "paths": {"state": str(folder / "state"), "models": str(folder / "models")},
            "serving": {"address": address},
        }
    )


@pytest.fixture(scope="module")
def loop(events: str, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Loop]:
    """A stream whose tests follow each other."""
    with served_loop(tmp_path_factory.mktemp("loop"), events) as started:
        yield started


@contextmanager
def served_loop(folder: Path, events: str) -> Iterator[Loop]:
    spec = loop_spec(folder, f"127.0.0.1:{free_port()}")
    state = claim(folder / "stack")
    start_model_server(spec, state)
    yield Loop(folder, spec, events)
    down(state)


class Killed(BaseException):
    """What no code of ours catches."""


def at(line: str) -> Callable[[str], None]:
    """Reports nothing, and dies when a line is reported."""

    def report(told: str) -> None:
        if told == line:
            raise Killed

    return report


def test_a_first_model_is_promoted_once(loop: Loop, capsys: pytest.CaptureFixture[str]) -> None:
    result = loop.run(FIRST)
    assert (result.outcome, result.exit_code, result.version, result.champion) == ("promoted", 0, 1, None)
    assert loop.served() == 1
    [record] = loop.registry.records()
    assert (record.event, record.version, record.reason) == ("promoted", 1, result.reason)
    assert record.interval == result.interval == ("1970-01-21T00:00:00Z", "1970-01-26T00:00:00Z")
    assert record.lineage is not None
    assert [span.partition("@")[0] for span in record.lineage.spans] == [
        "19691226T090000Z_19700121T000000Z",
        "19700121T000000Z_19700126T000000Z",
    ]

    # Neither training nor validation have seen a step of what it was gated on.
    splits = DatasetFolder(loop.folder(FIRST) / "dataset").manifest.splits
    assert splits["test"].first_origin_ms == iso_to_ms(FIRST[0])
    assert splits["validation"].last_origin_ms is not None
    assert splits["validation"].last_origin_ms + 3 * HOUR_MS == iso_to_ms(FIRST[0]) - (12 + 3) * HOUR_MS

    card = loop.card(FIRST)
    assert result.card is not None
    assert result.reason in html.unescape(card)
    for part in ("promoted as version 1", "Windows by the day", "Gate", "Canary", "19700121T000000Z_19700126T000000Z"):
        assert part in card
    assert "<script" not in card

    file = loop.root / "spec.yaml"
    file.write_text(json.dumps(_document(loop.spec)))
    command = ["retrain", "--spec", str(file), "--input", loop.events, "--as-of", "1970-01-30", "--json"]
    capsys.readouterr()
    assert tidegauge.main(command) == 3
    told = json.loads(capsys.readouterr().out)
    assert (told["outcome"], told["interval"]) == ("nothing_to_do", list(result.interval))
    assert told["reason"].startswith("promoted already: passed: windows: 236")
    assert tidegauge.main([*command, "--interval", *FIRST]) == 2
    assert "expected --interval or --as-of, not both" in capsys.readouterr().err
    assert loop.registry.versions() == [1]


def test_killed_at_every_step_and_with_the_server_down_it_ends_as_if_nothing_had_happened(loop: Loop) -> None:
    for step in ("spans", "dataset", "train", "champion", "gate", "canary"):
        with pytest.raises(Killed):
            loop.run(SECOND, report=at(f"── {step}"))
    dry = loop.run(SECOND, dry_run=True)
    assert (dry.outcome, dry.version, dry.champion, dry.final) == ("promoted", None, 1, False)

    down = loop.run(SECOND, spec=loop.spec.model_copy(update={"serving": Serving(address="127.0.0.1:9")}))
    assert (down.outcome, down.exit_code, down.final) == ("refused", 4, False)
    assert "the server: model 'easy' at 127.0.0.1:9: UNAVAILABLE" in down.reason
    assert down.reason in html.unescape(loop.card(SECOND))
    assert (loop.registry.champion(), loop.served()) == (1, 1)

    for line in ("── push", "   version 2", "── serve"):  # at the second the version is there, and no journal knows it
        with pytest.raises(Killed):
            loop.run(SECOND, report=at(line))
    result = loop.run(SECOND)
    assert (result.outcome, result.version, result.champion, result.reason) == ("promoted", 2, 1, dry.reason)
    assert loop.served() == 2
    assert [(one.event, one.version) for one in loop.registry.records()] == [("promoted", 1), ("promoted", 2)]
    assert not [path for path in loop.root.glob("state/retrain/**/*") if "unfinished" in path.name]
    assert canaries(loop.root) == []
    assert loop.run(SECOND).outcome == "nothing_to_do"


@pytest.mark.slow
def test_a_run_that_nothing_disturbed_ends_in_the_same_state(loop: Loop, tmp_path: Path) -> None:
    spec = loop_spec(tmp_path, loop.spec.serving.address)
    store = span_store(loop.spec).relative_to(loop.root)
    for interval in (FIRST, SECOND):
        loop.run(interval)
    shutil.copytree(loop.root / store, tmp_path / store)
    shutil.copytree(loop.registry.path(1), tmp_path / "models" / "easy" / "1")
    expected = loop.run(SECOND, spec=spec, dry_run=True)
    assert (expected.outcome, expected.champion) == ("promoted", 1)
    twin, folder = run_folder(spec, *map(iso_to_ms, SECOND)), loop.folder(SECOND)
    assert identity_of(twin / "run" / "export") == identity_of(folder / "run" / "export")
    assert DatasetFolder(twin / "dataset").digest == DatasetFolder(folder / "dataset").digest
    for place in ("run", "champion"):
        evaluations = [(one / place / "evaluation.json").read_bytes() for one in (twin, folder)]
        assert evaluations[0] == evaluations[1]


def canaries(folder: Path) -> list[int]:
    """The processes of model servers that serve something in a folder's runs."""
    mark = f"--model_base_path={folder / 'state' / 'retrain'}"
    return [
        process.pid
        for process in psutil.process_iter(["cmdline"])
        if any(part.startswith(mark) for part in process.info["cmdline"] or ())
    ]


@pytest.mark.slow
def test_a_model_that_answers_otherwise_than_in_its_evaluation_fails_as_a_canary(loop: Loop, tmp_path: Path) -> None:
    loop.run(FIRST)
    folder = loop.folder(FIRST)
    kept, settings = stored.load(folder / "run"), loop.spec.retrain.canary
    assert kept.state is not None
    for value, message in (
        (np.nan, "expected finite numbers, got 3 of 'mean'"),
        (1.0, "forecasts that were evaluated"),
    ):
        state = {**kept.state, "map": np.full_like(kept.state["map"], value)}
        weights = [np.full_like(array, value) for array in kept.model.get_weights()]
        export(kept.spec, kept.statistics, weights, to=tmp_path / str(value), lineage={}, state=state)
        with pytest.raises(CanaryFailed, match=message):
            try_out(kept.spec, tmp_path / str(value), folder / "run", folder / "dataset", tmp_path / "c", settings)
    hasty = settings.model_copy(update={"latency": 0})
    with pytest.raises(CanaryFailed, match=r"expected 95% of the answers within 0 ms \(\$.retrain.canary.latency\)"):
        try_out(kept.spec, folder / "run" / "export", folder / "run", folder / "dataset", tmp_path / "c", hasty)
    (tmp_path / "empty").mkdir()
    with pytest.raises(CanaryFailed, match=r"expected the model to be loaded within 3 s \(\$.retrain.canary.load\)"):
        try_out(
            kept.spec,
            tmp_path / "empty",
            folder / "run",
            folder / "dataset",
            tmp_path / "c",
            settings.model_copy(update={"load": 3_000}),
        )


@pytest.mark.slow
def test_a_warm_start_begins_with_the_champions_weights(events: str, tmp_path: Path) -> None:
    document = _document(loop_spec(tmp_path, "127.0.0.1:9")) | {
        "model": {"family": "mlp", "units": 8, "layers": 1},
        "training": {"epochs": 3, "learning_rate": 0.01},
    }
    document["retrain"] |= {"start": "warm"}
    loop = Loop(tmp_path, parse_spec(document), events)
    first = loop.run(FIRST, dry_run=True)
    assert first.outcome == "promoted"
    assert "new weights" in loop.card(FIRST)
    assert loop.registry.publish(loop.folder(FIRST) / "run", reason="by hand") == 1
    assert loop.run(SECOND, dry_run=True).champion == 1
    assert "the weights of version 1" in loop.card(SECOND)
    losses = [
        [json.loads(line)["val_loss"] for line in (loop.folder(one) / "run" / "metrics.jsonl").read_text().splitlines()]
        for one in (FIRST, SECOND)
    ]
    assert losses[1][0] < losses[0][0]
    # Weights that are not there any more are no reason not to train.
    shutil.rmtree(loop.folder(FIRST))
    assert loop.run(SECOND, dry_run=True, again=True).champion == 1
    assert "started cold: " in loop.card(SECOND)


@pytest.mark.slow
@pytest.mark.timeout(1_200)
def test_killed_by_the_system_at_any_time_it_ends_as_if_nothing_had_happened(
    loop: Loop, events: str, tmp_path: Path
) -> None:
    loop.run(FIRST)
    with served_loop(tmp_path, events) as other:
        file = tmp_path / "spec.yaml"
        file.write_text(json.dumps(_document(other.spec)))
        command = [sys.executable, "-m", "tidegauge", "retrain", "--spec", str(file), "--input", events]
        command += ["--interval", *FIRST]
        begun = 0
        while True:
            process = subprocess.Popen(command, stderr=subprocess.PIPE, text=True)
            assert process.stderr is not None
            steps = 0
            for line in process.stderr:
                steps += line.startswith(("── ", "   "))
                if steps > begun % 3:  # at the first, the second or the third thing that this run begins
                    time.sleep(0.3 * (begun % 5))
                    process.send_signal(signal.SIGKILL)
                    break
            process.stderr.close()
            code = process.wait(60)
            begun += 1
            assert code in (-signal.SIGKILL, 0, 3)
            if code != -signal.SIGKILL:
                break
        assert begun > 5
        until = time.monotonic() + 60
        while strays := canaries(tmp_path):
            assert time.monotonic() < until, strays
            time.sleep(0.2)
        assert (other.registry.versions(), other.served()) == ([1], 1)
        assert [one.event for one in other.registry.records()] == ["promoted"]
        assert identity_of(other.registry.path(1)) == identity_of(loop.registry.path(1))
        assert other.run(FIRST).outcome == "nothing_to_do"


def test_a_rollback_is_served(loop: Loop) -> None:
    for interval in (FIRST, SECOND):
        loop.run(interval)
    done = roll_back(loop.spec, reason="worse in production", bad=2)
    assert (done.version, done.rollback_of, done.restored) == (3, 2, 1)
    assert loop.served() == 3
    assert roll_back(loop.spec, reason="asked again", bad=2) == done
    found = list_models(loop.spec)
    assert [(one.version, one.state, one.event) for one in found.versions] == [
        (1, "kept", "promoted"),
        (2, "taken back", "promoted"),
        (3, "champion", "rolled back"),
    ]


@pytest.mark.slow
def test_what_was_taken_back_is_not_promoted_again(loop: Loop) -> None:
    for interval in (FIRST, SECOND):
        loop.run(interval)
    if loop.registry.champion() == 2:
        roll_back(loop.spec, reason="worse in production")
    again = loop.run(SECOND, again=True)
    assert (again.outcome, again.final) == ("refused", True)
    assert again.reason == "the same model was taken back before: worse in production"
    assert loop.registry.records()[-1].event == "refused"
    assert (loop.registry.champion(), loop.served()) == (3, 3)
    assert list_models(loop.spec).lines()[-1].endswith(again.reason)


def test_a_candidate_that_is_no_number_is_refused(loop: Loop) -> None:
    document = _document(loop.spec) | {
        "model": {"family": "mlp", "units": 4, "layers": 1},
        "training": {"learning_rate": 1e30, "clip": "none", "epochs": 1},
    }
    served = loop.served()
    nan = loop.run(THIRD, spec=parse_spec(document))
    assert (nan.outcome, nan.exit_code, nan.final) == ("refused", 4, True)
    assert "the candidate: epoch 1: expected a finite loss, got" in nan.reason
    assert nan.reason in html.unescape(loop.card(THIRD))
    assert loop.registry.records()[-1].reason == nan.reason
    assert (loop.registry.champion(), loop.served()) == (served, served)


@pytest.mark.slow
def test_a_candidate_that_is_not_good_enough_is_refused(loop: Loop) -> None:
    gate = Gate(ratio={"mae": 0.01}, min_windows=1_000)
    strict = loop.spec.model_copy(update={"retrain": loop.spec.retrain.model_copy(update={"gate": gate})})
    loop.run(FIRST)
    worse = loop.run(FOURTH, spec=strict)
    assert (worse.outcome, worse.exit_code, worse.final) == ("refused", 4, True)
    assert worse.reason.startswith("the gate: windows: 236, expected at least 1000; mae / champion's: ")
    assert worse.reason in html.unescape(loop.card(FOURTH))
    assert "FAILED" in loop.card(FOURTH)


def test_a_broken_span_is_refused(loop: Loop) -> None:
    with pytest.raises(Killed):
        loop.run(FOURTH, report=at("── dataset"))
    [shard] = span_store(loop.spec).glob("spans/19700205*/train-*")
    whole = shard.read_bytes()
    shard.write_bytes(whole[:-1] + b"?")
    served = loop.served()
    broken = loop.run(FOURTH)
    assert (broken.outcome, broken.exit_code, broken.final) == ("refused", 4, False)
    assert "is not the file that was ingested (its sha256 differs)" in broken.reason
    assert broken.reason in html.unescape(loop.card(FOURTH))
    assert (loop.registry.champion(), loop.served()) == (served, served)
    with pytest.raises(Killed):
        loop.run(FOURTH, report=at("── train"))
    assert shard.read_bytes() == whole  # it was ingested again


def test_a_topic_with_missing_days_is_refused(loop: Loop, kafka: Kafka, tmp_path: Path) -> None:
    hole = (iso_to_ms("1970-01-23"), iso_to_ms("1970-01-25"))
    settings = {
        "paths": {"state": str(tmp_path / "state"), "models": loop.spec.paths.models},
        "kafka": {"bootstrap_servers": kafka.bootstrap, "input": {"name": f"missing-{uuid.uuid4().hex[:8]}"}},
    }
    spec = parse_spec(_document(loop.spec) | settings)
    with TopicAdmin(kafka.bootstrap) as admin:
        admin.create([NewTopic(spec.topics.input.name, 1, {"retention.ms": "-1"})])
    with KafkaProducer(bootstrap_servers=kafka.bootstrap, linger_ms=50, retry_backoff_ms=5) as producer:
        for site, time_ms, load in rows(30):
            if not hole[0] <= time_ms < hole[1]:
                value = json.dumps({"site": site, "time": time_ms, "load": load}).encode()
                producer.send(spec.topics.input.name, value=value, key=site.encode(), timestamp_ms=time_ms)
    result = retrain(spec, as_of="1970-01-27", quiet=True)
    assert result.interval == ("1970-01-21T00:00:00Z", "1970-01-26T00:00:00Z")
    assert (result.outcome, result.exit_code, result.final) == ("refused", 4, False)
    assert result.reason.startswith("the data: expected at least 80% of 236 windows of 2 keys in the interval")
    assert result.reason.endswith("got 134; none on 1970-01-23, 1970-01-24")
    assert result.card is not None
    assert result.reason in html.unescape(Path(result.card).read_text())


def test_runs_of_a_stream_lock_each_other_out(loop: Loop) -> None:
    with locked(loop.spec) as free:
        assert free
        busy = loop.run(FOURTH)
        with pytest.raises(ModelError, match="expected no retraining run while pruning"):
            prune(loop.spec, dry_run=True)
    assert (busy.outcome, busy.exit_code) == ("busy", 5)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"interval": ("soon", "1970-01-26")}, "expected an ISO 8601 time, got 'soon'"),
        ({"interval": ("1970-01-26", "1970-01-21")}, "expected a start before the end"),
        ({"interval": ("1970-01-21T00:30:00", "1970-01-26")}, "expected the start of a step"),
        ({"as_of": "1970-01-21"}, "expected --interval or --as-of, not both"),
        ({"inputs": ["nothing/*.csv"]}, "nothing"),
    ],
)
def test_bad_input_begins_nothing(options: dict[str, Any], message: str, tmp_path: Path) -> None:
    spec = loop_spec(tmp_path, "127.0.0.1:1")
    with pytest.raises(InputError, match=message):
        retrain(spec, **{"interval": FIRST, "inputs": ["nothing.csv"]} | options)
    assert not list(tmp_path.glob("state/retrain/easy/*"))


def _document(spec: Spec) -> dict[str, Any]:
    return spec.model_dump(mode="json", exclude_defaults=True)
