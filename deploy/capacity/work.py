"""What a stream's spec asks of the live path: numbers in an event and a window, windows of an event, keys, replays."""

from __future__ import annotations

from dataclasses import dataclass, replace

from schemas.spec import Spec


@dataclass(frozen=True, slots=True, kw_only=True)
class Load:
    """Events a second, and keys that send them."""

    events_per_s: float
    keys: float


@dataclass(frozen=True, slots=True, kw_only=True)
class Work:
    """What one event and one window of a stream are made of.

    `step_s` None stands for a step as long as the time between two events of a key, whatever the load.
    """

    numbers: int = 5
    """Of an event."""
    features: int = 5
    """Of a window."""
    past: int = 64
    outputs: int = 24
    """Numbers of a prediction."""
    stride: int = 1
    min_observed: int = 1
    max_gap: int = 0
    step_s: float | None = None
    forgotten_s: float | None = None
    """A key that has been silent for so long takes no memory; None: none is ever forgotten."""
    poll_events: int = 2000
    request_windows: int = 256
    family: str = "lstm"

    @property
    def cells(self) -> int:
        """Steps of all features in a window."""
        return self.past * self.features

    @property
    def state_bytes(self) -> int:
        """What a key's steps take: values float32, whether observed, and where each step began in the topic."""
        return (self.past + self.max_gap + 1) * (5 * self.features + 8)

    def windows_per_event(self, load: Load) -> float:
        """How many windows are predicted for an event: one where each step has one event, of every `stride`th step.

        Keys that send too seldom for `min_observed` have none, and of fewer events than steps those that fill a gap.
        """
        if self.step_s is None:
            return 1 / self.stride
        steps_per_event = load.keys / load.events_per_s / self.step_s
        if steps_per_event * (self.min_observed - 1) > self.past:
            return 0.0
        return min(steps_per_event, self.max_gap + 1) / self.stride

    def live_keys(self, load: Load) -> float:
        """Keys that are remembered."""
        if self.forgotten_s is None:
            return load.keys
        return min(load.keys, max(1.0, load.events_per_s * self.forgotten_s))

    def window_events(self, load: Load) -> float:
        """Events that the live windows of all keys hold: what is read again after a crash."""
        steps = self.past + self.max_gap + 1
        if self.step_s is None:
            return load.keys * steps
        return load.events_per_s * self.step_s * steps


def work_of(spec: Spec) -> Work:
    """The work of a spec's stream."""
    inputs = spec.stream.inputs
    outputs = len(spec.classes) or spec.window.horizon * len(spec.targets) * (1 + len(spec.quantile_levels))
    plain = Work()
    return replace(
        plain,
        numbers=sum(feature.calendar is None for feature in inputs),
        features=len(inputs),
        past=spec.window.past,
        outputs=outputs,
        stride=spec.window.stride,
        min_observed=spec.window.min_observed,
        max_gap=spec.grid.max_gap,
        step_s=spec.grid.step / 1_000,
        forgotten_s=(spec.grid.max_disorder + spec.span_ms) / 1_000,
        poll_events=spec.kafka.max_poll_records,
        request_windows=spec.serving.max_batch,
        family=plain.family if spec.model is None else spec.model.family,
    )
