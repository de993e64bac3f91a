"""The spec: one YAML file that describes a stream and drives ingest, training, live predictions and retraining.

Two kinds of section. The *semantic* ones (`stream`, `grid`, `window`, `split`, `model`, `training`) say what the
windows and the model are; their canonical form is hashed into fingerprints. The *settings* (`source`, `checks`,
`dataset`, `kafka`, `serving`, `paths`) say where and how it runs; environment variables override them
(`TIDEGAUGE_KAFKA__BOOTSTRAP_SERVERS=...`).

All times and durations are int milliseconds in code; `schemas.units` reads what YAML writes.
"""

from __future__ import annotations

import hashlib
import json
import os
import re
from collections.abc import Mapping
from difflib import get_close_matches
from functools import cached_property
from itertools import pairwise
from pathlib import Path
from typing import Annotated, Any, Literal, Self, TypeVar
from zoneinfo import ZoneInfo

import yaml
from pydantic import AfterValidator, BaseModel, ConfigDict, Field, ValidationError, model_validator

from schemas.errors import SpecError
from schemas.units import DurationMs, InstantMs, format_duration, iso_to_ms, ms_to_iso

Name = Annotated[str, Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]{0,99}$")]
"""A name that is safe as a file, topic and model name."""

Count = Annotated[int, Field(ge=1)]


def _known_zone(zone: str) -> str:
    try:
        ZoneInfo(zone)
    except (KeyError, OSError, ValueError) as exc:
        raise ValueError("expected an IANA time zone such as 'UTC' or 'Europe/Berlin'") from exc
    return zone


class Section(BaseModel):
    """Base of every part of the spec: frozen, unknown fields refused, no silent conversion of types."""

    model_config = ConfigDict(extra="forbid", frozen=True, strict=True)


S = TypeVar("S", bound=Section)


# --- semantic sections -----------------------------------------------------------------------------------------------


class Feature(Section):
    """One column of the windows.

    Roles: a `target` is observed and forecast; a `past` covariate is observed only; a `future` covariate is known for
    the horizon too; a `static` one belongs to the key. What is known of the future must be the same in batch and live:
    a `calendar` is computed from the time of the step, and other values are announced `lead` steps ahead.
    """

    name: Name
    role: Literal["target", "past", "future", "static"]
    unit: str = ""
    field: str | None = None
    """The event's field (CSV column, JSON member); the feature's name when left out."""
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
    zone: Annotated[str, AfterValidator(_known_zone)] = "UTC"
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
        for key, value in (self.table or {}).items():
            if isinstance(value, str) != text or (self.type == "integer" and not float(value).is_integer()):
                raise ValueError(f"the table's value for '{key}' must be of the type '{self.type}', got {value!r}")
        return self

    @property
    def categorical(self) -> bool:
        """Whether its cells are indices of categories; how many texts there were is a number."""
        return self.type == "category" and self.aggregate == "last"


class EventTime(Section):
    """Where an event's time is and how it is written."""

    field: str
    format: Literal["iso8601", "epoch_ms", "epoch_s"] = "iso8601"
    zone: Annotated[str, AfterValidator(_known_zone)] = "UTC"
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
    description: str = ""

    @model_validator(mode="after")
    def _consistent(self) -> Self:
        names = [feature.name for feature in self.features]
        if doubled := sorted({name for name in names if names.count(name) > 1}):
            raise ValueError(f"feature names must differ; {', '.join(doubled)} is there twice")
        if not any(feature.role == "target" for feature in self.features):
            raise ValueError("at least one feature must have the role 'target'")
        fields: dict[str, tuple[str, tuple[str, ...]]] = {}
        for feature in self.features:
            name, type_ = feature.field or feature.name, (feature.type, feature.categories)
            if feature.calendar is None and feature.table is None and fields.setdefault(name, type_) != type_:
                raise ValueError(f"the features of the field '{name}' must have the same type and categories")
            if ambiguous := sorted(set(feature.categories) & set(self.missing)):
                raise ValueError(f"'{ambiguous[0]}' is a category of '{feature.name}', and spells a missing value")
        if self.time_range[0] >= self.time_range[1]:
            raise ValueError("time_range must start before it ends")
        return self


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
    """A window exists only where every target was observed in so many of the past steps ..."""
    min_observed_target: Count = 1
    """... and is used for training only where every target is observed in so many steps of the horizon."""

    @model_validator(mode="after")
    def _consistent(self) -> Self:
        if self.min_observed > self.past:
            raise ValueError(f"min_observed must be at most past ({self.past})")
        if self.min_observed_target > self.horizon:
            raise ValueError(f"min_observed_target must be at most horizon ({self.horizon})")
        return self


SPLITS = ("train", "validation", "test")


Interval = tuple[int, int]
"""Start and end (exclusive), epoch milliseconds."""


class TimeSplit(Section):
    """What splits by time share: train yields to validation and test, and validation to test.

    So the windows of the test split are the same whatever is purged.
    """

    purge: DurationMs = 0
    """A horizon that ends less than this before the start of a split that its own yields to is in none ..."""
    embargo: DurationMs = 0
    """... and so is one that starts less than this after the end of such a split."""


class DateSplit(TimeSplit):
    """Splits by half-open UTC intervals. A window is in the split that holds all of its horizon, or in none."""

    by: Literal["dates"]
    train: tuple[InstantMs, InstantMs]
    validation: tuple[InstantMs, InstantMs]
    test: tuple[InstantMs, InstantMs]

    @model_validator(mode="after")
    def _consistent(self) -> Self:
        for name in SPLITS:
            start, end = self.interval(name)
            if start >= end:
                raise ValueError(f"{name} must start before it ends")
        ordered = sorted((self.interval(name), name) for name in SPLITS)
        for (before, name), (after, other) in pairwise(ordered):
            if before[1] > after[0]:
                raise ValueError(f"{name} and {other} overlap")
        return self

    def interval(self, split: str) -> Interval:
        """When a split is."""
        interval: Interval = getattr(self, split)
        return interval


class FractionSplit(TimeSplit):
    """Splits each key's own extent, from its first closed step to its last: train first, then validation, then test.

    Of n steps the first floor(n * train) are for training, the last floor(n * test) for testing, and those between for
    validation. Keys of different extents overlap in time: where they share shocks, dates are the honest choice.
    """

    by: Literal["fraction"]
    train: Annotated[float, Field(gt=0, lt=1)]
    test: Annotated[float, Field(gt=0, lt=1)]

    @model_validator(mode="after")
    def _consistent(self) -> Self:
        if self.train + self.test >= 1:
            raise ValueError("train and test must leave something for validation: their sum must be less than 1")
        return self


KeyChoice = Annotated[float, Field(gt=0, lt=1)] | Annotated[tuple[str, ...], Field(min_length=1)]


class KeySplit(Section):
    """Splits by key: what a model makes of series that it has never seen.

    `validation` and `test` each name their keys, or say which fraction of all keys they take; a hash of the key draws
    those, so that a key stays in its split whatever others come. Every other key is for training.
    """

    by: Literal["keys"]
    validation: KeyChoice
    test: KeyChoice

    @model_validator(mode="after")
    def _consistent(self) -> Self:
        if sum(choice for choice in (self.validation, self.test) if isinstance(choice, float)) >= 1:
            raise ValueError("validation and test must leave keys for training: their sum must be less than 1")
        named = [set(choice) for choice in (self.validation, self.test) if isinstance(choice, tuple)]
        if len(named) == 2 and (shared := sorted(named[0] & named[1])):
            raise ValueError(f"validation and test must differ; both name '{shared[0]}'")
        return self


class RollingSplit(TimeSplit):
    """Rolling origins: fold i trains up to its cutoff, `first` + i * `every`, and is validated and tested after it.

    A dataset holds one fold, the last, which is the one that a model would be deployed from; `folds` are all of them.
    """

    by: Literal["rolling"]
    start: InstantMs
    """Where the training of the first fold begins."""
    first: InstantMs
    """The first fold's cutoff."""
    every: Annotated[DurationMs, Field(ge=1)]
    count: Count
    validation: Annotated[DurationMs, Field(ge=1)]
    test: Annotated[DurationMs, Field(ge=1)]
    sliding: bool = False
    """Training keeps its length and moves on with the cutoff; otherwise it grows."""

    @model_validator(mode="after")
    def _consistent(self) -> Self:
        if self.start >= self.first:
            raise ValueError("start must be before first")
        return self

    @property
    def folds(self) -> tuple[DateSplit, ...]:
        """The splits of each fold, oldest first."""
        folds = []
        for moved in range(0, self.count * self.every, self.every):
            cutoff = self.first + moved
            tested = cutoff + self.validation
            intervals = {
                "train": (self.start + moved * self.sliding, cutoff),
                "validation": (cutoff, tested),
                "test": (tested, tested + self.test),
            }
            guards = {name: format_duration(getattr(self, name)) for name in ("purge", "embargo")}
            dates = {name: tuple(map(ms_to_iso, interval)) for name, interval in intervals.items()}
            folds.append(DateSplit.model_validate({"by": "dates", **dates, **guards}))
        return tuple(folds)

    def interval(self, split: str) -> Interval:
        """When a split of the last fold is."""
        return self.folds[-1].interval(split)


class EttSplit(TimeSplit):
    """The published split of the ETT data (Zhou et al. 2021): 12, 4 and 4 months of 30 days from 2016-07-01 on.

    The rest of the data is not used. The past of a test window reaches into validation, so with any past there are
    2880 - horizon + 1 test windows of the hourly series.
    """

    by: Literal["ett"]

    def interval(self, split: str) -> Interval:
        """When a split is."""
        start, month = iso_to_ms("2016-07-01"), 30 * 86_400_000
        first, last = {"train": (0, 12), "validation": (12, 16), "test": (16, 20)}[split]
        return start + first * month, start + last * month


SplitRule = Annotated[DateSplit | FractionSplit | KeySplit | RollingSplit | EttSplit, Field(discriminator="by")]


class LstmModel(Section):
    """Stacked LSTM over segments of the past with a direct head for all horizon steps."""

    family: Literal["lstm"]
    units: Count = 64
    layers: Count = 1
    segment: Count = 24
    """Steps that make one token of the recurrence; 1 takes every step by itself."""
    dropout: Annotated[float, Field(ge=0, lt=1)] = 0.0
    scaling: Literal["shared", "per_key", "window"] = "shared"
    """Whose mean and deviation normalise a value: the train split's, the key's own in it, or the window's own."""


class Training(Section):
    """How the model is fitted."""

    loss: Literal["mse", "mae", "huber"] = "mse"
    learning_rate: Annotated[float, Field(gt=0)] = 1e-3
    clip_norm: Annotated[float, Field(gt=0)] = 1.0
    batch_size: Count = 256
    epochs: Count = 30
    patience: Count = 4
    """Epochs without a better validation loss before training stops and the best weights come back."""
    seed: int = 0


# --- settings --------------------------------------------------------------------------------------------------------


class Source(Section):
    """How input files are read."""

    format: Literal["csv", "json", "parquet", "arrow", "avro", "tfrecord"] | None = None
    """Of every file; told by its name's suffix when left out."""
    layout: Literal["long", "wide"] = "long"
    """A long table has a key column; a wide one a column for each series, named by its key."""
    series: tuple[str, ...] = ()
    """The series of a wide table; all columns but the time's when left out."""
    columns: dict[str, str] = {}
    """Columns that the files do not have, each with its one value, such as the key of a single series."""
    max_dead: Annotated[float, Field(ge=0, le=1)] = 1.0
    """A greater share of dead rows fails the job before it publishes."""


Share = Annotated[float, Field(ge=0, le=1)]


class Checks(Section):
    """What a dataset may be like: beyond a limit it is not published. What has no limit is only reported.

    All but `max_missing` compare it with a baseline, an earlier dataset, where one is given.
    """

    max_missing: Share | None = None
    """Of the steps of each feature, from each key's first to its last, how many may have no observed value."""
    max_missing_rise: Share | None = None
    """By how much that share may be above the baseline's."""
    max_drift: Share | None = None
    """The Jensen-Shannon divergence (base 2) of each feature's distribution from the baseline's."""
    max_new_keys: Share | None = None
    """Of the keys, how many the baseline may lack."""
    max_broken_step: Share | None = None
    """Of the keys that both have, how many may have another most frequent time between events."""


class Dataset(Section):
    """How windows are laid into files."""

    layout: Literal["block", "window"] = "block"
    """A record is a stretch of one key's steps, from which the reader cuts, or a single window for any tool to read."""
    block_windows: Count = 4096
    """At most so many consecutive windows of one key share a record."""
    shards: Count = 1
    """Files a split."""


class Topic(Section):
    """A topic as Tidegauge creates it where it does not exist."""

    name: Name
    partitions: Count = 1
    retention: DurationMs | Literal["unlimited"] = "unlimited"
    """Record time is event time, so a topic that expires by time loses replayed history at once."""


class Kafka(Section):
    """The broker and the stream's topics; a topic left out is named after the stream."""

    bootstrap_servers: str = "127.0.0.1:19092"
    group: Name | None = None
    input: Topic | None = None
    predictions: Topic | None = None
    late: Topic | None = None
    dead_letters: Topic | None = None
    max_poll_records: Count = 2000


class Serving(Section):
    """TF Serving, or the embedded model server."""

    address: Annotated[str, Field(pattern=r"^[^:/\s]+:\d{1,5}$")] = "127.0.0.1:8500"
    model: Name | None = None
    """The served model's name; the stream's name when left out."""
    version: Count | None = None
    """A pinned version; the latest when left out."""
    deadline: Annotated[DurationMs, Field(ge=1)] = 5_000
    max_batch: Count = 256


class Paths(Section):
    """Folders, relative to the working directory."""

    state: str = ".tidegauge"
    models: str = ".tidegauge/models"


class Spec(Section):
    """The whole spec. `load_spec` reads one."""

    stream: Stream
    grid: Grid
    window: Window
    split: SplitRule | None = None
    model: LstmModel | None = None
    training: Training = Training()
    source: Source = Source()
    checks: Checks = Checks()
    dataset: Dataset = Dataset()
    kafka: Kafka = Kafka()
    serving: Serving = Serving()
    paths: Paths = Paths()

    @model_validator(mode="after")
    def _leads_reach_the_horizon(self) -> Self:
        least, most = self.window.horizon, self.window.past
        for feature in self.stream.features:
            if feature.lead is not None and not least <= feature.lead <= most:
                raise ValueError(
                    f"the lead of '{feature.name}' must be at least horizon ({least}), so that all of it has been "
                    f"announced, and at most past ({most}), so that the window holds it"
                )
        return self

    @cached_property
    def span_ms(self) -> int:
        """A key that is silent for so long starts anew: nothing that its windows could still need is left."""
        return (self.window.past + self.grid.max_gap + 1) * self.grid.step + self.grid.lateness

    @cached_property
    def targets(self) -> tuple[Feature, ...]:
        """The features that are forecast, in the order of the model's outputs."""
        return tuple(feature for feature in self.stream.features if feature.role == "target")

    @cached_property
    def model_name(self) -> str:
        """The served model's name."""
        return self.serving.model or self.stream.name

    @cached_property
    def group(self) -> str:
        """The consumer group of `tidegauge stream`."""
        return self.kafka.group or f"tidegauge-{self.stream.name}"

    @cached_property
    def topics(self) -> Topics:
        """The stream's four topics, all with as many partitions as the input unless the spec says otherwise."""
        name, given = self.stream.name, self.kafka
        events = given.input or Topic(name=f"{name}.events")

        def derived(topic: Topic | None, suffix: str) -> Topic:
            return topic or Topic(name=f"{name}.{suffix}", partitions=events.partitions)

        return Topics(
            input=events,
            predictions=derived(given.predictions, "predictions"),
            late=derived(given.late, "late"),
            dead_letters=derived(given.dead_letters, "dead-letters"),
        )

    @cached_property
    def window_fingerprint(self) -> str:
        """Hash of all that the content of a window depends on; what batch, model and live must share."""
        return fingerprint_of(self.window_form())

    @cached_property
    def fingerprint(self) -> str:
        """Hash of the semantic sections: windows, split, model and training."""
        return fingerprint_of(self.semantic_form())

    def window_form(self) -> dict[str, Any]:
        """Canonical form of the window part: defaults and mappings left out, durations in ms."""
        stream = canonical(self.stream)
        features = [
            {name: value for name, value in feature.items() if name not in ("field", "description")}
            for feature in stream["features"]
        ]
        form = {"features": features, "grid": canonical(self.grid), "window": canonical(self.window)}
        return form | {name: stream[name] for name in ("time_range",) if name in stream}

    def semantic_form(self) -> dict[str, Any]:
        """Canonical form of the semantic sections."""
        sections = {"split": self.split, "model": self.model, "training": self.training}
        return self.window_form() | {name: canonical(part) for name, part in sections.items() if part is not None}

    def semantic_document(self) -> dict[str, Any]:
        """The semantic sections as a spec document, to embed in datasets and models: no settings, so no secrets."""
        names = ("stream", "grid", "window", "split", "model", "training")
        document = self.model_dump(mode="json", exclude_defaults=True)
        return {name: document[name] for name in names if name in document}


class Topics(Section):
    """The topics of one stream, with nothing left out."""

    input: Topic
    predictions: Topic
    late: Topic
    dead_letters: Topic


def canonical(section: BaseModel) -> dict[str, Any]:
    """Canonical form: a field at its default is left out, so a new optional field changes no old fingerprint."""
    return section.model_dump(mode="python", exclude_defaults=True)


def fingerprint_of(form: Mapping[str, Any]) -> str:
    """Hash of a canonical form: 32 hexadecimal digits."""
    text = json.dumps(form, sort_keys=True, separators=(",", ":"), ensure_ascii=True)
    return hashlib.blake2b(text.encode(), digest_size=16).hexdigest()


# --- reading ---------------------------------------------------------------------------------------------------------

_ENVIRONMENT_PREFIX = "TIDEGAUGE_"
_SETTINGS = ("source", "checks", "dataset", "kafka", "serving", "paths")


class _StrictLoader(yaml.SafeLoader):
    """YAML's safe loader, which refuses a key that is there twice and reads `1e-3` as the number it is."""

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Any, Any]:
        seen: set[str] = set()
        for key, _ in node.value:
            if isinstance(key, yaml.ScalarNode) and key.value in seen:
                problem = f"the field '{key.value}' is there twice"
                raise yaml.constructor.ConstructorError(None, None, problem, key.start_mark)
            seen.add(key.value if isinstance(key, yaml.ScalarNode) else "")
        mapping: dict[Any, Any] = super().construct_mapping(node, deep)
        return mapping


_StrictLoader.add_implicit_resolver(
    "tag:yaml.org,2002:float", re.compile(r"[-+]?\d+(\.\d*)?[eE][-+]?\d+"), list("-+0123456789")
)


def load_spec(path: str | os.PathLike[str], environment: Mapping[str, str] | None = None) -> Spec:
    """Reads a spec file, with the settings that environment variables override.

    Args:
      path: a YAML file.
      environment: variables to look at; the process's own when left out.
    Raises:
      SpecError: the file cannot be read or is wrong; one line for each problem, all at once.
    """
    document = read_document(path, environment)
    if "text" in document:
        raise SpecError(f"{path}: $.text: expected a spec of series, got one of texts")
    return parse_spec(document, where=str(path))


def read_document(path: str | os.PathLike[str], environment: Mapping[str, str] | None = None) -> dict[str, Any]:
    """The document in a spec file, as it is but for the settings that environment variables override.

    Raises:
      SpecError: the file cannot be read, or holds no document.
    """
    try:
        document = yaml.load(Path(path).read_text(encoding="utf-8"), Loader=_StrictLoader)  # noqa: S506
    except OSError as exc:
        raise SpecError(f"{path}: expected a spec file, got {exc.strerror}") from exc
    except (yaml.YAMLError, UnicodeDecodeError) as exc:
        raise SpecError(f"{path}: expected YAML, got {' '.join(str(exc).split())}") from exc
    if not isinstance(document, dict):
        raise SpecError(f"{path}: expected sections such as 'stream:' and 'window:', got {type(document).__name__}")
    _override_settings(document, os.environ if environment is None else environment)
    return document


def parse_spec(document: Mapping[str, Any], *, where: str = "spec") -> Spec:
    """Validates a spec document (what YAML or an embedded JSON gives).

    Raises:
      SpecError: one line for each problem.
    """
    return parse_as(Spec, document, where=where)


def parse_as(kind: type[S], document: Mapping[str, Any], *, where: str) -> S:
    """Validates a document as a section or a whole spec.

    Raises:
      SpecError: one line for each problem.
    """
    try:
        return kind.model_validate(_tuples(document))
    except ValidationError as exc:
        lines = [_problem(error, document, kind) for error in exc.errors(include_url=False)]
        raise SpecError("\n".join(f"{where}: {line}" for line in lines)) from exc


def spec_json_schema(kind: type[BaseModel] = Spec) -> dict[str, Any]:
    """JSON Schema of a spec of series, or of another kind, for editors."""
    return {"$schema": "https://json-schema.org/draft/2020-12/schema", "title": "Tidegauge spec"} | {
        name: part for name, part in kind.model_json_schema(mode="validation").items() if name != "title"
    }


def _override_settings(document: dict[str, Any], environment: Mapping[str, str]) -> None:
    for variable, text in environment.items():
        section, _, field = variable.removeprefix(_ENVIRONMENT_PREFIX).lower().partition("__")
        if variable.startswith(_ENVIRONMENT_PREFIX) and section in _SETTINGS and field:
            document[section] = (document.get(section) or {}) | {field: yaml.safe_load(text)}


def _tuples(value: Any) -> Any:
    # Strict mode takes only tuples for tuple fields; YAML and JSON have only lists.
    if isinstance(value, dict):
        return {name: _tuples(part) for name, part in value.items()}
    return tuple(_tuples(part) for part in value) if isinstance(value, list) else value


def _problem(error: Any, document: Any, kind: type[BaseModel]) -> str:
    path, value = "$", document
    for part in error["loc"]:
        if isinstance(value, dict) and part in value:
            path, value = f"{path}.{part}", value[part]
        elif isinstance(value, list) and isinstance(part, int) and part < len(value):
            path, value = f"{path}[{part}]", value[part]
        elif error["type"] == "missing" and part == error["loc"][-1]:
            path = f"{path}.{part}"
        # Any other part is the tag of a union, which the document does not have.
    if error["type"] == "missing":
        return f"{path}: expected a value, got none"
    if error["type"] == "extra_forbidden":
        close = get_close_matches(str(error["loc"][-1]), sorted(_field_names(kind)), n=1)
        return f"{path}: unknown field" + (f"; did you mean '{close[0]}'?" if close else "")
    message = error["msg"].removeprefix("Value error, ").replace("Input should be", "expected")
    return f"{path}: {message[0].lower()}{message[1:]}" + ("" if isinstance(value, dict) else f", got {value!r}")


def _field_names(model: type[BaseModel]) -> set[str]:
    definitions = model.model_json_schema().get("$defs", {}).values()
    return set(model.model_fields) | {name for part in definitions for name in part.get("properties", {})}
