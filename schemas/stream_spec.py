"""What an event is, how events become steps, and what a window is."""

from __future__ import annotations

from functools import cached_property
from typing import Annotated, Literal, Self

from pydantic import Field, field_validator, model_validator

from schemas.section import Count, Name, Section, Zone
from schemas.units import DurationMs, InstantMs, iso_to_ms


class Feature(Section):
    """One column of the windows.

    Roles: a `target` is observed and forecast; a `past` covariate is observed only; a `future` covariate is known for
    the horizon too; a `static` one belongs to the key. What is known of the future must be the same in batch and live:
    a `calendar` is computed from the time of the step, and other values are announced `lead` steps ahead. A `label` is
    the class of the window, told by the first step of the horizon that has one: known in training only, never an input.
    """

    name: Name
    role: Literal["target", "past", "future", "static", "label"]
    unit: str = ""
    field: str | None = None
    """The event's field (CSV column, JSON member); the feature's name when left out."""
    length: Count | None = None
    """The field holds a JSON array of so many numbers, and the feature stands for so many features: `NAME_0` and so on,
    one for each place in the array."""
    index: Annotated[int, Field(ge=0)] | None = None
    """The one place in the array that the feature is, from 0 on, instead of all."""
    type: Literal["number", "integer", "category"] = "number"
    """What the field holds. An `integer` is whole and at most 2^24, up to which float32 is exact."""
    categories: tuple[str, ...] = ()
    """The vocabulary of a `category`: each stands for its index, any other text for the number of categories."""
    aggregate: Literal["last", "mean", "sum", "min", "max", "count"] = "last"
    """How several events within one step become one value."""
    fill: Literal["hold", "zero", "none"] = "hold"
    """What stands in for a missing value during `grid.max_gap` steps. Causal only: the future is not known live."""
    calendar: Literal["time_of_day", "day_of_week", "time_of_year"] | None = None
    """A phase in [-0.5, 0.5) computed from the start of the step, for the role `future`."""
    zone: Zone = "UTC"
    """Whose clocks the calendar follows; they jump where daylight saving begins and ends."""
    lead: Count | None = None
    """For the role `future` without a calendar: an event of step n tells the value of step n + lead."""
    table: dict[str, float | str] | None = None
    """For the role `static`: the value of each key, instead of a field; a key that it has not is missing."""
    description: str = ""

    @model_validator(mode="after")
    def _of_its_role(self) -> Self:
        if (self.role == "future") != ((self.calendar is None) != (self.lead is None)):
            raise ValueError("a feature of the role 'future' has a 'calendar' or a 'lead', and no other role has one")
        if self.calendar is None and self.zone != "UTC":
            raise ValueError("only a calendar has a 'zone'")
        if self.table is not None and (self.role != "static" or self.field is not None):
            raise ValueError("only a feature of the role 'static' without a 'field' has a 'table'")
        return self

    @model_validator(mode="after")
    def _of_its_type(self) -> Self:
        text = self.type == "category"
        if text != bool(self.categories) or len(set(self.categories)) < len(self.categories):
            raise ValueError("a feature of the type 'category' has 'categories' that differ, and no other type has any")
        if text and (self.role == "target" or self.aggregate not in ("last", "count") or self.fill == "zero"):
            raise ValueError("a category is no target, its aggregate is 'last' or 'count', and its fill not 'zero'")
        if self.calendar is not None and self.type != "number":
            raise ValueError("a calendar is a number")
        if self.role == "label" and not self.categorical:
            raise ValueError("a label is of the type 'category', and its aggregate is 'last'")
        for key, value in (self.table or {}).items():
            if isinstance(value, str) != text or (self.type == "integer" and not float(value).is_integer()):
                raise ValueError(f"the table's value for '{key}' must be of the type '{self.type}', got {value!r}")
        return self

    @model_validator(mode="after")
    def _of_its_array(self) -> Self:
        if self.length is not None and (self.type == "category" or self.calendar or self.table is not None):
            raise ValueError("a feature with a 'length' is an array of numbers: no category, calendar or table")
        if self.index is not None and (self.length is None or self.index >= self.length):
            raise ValueError("an 'index' is one of the places in an array, and below its 'length'")
        return self

    @property
    def categorical(self) -> bool:
        """Whether its cells are indices of categories; how many texts there were is a number."""
        return self.type == "category" and self.aggregate == "last"

    def places(self) -> list[Feature]:
        """The features that it stands for: itself, or one for each place in its array."""
        if self.length is None or self.index is not None:
            return [self]
        array = self.field or self.name
        return [
            self.model_copy(update={"name": f"{self.name}_{index}", "field": array, "index": index})
            for index in range(self.length)
        ]


class EventTime(Section):
    """Where an event's time is and how it is written."""

    field: str
    format: Literal["iso8601", "epoch_ms", "epoch_s"] = "iso8601"
    zone: Zone = "UTC"
    """For ISO times without an offset."""


class Stream(Section):
    """What an event is: a key, an event time and features."""

    name: Name
    key: str
    """The event's field that names its series."""
    time: EventTime
    time_range: tuple[InstantMs, InstantMs] = (iso_to_ms("1970-01-01"), iso_to_ms("2100-01-01"))
    """Half-open; an event outside is a dead letter and moves no clock."""
    missing: tuple[str, ...] = ("", "NA", "NaN", "nan", "null")
    """The spellings of a missing value in text files."""
    features: Annotated[tuple[Feature, ...], Field(min_length=1)]
    """An array stands here as the features of its places."""
    description: str = ""

    @field_validator("features", mode="after")
    @classmethod
    def _spread(cls, features: tuple[Feature, ...]) -> tuple[Feature, ...]:
        return tuple(one for feature in features for one in feature.places())

    @model_validator(mode="after")
    def _consistent(self) -> Self:
        names = [feature.name for feature in self.features]
        if doubled := sorted({name for name in names if names.count(name) > 1}):
            raise ValueError(f"feature names must differ; {', '.join(doubled)} is there twice")
        self._require_answers()
        fields: dict[str, tuple[str, tuple[str, ...], int | None]] = {}
        for feature in self.features:
            name, type_ = feature.field or feature.name, (feature.type, feature.categories, feature.length)
            if feature.calendar is None and feature.table is None and fields.setdefault(name, type_) != type_:
                raise ValueError(f"the features of the field '{name}' must have the same type, categories and length")
            if ambiguous := sorted(set(feature.categories) & set(self.missing)):
                raise ValueError(f"'{ambiguous[0]}' is a category of '{feature.name}', and spells a missing value")
        if self.time_range[0] >= self.time_range[1]:
            raise ValueError("time_range must start before it ends")
        return self

    def _require_answers(self) -> None:
        roles = [feature.role for feature in self.features]
        if "label" not in roles:
            if "target" not in roles:
                raise ValueError("at least one feature must have the role 'target', or one the role 'label'")
            return
        if roles.count("label") > 1 or "target" in roles:
            raise ValueError("a stream with a label has no other label and no target")
        if not any(feature.role == "past" and not feature.categorical for feature in self.features):
            raise ValueError("a stream with a label has at least one feature of the role 'past' that is a number")

    @cached_property
    def inputs(self) -> tuple[Feature, ...]:
        """The columns of a window's past, in order: every feature but a label."""
        return tuple(feature for feature in self.features if feature.role != "label")

    @cached_property
    def label(self) -> Feature | None:
        """What a window is classified by; None where targets are forecast."""
        return next((feature for feature in self.features if feature.role == "label"), None)


class Grid(Section):
    """How events of one key become regular steps. Step n is [n * step + offset, (n + 1) * step + offset), UTC."""

    step: Annotated[DurationMs, Field(ge=1)]
    offset: DurationMs = 0
    regular: bool = False
    """One event a step: its step closes as soon as it has come (with lateness 0)."""
    lateness: DurationMs = 0
    """How long after its end, on its own key's clock, a step stays open."""
    max_disorder: DurationMs = 3_600_000
    """An event further behind its partition's clock is late, whatever its key's clock says."""
    max_skew: DurationMs = 600_000
    """Live only: an event further ahead of the wall clock is a dead letter."""
    max_gap: Annotated[int, Field(ge=0)] = 0
    """For how many steps after the last observed one a missing value is filled."""

    @model_validator(mode="after")
    def _consistent(self) -> Self:
        if self.offset >= self.step:
            raise ValueError("offset must be shorter than step")
        return self


class Window(Section):
    """One example: `past` steps before the origin, `horizon` steps from it on, an origin every `stride` steps."""

    past: Count
    horizon: Count
    stride: Count = 1
    """Counted from the epoch, so that it does not depend on a key's first event."""
    min_observed: Count = 1
    """A window exists only where every target was observed in so many of the past steps (of a stream with a label: any
    feature of the role `past`) ..."""
    min_observed_target: Count = 1
    """... and is used for training only where every target is observed in so many steps of the horizon, or a label in
    one."""

    @model_validator(mode="after")
    def _consistent(self) -> Self:
        if self.min_observed > self.past:
            raise ValueError(f"min_observed must be at most past ({self.past})")
        if self.min_observed_target > self.horizon:
            raise ValueError(f"min_observed_target must be at most horizon ({self.horizon})")
        return self
