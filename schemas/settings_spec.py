"""Where and how a stream runs: no part of any fingerprint, and what environment variables override."""

from __future__ import annotations

from typing import Annotated, Literal, Self

from pydantic import Field, model_validator

from schemas.section import Count, Name, Section, Share
from schemas.security_spec import KafkaSecurity, Tls
from schemas.units import DurationMs


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


class Avro(Section):
    """How Avro values name their schema: by an id, in Confluent's wire format, or not at all."""

    schema_id: Annotated[int, Field(ge=1, lt=1 << 31)] | None = None
    registry: Annotated[str, Field(pattern=r"^https?://\S+$")] | None = None
    """The schema is registered there, under the predictions topic's name and `-value`."""

    @model_validator(mode="after")
    def _one_id(self) -> Self:
        if self.schema_id is not None and self.registry is not None:
            raise ValueError("expected schema_id or registry, not both")
        return self


class Kafka(Section):
    """The broker and the stream's topics; a topic left out is named after the stream."""

    bootstrap_servers: str = "127.0.0.1:19092"
    security: KafkaSecurity = KafkaSecurity()
    group: Name | None = None
    input: Topic | None = None
    predictions: Topic | None = None
    late: Topic | None = None
    dead_letters: Topic | None = None
    accuracy: Topic | None = None
    """Of `tidegauge accuracy`, as is `triggers`."""
    triggers: Topic | None = None
    changelog: Name | None = None
    """The topic of `recovery: changelog`; always with as many partitions as the input."""
    delivery: Literal["exactly_once", "at_least_once"] = "exactly_once"
    """Whether what a batch yields and how far the input is done are one transaction, or written one after the other."""
    recovery: Literal["replay", "changelog"] = "replay"
    """Whether windows are rebuilt from the input topic, or kept in a compacted topic."""
    idle_close: Annotated[DurationMs, Field(ge=1)] | None = None
    """So long after its end, by the wall clock, a step of an idle key is closed for a provisional prediction."""
    value_format: Literal["json", "avro"] = "json"
    """Of predictions."""
    avro: Avro = Avro()
    max_poll_records: Count = 2000


class ShadowWindows(Section):
    """An older version predicts some of the windows too, as long as the server has one beside the one that answers."""

    share: Annotated[float, Field(gt=0, le=1)] = 1.0
    """Of the windows, by a hash of key and origin."""


class CanaryKeys(Section):
    """Another version answers for some of the keys, as long as the server gives it this label."""

    label: Name = "canary"
    share: Annotated[float, Field(gt=0, le=1)] = 0.1
    """Of the keys, by a hash of the key."""


class Serving(Section):
    """TF Serving, or the embedded model server."""

    address: Annotated[str, Field(pattern=r"^[^:/\s]+:\d{1,5}$")] = "127.0.0.1:8500"
    model: Name | None = None
    """The served model's name; the stream's name when left out."""
    version: Count | None = None
    """A pinned version; the latest when left out."""
    label: Name | None = None
    """In place of a version, the label that the server gives to one, such as `stable`."""
    deadline: Annotated[DurationMs, Field(ge=1)] = 5_000
    max_batch: Count = 256
    max_in_flight: Count = 4
    """Requests that are under way at once."""
    tls: Tls | None = None
    shadow: ShadowWindows | None = None
    canary: CanaryKeys | None = None
    config_file: str | None = None
    """The server's model config file, where it is not `models.config` in the model's folder."""

    @model_validator(mode="after")
    def _one_choice(self) -> Self:
        if self.version is not None and self.label is not None:
            raise ValueError("expected version or label, not both")
        return self

    @model_validator(mode="after")
    def _canary_is_another(self) -> Self:
        if self.canary is not None and self.label in (None, self.canary.label):
            raise ValueError(f"expected a label for the other keys beside the canary's, got {self.label}")
        return self


class Paths(Section):
    """Folders, relative to the working directory."""

    state: str = ".tidegauge"
    models: str = ".tidegauge/models"


class Topics(Section):
    """The topics of one stream, with nothing left out."""

    input: Topic
    predictions: Topic
    late: Topic
    dead_letters: Topic
    accuracy: Topic
    triggers: Topic

    @classmethod
    def of(cls, stream: str, given: Kafka) -> Self:
        """The topics of a stream: as given, or named after it with as many partitions as the input."""
        events = given.input or Topic(name=f"{stream}.events")

        def derived(topic: Topic | None, suffix: str) -> Topic:
            return topic or Topic(name=f"{stream}.{suffix}", partitions=events.partitions)

        return cls(
            input=events,
            predictions=derived(given.predictions, "predictions"),
            late=derived(given.late, "late"),
            dead_letters=derived(given.dead_letters, "dead-letters"),
            accuracy=derived(given.accuracy, "accuracy"),
            triggers=given.triggers or Topic(name=f"{stream}.triggers"),
        )
