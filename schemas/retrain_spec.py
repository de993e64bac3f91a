"""How a stream's model is retrained, gated, pushed and kept: settings, no part of any fingerprint."""

from __future__ import annotations

from typing import Annotated, Literal, Self

from pydantic import Field, model_validator

from schemas.probation_spec import Probation
from schemas.schedule_spec import Schedule
from schemas.section import Count, Section, Share
from schemas.units import DurationMs

Yardstick = Literal["persistence", "seasonal", "linear"]
ErrorScore = Literal["mae", "mse", "rmse"]
Positive = Annotated[float, Field(gt=0)]
Duration = Annotated[DurationMs, Field(ge=1)]


class Gate(Section):
    """What a candidate must be worth on the newest slice, which neither it nor the champion has seen.

    Scores are over all targets in standardised units; a slice's are of each target, in its unit.
    """

    min_windows: Count = 100
    """The slice has at least so many."""
    skill: dict[Yardstick, float] = {"persistence": 0.0}
    """The least skill against each of these, of every candidate ..."""
    first: dict[Yardstick, float] = {"persistence": 0.0, "linear": 0.0}
    """... and of a first model, which has no champion to beat; not against what is its own family."""
    error: dict[ErrorScore, Positive] = {}
    """The greatest error."""
    ratio: dict[ErrorScore, Positive] = {"mae": 1.0}
    """The greatest error as a multiple of the champion's."""
    slices: dict[ErrorScore, Positive] = {}
    """The same in each label of each of `evaluation.slices`."""
    min_cells: Count = 100
    """A label with fewer observed steps is not judged."""


class Canary(Section):
    """What a candidate must do on a real model server before it is pushed."""

    requests: Count = 50
    """Windows of the gate's slice that it is asked for, one a request."""
    latency: Duration = 1_000
    """95 % of them are answered within this ..."""
    load: Duration = 120_000
    """... and the server has loaded and warmed it within this."""


class Retain(Section):
    """What `tidegauge prune` keeps. Never pruned: the champion, the version before it, and what a record needs."""

    versions: Count = 5
    """The newest."""
    runs: Count = 10
    """The newest: folders of retraining, each with its dataset and its training run."""
    spans: DurationMs = 0
    """Spans that end less than this before all that the next run trains on."""


Event = Literal["promoted", "refused", "rolled_back"]


class Notify(Section):
    """Who is told what happened to the model."""

    on: tuple[Event, ...] = ("promoted", "refused", "rolled_back")
    webhook: Annotated[str, Field(pattern=r"^https?://\S+$")] | None = None
    """A URL that the event is posted to, as JSON."""
    command: tuple[str, ...] = ()
    """A program and its arguments, which is given the event as JSON on its standard input."""
    timeout: Duration = 10_000
    """Of either."""


class Mlflow(Section):
    """An MLflow server that keeps the runs too. Its password comes from MLflow's own environment variables."""

    tracking_uri: Annotated[str, Field(pattern=r"^\S+$")]
    """Such as `https://mlflow.example`."""
    experiment: Annotated[str, Field(min_length=1)] | None = None
    """Named after the model when left out."""


class Retrain(Section):
    """`tidegauge retrain`: when, on what, and what a new model must do to be served."""

    interval: Duration = 7 * 86_400_000
    """The length of the spans, counted from the epoch: each run adds one, and is gated on it."""
    range: Duration = 365 * 86_400_000
    """How much a model is trained on."""
    validation: Duration | None = None
    """How much it is validated on; one interval when left out."""
    start: Literal["cold", "warm"] = "cold"
    """From new weights, or from the champion's."""
    completeness: Share = 0.8
    """Of the windows that the interval could have, for keys that there is training data of, so many must be there."""
    wait: Duration = 300_000
    """A version that was pushed must be AVAILABLE at `serving.address` within this."""
    gate: Gate = Gate()
    canary: Canary = Canary()
    retain: Retain = Retain()
    notify: Notify = Notify()
    mlflow: Mlflow | None = None
    probation: Probation | None = None
    schedule: Schedule | None = None

    @property
    def validation_ms(self) -> int:
        """How much a model is validated on."""
        return self.validation or self.interval

    @model_validator(mode="after")
    def _trains_on_more_than_it_is_gated_on(self) -> Self:
        if self.range < self.interval:
            raise ValueError("range must be at least interval")
        return self
