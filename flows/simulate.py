"""The simulation of the closed loop: months of real data in minutes, with a change of the world and a bad model in it.

    history ─▶ events topic ─stream─▶ predictions ─accuracy─▶ errors, drift
                    │                      ▲                     │
                    └──────── retrain ─▶ versions ◀─ probation ◀─┘

Kafka, the model server, the consumer and the scorer are processes of their own, and run all the time. Events come at
many times their speed, and slowly while something else runs, so that versions change under way. At the end of each
interval `tidegauge schedule --once` does what is due, and each day while a version is on probation `tidegauge
probation`; to retrain while one is could put another in its place.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import yaml

from flows.demo_parts import Steps, demo_folder, start_kafka
from flows.event_feed import EventFeed
from flows.history import History
from flows.live_errors import LiveErrors
from flows.live_processes import LiveProcesses
from flows.local_stack import start_model_server
from flows.probation import EXIT_CODES as PROBATION_CODES
from flows.regime_change import RegimeChange
from flows.replay import Sender
from flows.simulation_account import Simulated, account_of
from flows.simulation_result import Happening, SimulationResult
from models.registry import Registry
from schemas.errors import InputError, ModelError, SpecError
from schemas.spec import Spec, load_spec
from schemas.units import ms_to_iso
from streaming.stream_topics import prepare_topics
from streaming.topics import TopicAdmin

QUIET = 2
"""So many intervals before the change."""
MOST = 8
"""So many intervals after it there must be a better model."""
AFTERWARDS = 3
"""So many are left for the sabotaged model, and for what comes after it."""
DEVIATIONS = 3.0

PACE_S = 0.02
"""A step of live events takes so long ..."""
SLOW_S = 0.4
"""... and so long while a retraining or a probation runs, for half an interval at most."""
SHADOW_STEPS = 24
"""For at most so many steps it is waited until the older version is asked too."""
_DAY_MS = 86_400_000


def simulate(
    spec_file: Path,
    inputs: Sequence[str],
    *,
    output: Path,
    deviations: float = DEVIATIONS,
    report: Callable[[str], None] = lambda _: None,
) -> SimulationResult:
    """Runs the simulation; what an earlier one left in `output` is replaced.

    Args:
      spec_file: a spec with shadow, probation and schedule.
      inputs: its files.
      output: a folder for Kafka's data, models, runs, logs, the spec as it was run, and the picture.
      deviations: from the change on the targets are so many of their standard deviations higher.
      report: is told, in words, what happens.
    Raises:
      SpecError: the spec lacks a part of the loop.
      InputError: the files hold too little for the spec's intervals.
      TidegaugeError: a part failed.
    """
    with demo_folder(output) as environment:
        spec = load_spec(spec_file, os.environ | environment)
        _require_loop(spec)
        own_file = output / "spec.yaml"
        own_file.write_text(yaml.safe_dump(spec.model_dump(mode="json", exclude_defaults=True), sort_keys=False))
        history = History.read(spec, inputs)
        begin_ms = _begin_ms(spec, history)
        least_ms = begin_ms + (QUIET + MOST + AFTERWARDS) * spec.retrain.interval
        if history.time_ms[-1] < least_ms:
            raise InputError(
                f"expected events until {ms_to_iso(least_ms)}, so that there is enough to train on and to simulate, "
                f"got them until {ms_to_iso(int(history.time_ms[-1]))}"
            )
        change = RegimeChange.of(spec, history, begin_ms + QUIET * spec.retrain.interval, deviations)
        simulation = _Simulation(spec, own_file, environment, output, history, begin_ms, change, report)
        return simulation.run()


def _require_loop(spec: Spec) -> None:
    for path, section in (
        ("serving.shadow", spec.serving.shadow),
        ("retrain.probation", spec.retrain.probation),
        ("retrain.schedule.fresh", spec.retrain.schedule and spec.retrain.schedule.fresh),
        ("retrain.schedule.drift", spec.retrain.schedule and spec.retrain.schedule.drift),
    ):
        if not section:
            raise SpecError(f"$.{path}: expected it, since the simulation is of the closed loop, got none")


def _begin_ms(spec: Spec, history: History) -> int:
    """The first end of an interval that there is enough history before for a first model."""
    if not len(history):
        raise InputError("expected events, got none")
    settings, grid, window = spec.retrain, spec.grid, spec.window
    context_ms = (2 * (window.past + window.horizon) + grid.max_gap) * grid.step
    needed_ms = settings.range + settings.validation_ms + context_ms + settings.interval
    intervals = -(-(int(history.time_ms[0]) + needed_ms - grid.offset) // settings.interval)
    return int(intervals * settings.interval + grid.offset)


@dataclass(slots=True)
class _Simulation:
    spec: Spec
    spec_file: Path
    environment: Mapping[str, str]
    output: Path
    history: History
    begin_ms: int
    change: RegimeChange
    report: Callable[[str], None]
    happened: list[Happening] = field(default_factory=list)
    _live: LiveProcesses = field(init=False)
    _feed: EventFeed = field(init=False)
    _registry: Registry = field(init=False)

    def run(self) -> SimulationResult:
        """Runs it."""
        spec, state, steps = self.spec, self.output / "state", Steps(self.report)
        self._registry = Registry(spec.paths.models, spec.model_name)
        changed = self.change.applied(spec, self.history)
        with steps("Kafka and the model server"):
            start_kafka(spec.kafka, state, self.report)
            with TopicAdmin(spec.kafka) as admin:
                prepare_topics(admin, spec, oldest_ms=int(changed.time_ms[0]), now_ms=int(changed.time_ms[-1]))
            start_model_server(spec, state)
        with (
            Sender.to(spec, linger_ms=5, report=lambda _: None) as sender,
            LiveProcesses(spec, self.spec_file, self.environment, state) as self._live,
        ):
            self._feed = EventFeed(spec, changed, sender)
            begin = ms_to_iso(self.begin_ms)
            with steps("the first model"):
                self._feed.send_through(self.begin_ms)
                self._live.start("accuracy", "--from", begin)
                self._look()
                if self._registry.champion() is None:
                    raise ModelError(f"expected a first model to pass the gate, got none: see {state / 'log'}")
                self._live.start("stream", "--from", begin, "--wait", "60")
            with steps("before the change"):
                self._go_on(lambda: self._feed.clock_ms >= self.change.time_ms)
            with steps("the change"):
                limit_ms = self.change.time_ms + MOST * spec.retrain.interval
                self._go_on(lambda: self._better() is not None or self._feed.clock_ms >= limit_ms)
                better = self._better()
            with steps("sabotage"):
                bad = self._sabotage()
                self._go_on(lambda: self._registry.champion() != bad or not self._on_probation())
            with steps("afterwards"):
                self._feed.send_through(self._feed.clock_ms + spec.retrain.interval, pause_s=PACE_S)
                self._live.wait_until_caught_up()
        with steps("account"):
            simulated = Simulated(self.begin_ms, self.change, self._feed.clock_ms, tuple(self.happened), better, bad)
            return account_of(spec, simulated, self.output, steps.seconds)

    # --- time goes on ---

    def _go_on(self, done: Callable[[], bool]) -> None:
        """Lets time go by, and the schedule look: each day of a probation, else at the ends of intervals."""
        interval, offset, feed = self.spec.retrain.interval, self.spec.grid.offset, self._feed
        while not done():
            next_ms = ((feed.clock_ms - offset) // interval + 1) * interval + offset
            if self._on_probation():
                next_ms = min(next_ms, feed.clock_ms + _DAY_MS)
            feed.send_through(next_ms, pause_s=PACE_S)
            self._live.wait_until_caught_up()
            self._look()

    def _look(self) -> None:
        """Does what the schedule has due or, while a version is on probation, nothing but that; events go on."""
        if self._on_probation():
            self._run("probation", fine=tuple(PROBATION_CODES.values()))
        else:
            self._run("schedule", "--once")

    def _run(self, verb: str, *options: str, fine: Sequence[int] = (0,)) -> None:
        """Runs a verb while events go on; then waits until the older version is asked, if a probation has begun."""
        known, was_on_probation = len(self._registry.records()), self._on_probation()
        with self._feed.going_on(SLOW_S, self.spec.retrain.interval // 2):
            self._live.run(verb, *options, fine=fine)
        for record in self._registry.records()[known:]:
            self._note(Happening(self._feed.clock_ms, record.event, record.version, record.reason))
        if self._on_probation() and not was_on_probation:
            self._wait_for_shadows()

    def _note(self, happening: Happening) -> None:
        self.happened.append(happening)
        self.report(f"   {happening.line}")

    def _wait_for_shadows(self) -> None:
        before = self._shadows()
        for _ in range(SHADOW_STEPS):
            self._feed.send_through(self._feed.clock_ms + self.spec.grid.step, pause_s=SLOW_S)
            if self._shadows() > before:
                return

    def _shadows(self) -> float:
        return self._live.counts("stream", "tidegauge_shadow_windows").get("predicted", 0.0)

    # --- versions ---

    def _on_probation(self) -> bool:
        champion = self._registry.champion()
        events = {record.event for record in self._registry.records() if record.version == champion}
        return "on_probation" in events and "confirmed" not in events

    def _better(self) -> int | None:
        """The champion, if it was promoted after the change, is confirmed, and beats persistence live."""
        champion = self._registry.champion()
        of_it = {one.event for one in self.happened if one.version == champion and one.time_ms > self.change.time_ms}
        if champion is None or not {"promoted", "confirmed"} <= of_it:
            return None
        errors = LiveErrors.read(self.spec).of_version(champion)
        return champion if errors.mae < errors.mae_persistence else None

    def _sabotage(self) -> int:
        """Pushes a sabotaged model by hand; its version."""
        from flows.sabotage import sabotage

        champion = self._registry.champion()
        record = None if champion is None else self._registry.record_of(champion)
        if record is None or record.run is None:
            raise ModelError(f"{self._registry.folder}: expected a version with a training run to sabotage, got none")
        run = self.output / "sabotaged"
        sabotage(record.run, run)
        with self._feed.going_on(SLOW_S, self.spec.retrain.interval // 2):
            bad = self._registry.publish(run, reason="a sabotaged model, pushed by hand")
        self._note(Happening(self._feed.clock_ms, "pushed", bad, "a sabotaged model, pushed by hand"))
        self._run("probation", fine=tuple(PROBATION_CODES.values()))
        return bad
