"""The schedule: what it starts, when, and what it does not start twice."""

from __future__ import annotations

import json
import subprocess
import sys
import threading
import time
import uuid
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any
from zoneinfo import ZoneInfo

import pytest
import yaml
from hypothesis import given, settings
from hypothesis import strategies as st
from kafka import KafkaProducer

from flows.cron import delay_ms, due_times, next_due_ms, times_after
from flows.schedule import Scheduler
from schemas.errors import InputError, SpecError
from schemas.schedule_spec import Schedule
from schemas.spec import Spec
from schemas.trigger import Trigger
from schemas.units import datetime_to_ms, iso_to_ms
from streaming.topics import NewTopic, TopicAdmin, connect
from tests.conftest import Kafka
from tests.specs import tiny_spec

MINUTE_MS = 60_000
HOUR_MS = 60 * MINUTE_MS


def now_ms() -> int:
    return time.time_ns() // 10**6


# --- cron times ---


@given(
    minute=st.integers(0, 59),
    hour=st.integers(0, 23),
    zone=st.sampled_from(["UTC", "Asia/Kolkata", "America/New_York"]),
    begin=st.integers(0, 360),
    days=st.integers(1, 4),
)
@settings(max_examples=40, deadline=None)
def test_daily_times_are_those_that_the_clock_on_the_wall_shows(
    minute: int, hour: int, zone: str, begin: int, days: int
) -> None:
    """Against a walk over every minute; but for the nights in which clocks are changed."""
    schedule = Schedule(cron=f"{minute} {hour} * * *", zone=zone)
    start = datetime(2025, 1, 1, tzinfo=UTC) + timedelta(days=begin)
    end = start + timedelta(days=days)
    minutes = (start + timedelta(minutes=n) for n in range(1, days * 1440 + 1))
    local = ((moment, moment.astimezone(ZoneInfo(zone))) for moment in minutes)
    wanted = [datetime_to_ms(moment) for moment, there in local if (there.hour, there.minute) == (hour, minute)]
    found = due_times(schedule, "s", datetime_to_ms(start), datetime_to_ms(end))
    changes = {iso_to_ms(day) for day in ("2025-03-09", "2025-11-02")}
    if not any(datetime_to_ms(start) <= day <= datetime_to_ms(end) + 86_400_000 for day in changes):
        assert found == wanted


@given(st.integers(0, 10**7), st.integers(0, 10**6), st.integers(0, 10**6))
@settings(max_examples=50, deadline=None)
def test_every_time_is_due_once_and_after_its_delay(jitter: int, one: int, other: int) -> None:
    """However often it is looked."""
    schedule = Schedule(cron="*/7 * * * *", jitter=f"{jitter}ms")
    begin, looks = 1_700_000_000_000, sorted((one, other, 20 * 7 * MINUTE_MS + 2 * jitter))
    after, found = begin, []
    for look in looks:
        due = due_times(schedule, "s", after, begin + look)
        assert all(time_ms + delay_ms(schedule, "s", time_ms) <= begin + look for time_ms in due)
        after = due[-1] if due else after
        found += due
        following = next_due_ms(schedule, "s", after)
        assert following is not None
        assert following > begin + look
    times = times_after(schedule, begin)
    assert found == [next(times) for _ in found]
    assert len(found) >= 19
    assert 0 <= delay_ms(schedule, "s", begin) <= jitter


def test_a_delay_is_the_same_after_a_restart_and_another_for_another_stream() -> None:
    schedule = Schedule(cron="0 3 * * *", jitter="1h")
    streams = [delay_ms(schedule, f"stream {n}", 1_700_000_000_000) for n in range(50)]
    assert streams == [delay_ms(schedule, f"stream {n}", 1_700_000_000_000) for n in range(50)]
    assert len(set(streams)) == 50
    assert max(streams) - min(streams) > 0.8 * HOUR_MS


# --- what is started ---

STUB = """
import json, signal, sys, time
from pathlib import Path
folder = Path(sys.argv[1])
with (folder / "log").open("a") as log:
    log.write(json.dumps(sys.argv[2:]) + "\\n")
def end(*_):
    (folder / "ended").touch()
    sys.exit(130)
signal.signal(signal.SIGTERM, end)
(folder / "started").touch()
answers = json.loads((folder / "answers.json").read_text())
answer = answers[sys.argv[2]]
time.sleep(answer.get("seconds", 0))
sys.exit(answer["code"])
"""


class Workshop:
    """A folder with a program in place of `tidegauge`, which notes how it was called and ends as it is told."""

    def __init__(self, folder: Path, retrain: dict[str, Any], **sections: Any) -> None:
        self.folder = folder
        name = f"s-{uuid.uuid4().hex[:8]}"
        paths = {"state": str(folder / "state"), "models": str(folder / "models")}
        self.spec: Spec = tiny_spec(stream={"name": name}, retrain=retrain, paths=paths, **sections)
        self.file = folder / "state" / "retrain" / name / "schedule.json"
        (folder / "stub.py").write_text(STUB)
        self.answer()

    def answer(self, retrain: int = 0, probation: int = 3, seconds: float = 0) -> None:
        answers = {"retrain": {"code": retrain, "seconds": seconds}, "probation": {"code": probation}}
        (self.folder / "answers.json").write_text(json.dumps(answers))

    def remember(self, **dealt: Any) -> None:
        self.file.parent.mkdir(parents=True, exist_ok=True)
        self.file.write_text(json.dumps({"cron_ms": now_ms()} | dealt))

    def remembers(self) -> dict[str, Any]:
        found: dict[str, Any] = json.loads(self.file.read_text())
        return found

    def scheduler(self, stopping: threading.Event | None = None, inputs: tuple[str, ...] = ()) -> Scheduler:
        program = [sys.executable, str(self.folder / "stub.py"), str(self.folder)]
        return Scheduler(self.spec, Path("spec.yaml"), inputs=inputs, program=program, stopping=stopping)

    def once(self) -> list[list[str]]:
        """Looks once; what was started, without the spec."""
        log = self.folder / "log"
        log.unlink(missing_ok=True)
        self.last = self.scheduler()
        self.last.run(once=True)
        calls = [json.loads(line) for line in log.read_text().splitlines()] if log.exists() else []
        assert all(call[1:3] == ["--spec", "spec.yaml"] for call in calls)
        return [[call[0], *call[3:]] for call in calls]


@pytest.mark.parametrize(("catch_up", "hours"), [("none", []), ("latest", [1]), ("all", [3, 2, 1])])
def test_times_that_were_missed_are_made_up_for_as_the_spec_says(
    catch_up: str, hours: list[int], tmp_path: Path
) -> None:
    now = now_ms()
    minute = (now // MINUTE_MS - 10) % 60  # ten minutes ago, and each hour before
    last = (now // MINUTE_MS - 10) * MINUTE_MS
    rule = {"cron": f"{minute} * * * *", "catch_up": catch_up, "look": "1s"}
    workshop = Workshop(tmp_path, {"schedule": rule})
    assert workshop.once() == []  # the first schedule begins now
    workshop.remember(cron_ms=last - 3 * HOUR_MS)
    times = [last - (hour - 1) * HOUR_MS for hour in hours]
    calls = workshop.once()
    assert [call[:2] for call in calls] == [["retrain", "--as-of"]] * len(hours)
    assert [iso_to_ms(call[2]) for call in calls] == times
    assert workshop.remembers()["cron_ms"] == last
    assert workshop.once() == []


def test_what_came_of_a_run(tmp_path: Path) -> None:
    """A run that finds another one under way waits for it; one that fails is told, and waits for its next time."""
    workshop = Workshop(tmp_path, {"schedule": {"cron": "* * * * *"}, "probation": {}})
    before = now_ms() - 10 * MINUTE_MS
    workshop.remember(cron_ms=before)
    workshop.answer(retrain=5)
    assert [call[0] for call in workshop.once()] == ["retrain", "probation"]
    assert workshop.remembers()["cron_ms"] == before
    assert workshop.last.failed == 0
    workshop.answer(retrain=1, probation=4)
    assert [call[0] for call in workshop.once()] == ["retrain", "probation"]
    assert workshop.remembers()["cron_ms"] > before
    assert workshop.last.failed == 1
    assert dict(workshop.last.runs) == {"retrain: failed with 1": 1, "probation: it was rolled back": 1}


def test_told_to_stop_it_ends_what_runs_and_leaves_it_to_the_next_schedule(tmp_path: Path) -> None:
    workshop = Workshop(tmp_path, {"schedule": {"cron": "* * * * *"}, "probation": {}})
    before = now_ms() - 5 * MINUTE_MS
    workshop.remember(cron_ms=before)
    workshop.answer(seconds=60)
    stopping = threading.Event()
    thread = threading.Thread(target=workshop.scheduler(stopping, inputs=("a.csv", "b.csv")).run)
    thread.start()
    until = time.monotonic() + 20
    while not (tmp_path / "started").exists():
        assert time.monotonic() < until
        time.sleep(0.05)
    with pytest.raises(InputError, match="another schedule of"):
        workshop.scheduler().run(once=True)
    stopping.set()
    thread.join(timeout=10)
    assert not thread.is_alive()
    assert (tmp_path / "ended").exists()
    [line] = (tmp_path / "log").read_text().splitlines()  # and no probation
    assert json.loads(line)[:7] == ["retrain", "--spec", "spec.yaml", "--input", "a.csv", "--input", "b.csv"]
    assert workshop.remembers()["cron_ms"] == before


def test_it_goes_on_until_it_is_stopped(tmp_path: Path) -> None:
    """Looks again and again; a time that comes meanwhile is started."""
    workshop = Workshop(tmp_path, {"schedule": {"cron": "0 0 1 1 *", "look": "100ms"}, "probation": {}})
    stopping = threading.Event()
    thread = threading.Thread(target=workshop.scheduler(stopping).run)
    thread.start()
    until = time.monotonic() + 20
    while not (tmp_path / "log").exists() or len((tmp_path / "log").read_text().splitlines()) < 3:
        assert time.monotonic() < until
        time.sleep(0.05)
    stopping.set()
    thread.join(timeout=10)
    assert not thread.is_alive()


@pytest.fixture
def on_kafka(kafka: Kafka, tmp_path: Path) -> Callable[..., Workshop]:
    def make(**rule: Any) -> Workshop:
        workshop = Workshop(tmp_path, {"schedule": rule}, kafka={"bootstrap_servers": kafka.bootstrap})
        topics = workshop.spec.topics
        with TopicAdmin(kafka.bootstrap) as admin:
            admin.create([NewTopic(topic.name, 2, {"retention.ms": "-1"}) for topic in (topics.input, topics.triggers)])
        return workshop

    return make


def send(workshop: Workshop, topic: str, *records: tuple[int, bytes], partition: int = 0) -> None:
    producer = connect(KafkaProducer, workshop.spec.kafka)
    for time_ms, value in records:
        producer.send(topic, value, timestamp_ms=time_ms, partition=partition)
    producer.flush(timeout=20)
    producer.close(timeout=5)


def test_fresh_data_starts_a_run_as_of_the_newest_event(on_kafka: Callable[..., Workshop]) -> None:
    workshop = on_kafka(fresh="1h", cooldown="0s")
    topic, newest = workshop.spec.topics.input.name, iso_to_ms("2013-05-01T12:00:00Z")
    assert workshop.once() == []
    send(workshop, topic, (newest - HOUR_MS, b"{}"))
    send(workshop, topic, (newest, b"{}"), (newest - 2 * HOUR_MS, b"{}"), partition=1)
    assert workshop.once() == [["retrain", "--as-of", "2013-05-01T12:00:00Z"]]
    send(workshop, topic, (newest + HOUR_MS - 1, b"{}"))
    assert workshop.once() == []
    send(workshop, topic, (newest + HOUR_MS, b"{}"))
    assert workshop.once() == [["retrain", "--as-of", "2013-05-01T13:00:00Z"]]


def trigger(workshop: Workshop, kind: Any, version: int) -> tuple[int, bytes]:
    time_ms = iso_to_ms("2013-05-01T11:00:00Z")
    raised = Trigger(workshop.spec.stream.name, kind, time_ms, "temp drifts", "psi", 1.0, 0.5, version, "temp")
    return time_ms, raised.record()


def test_a_trigger_of_the_champion_starts_runs_until_there_is_another_version(
    on_kafka: Callable[..., Workshop],
) -> None:
    workshop = on_kafka(drift=["error_drift"], cooldown="0s")
    topic = workshop.spec.topics.triggers.name
    (workshop.folder / "models" / workshop.spec.model_name / "3").mkdir(parents=True)
    send(workshop, workshop.spec.topics.input.name, (iso_to_ms("2013-05-01T12:00:00Z"), b"{}"))
    send(workshop, topic, trigger(workshop, "input_drift", 3), trigger(workshop, "error_drift", 2))
    assert workshop.once() == []  # of another kind, and of a version that is gone
    send(workshop, topic, trigger(workshop, "error_drift", 3), partition=1)
    run = [["retrain", "--as-of", "2013-05-01T12:00:00Z"]]
    workshop.answer(retrain=3)  # no interval is over yet
    assert workshop.once() == run
    workshop.answer(retrain=4)  # too little of what has changed is in it
    assert workshop.once() == run
    workshop.answer(retrain=0)
    assert workshop.once() == run
    assert workshop.once() == []
    send(workshop, topic, trigger(workshop, "error_drift", 3))
    assert workshop.once() == run


def test_after_a_run_neither_data_nor_drift_starts_another_for_a_while(on_kafka: Callable[..., Workshop]) -> None:
    workshop = on_kafka(fresh="1h", cooldown="1h")
    send(workshop, workshop.spec.topics.input.name, (iso_to_ms("2013-05-01"), b"{}"))
    workshop.remember(ran_ms=now_ms() - HOUR_MS // 2)
    assert workshop.once() == []
    workshop.remember(ran_ms=now_ms() - 2 * HOUR_MS)
    assert len(workshop.once()) == 1


# --- mistakes ---


def test_mistakes(tmp_path: Path) -> None:
    with pytest.raises(SpecError, match=r"expected a section"):
        Scheduler(tiny_spec(), Path("spec.yaml"))
    for wrong, said in [
        ({"cron": "61 * * * *"}, "expected a cron expression"),
        ({"zone": "UTC"}, "expected cron, fresh or drift"),
    ]:
        with pytest.raises(SpecError, match=said):
            tiny_spec(retrain={"schedule": wrong})
    workshop = Workshop(tmp_path, {"schedule": {"cron": "* * * * *"}})
    workshop.remember(unknown=1)
    with pytest.raises(InputError, match="expected what a schedule remembers"):
        workshop.once()


@pytest.mark.slow
def test_the_verb_starts_the_real_verb(tmp_path: Path) -> None:
    """A spec without a model cannot be retrained on: one clear line, and its exit code."""
    workshop = Workshop(tmp_path, {"schedule": {"cron": "* * * * *"}})
    workshop.remember(cron_ms=now_ms() - 2 * MINUTE_MS)
    spec_file = tmp_path / "spec.yaml"
    spec_file.write_text(yaml.safe_dump(workshop.spec.model_dump(mode="json", exclude_defaults=True)))
    command = [sys.executable, "-m", "tidegauge", "schedule", "--spec", str(spec_file), "--once", "--json"]
    done = subprocess.run(command, capture_output=True, text=True, timeout=120)
    assert done.returncode == 2
    assert json.loads(done.stdout) == {"retrain: failed with 2": 1}
    assert "Traceback" not in done.stderr
