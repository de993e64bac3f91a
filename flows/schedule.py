"""Schedules: starts `retrain` at cron times, when there is enough new data and when a trigger was raised.

Each run is a process of its own, one at a time, and `probation` is one between them. What has been dealt with is a
small file, written after a run: a schedule that is killed goes on where it was, and at worst starts a run again that is
done, which then does nothing.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from threading import Event as StopFlag
from typing import Literal

from filelock import FileLock, Timeout

from flows.cron import due_times, next_due_ms
from flows.verify import read_topic
from models.registry import Registry
from schemas.errors import BrokerError, InputError, SpecError
from schemas.spec import Spec
from schemas.trigger import Trigger, read_trigger
from schemas.units import ms_to_iso
from streaming.stream_topics import newest_ms
from streaming.topics import TopicAdmin

DRAIN_S = 60.0
"""How long a run may take to end once it is told to."""
LOOK_S = 0.2

PROMOTED, NOTHING_TO_DO, REFUSED, BUSY, UNDECIDED = 0, 3, 4, 5, 5
"""Exit codes of `retrain`, and of `probation`."""

Cause = Literal["cron", "fresh", "drift"]


@dataclass(frozen=True, slots=True)
class Dealt:
    """What has been dealt with: all that a schedule remembers. Times are epoch milliseconds.

    `cron_ms` is the last cron time; `data_ms` the newest event time at the last run, None before the first; `ran_ms`
    when that ended, by the wall clock; `triggers` the offsets of the triggers topic, by partition.
    """

    cron_ms: int
    data_ms: int | None = None
    ran_ms: int = 0
    triggers: dict[str, int] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Due:
    """A run that is due: why, as of when, and what will have been dealt with once it has come to something."""

    cause: Cause
    reason: str
    as_of_ms: int
    dealt: Dealt


class Scheduler:
    """Starts what is due for one stream.

    Args:
      spec: with the section `retrain.schedule`.
      spec_file: where it was read from.
      inputs: what `retrain` is given as `--input`.
      program: how `tidegauge` is started.
      stopping: once set, what runs is told to end.
      report: is told, in words, what is started and what came of it.
    Raises:
      SpecError: there is no such section.
      InputError: another schedule of the stream is running, or its file cannot be used.
    """

    def __init__(
        self,
        spec: Spec,
        spec_file: Path,
        *,
        inputs: Sequence[str] = (),
        program: Sequence[str] = (sys.executable, "-m", "tidegauge"),
        stopping: StopFlag | None = None,
        report: Callable[[str], None] = lambda _: None,
    ) -> None:
        if spec.retrain.schedule is None:
            raise SpecError("$.retrain.schedule: expected a section, got none")
        self._spec, self._rule = spec, spec.retrain.schedule
        self._retrain = [*program, "retrain", "--spec", str(spec_file), *_given("--input", inputs)]
        self._probation = None
        if spec.retrain.probation is not None:
            self._probation = [*program, "probation", "--spec", str(spec_file)]
        self._stopping, self._report = stopping or StopFlag(), report
        folder = Path(spec.paths.state, "retrain", spec.stream.name)
        self._file, self._lock = folder / "schedule.json", FileLock(folder / ".schedule.lock", timeout=0)
        self.runs: Counter[str] = Counter()
        self.failed = 0
        """The exit code of the last run that failed; 0 where none has."""

    def run(self, *, once: bool = False) -> None:
        """Starts what is due, until it is stopped.

        Args:
          once: look once, start all that is due, and end.
        Raises:
          InputError: another schedule of the stream is running, or the file cannot be used.
          BrokerError: the first look at Kafka fails; a later one is tried again.
        """
        self._file.parent.mkdir(parents=True, exist_ok=True)
        try:
            self._lock.acquire()
        except Timeout as exc:
            raise InputError(f"{self._file}: another schedule of '{self._spec.stream.name}' is running") from exc
        try:
            if not self._file.exists():
                self._write(Dealt(_now_ms()))  # the first schedule begins now
            self._turn(patient=False)
            while not once and not self._stopping.wait(self._wait_s()):
                self._turn(patient=True)
        finally:
            self._lock.release()

    def _turn(self, *, patient: bool) -> None:
        """Starts all that is due, and a probation."""
        try:
            for due in self._all_due():
                if not self._started(due) or self._stopping.is_set():
                    break
        except BrokerError as exc:
            if not patient:
                raise
            self._report(str(exc))
        if self._probation is not None and not self._stopping.is_set():
            code = self._run(self._probation)
            if code not in (None, NOTHING_TO_DO, UNDECIDED):
                self._tell("probation", code, {PROMOTED: "the version stays", REFUSED: "it was rolled back"})

    def _started(self, due: Due) -> bool:
        """Runs what is due; whether something came of it, so that what else is due may be looked for."""
        self._report(f"retrain as of {ms_to_iso(due.as_of_ms)}: {due.reason}")
        code = self._run([*self._retrain, "--as-of", ms_to_iso(due.as_of_ms)])
        if code is None:
            return False
        said = {
            PROMOTED: "promoted",
            NOTHING_TO_DO: "nothing to do",
            REFUSED: "refused",
            BUSY: "another run is under way",
        }
        self._tell("retrain", code, said)
        if code == BUSY:
            return False
        dealt = due.dealt
        if due.cause == "drift" and code != PROMOTED:
            # A drift is told once, and waits for an interval that is over and has enough of what has changed in it.
            dealt = replace(dealt, triggers=self._read().triggers)
        self._write(replace(dealt, ran_ms=_now_ms()))
        return True

    def _run(self, command: Sequence[str]) -> int | None:
        """The exit code of a process; None where it was told to end with us."""
        process = subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=2)
        while process.poll() is None and not self._stopping.wait(LOOK_S):
            pass
        if process.poll() is not None:
            return process.returncode
        process.terminate()
        try:
            process.wait(DRAIN_S)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()
        return None

    def _tell(self, verb: str, code: int, said: dict[int, str]) -> None:
        outcome = said.get(code, f"failed with {code}")
        self.runs[f"{verb}: {outcome}"] += 1
        self.failed = self.failed if code in said else code
        self._report(f"{verb}: {outcome}")

    # --- what is due ---

    def _all_due(self) -> Iterator[Due]:
        """What is due, one after the other; each is looked for once what was before it is dealt with."""
        for time_ms in self._cron_times():
            told = f"the schedule's time {ms_to_iso(time_ms)}"
            yield Due("cron", told, time_ms, replace(self._read(), cron_ms=time_ms, data_ms=self._newest_ms()))
        dealt = self._read()
        if _now_ms() < dealt.ran_ms + self._rule.cooldown:
            return
        newest_ms = self._newest_ms()
        if newest_ms is None:
            return
        if self._rule.fresh is not None and newest_ms - (dealt.data_ms or 0) >= self._rule.fresh:
            told = f"there are events up to {ms_to_iso(newest_ms)}"
            yield Due("fresh", told, newest_ms, replace(dealt, data_ms=newest_ms))
        elif found := self._triggers(dealt):
            ends, triggers = found
            told = f"{len(triggers)} triggers, the last one: {triggers[-1].reason}"
            yield Due("drift", told, newest_ms, replace(dealt, data_ms=newest_ms, triggers=ends))

    def _cron_times(self) -> list[int]:
        dealt, now_ms = self._read(), _now_ms()
        due = due_times(self._rule, self._spec.stream.name, dealt.cron_ms, now_ms)
        if due and self._rule.catch_up == "none" and due[-1] < now_ms - self._rule.jitter - self._rule.look:
            self._write(replace(dealt, cron_ms=due[-1]))
            return []
        return due if self._rule.catch_up == "all" else due[-1:]

    def _newest_ms(self) -> int | None:
        """The newest event time in the input topic; None where that is empty, or nobody asks."""
        if self._rule.fresh is None and not self._rule.drift:
            return None
        with TopicAdmin(self._spec.kafka) as admin:
            return newest_ms(admin, self._spec.topics.input.name)

    def _triggers(self, dealt: Dealt) -> tuple[dict[str, int], list[Trigger]] | None:
        """Where the triggers end, and those of the champion that start a run; None without any."""
        if not self._rule.drift:
            return None
        champion = Registry(self._spec.paths.models, self._spec.model_name).champion()
        ends, found = dict(dealt.triggers), []
        starts = {int(number): offset for number, offset in dealt.triggers.items()}
        for record in read_topic(self._spec, self._spec.topics.triggers.name, starts):
            ends[str(record.partition)] = record.offset + 1
            try:
                trigger = read_trigger(record.value)
            except ValueError:  # somebody else's record
                continue
            if trigger.kind in self._rule.drift and trigger.model_version == champion:
                found.append(trigger)
        return (ends, found) if found else None

    # --- what is remembered ---

    def _read(self) -> Dealt:
        try:
            return Dealt(**json.loads(self._file.read_bytes()))
        except (OSError, ValueError, TypeError) as exc:
            raise InputError(f"{self._file}: expected what a schedule remembers: {exc}") from exc

    def _write(self, dealt: Dealt) -> None:
        partial = self._file.with_suffix(".partial")
        partial.write_text(json.dumps(asdict(dealt), indent=2) + "\n", encoding="utf-8")
        os.replace(partial, self._file)

    def _wait_s(self) -> float:
        """How long until the next look: at the latest when the next cron time is due."""
        now_ms = _now_ms()
        next_ms = next_due_ms(self._rule, self._spec.stream.name, self._read().cron_ms)
        if next_ms is None or next_ms <= now_ms:  # one that is over waits for another run, which is under way
            return self._rule.look / 1_000
        return min(self._rule.look, next_ms - now_ms) / 1_000


def _given(option: str, values: Sequence[str]) -> list[str]:
    return [part for value in values for part in (option, value)]


def _now_ms() -> int:
    return time.time_ns() // 1_000_000
