"""The spec: one YAML file that describes a stream and drives ingest, training, live predictions and retraining.

Two kinds of section. The *semantic* ones (`stream`, `grid`, `window`, `split`, `model`, `training`, `uncertainty`,
`evaluation`) say what the windows and the model are, and how it is measured; their canonical form, but for
`evaluation`'s, is hashed into fingerprints. The *settings* (`source`, `checks`, `dataset`, `kafka`, `serving`,
`accuracy`, `retrain`, `paths`) say where and how it runs; environment variables override them
(`TIDEGAUGE_KAFKA__BOOTSTRAP_SERVERS=...`).

All times and durations are int milliseconds in code; `schemas.units` reads what YAML writes.
"""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from functools import cached_property
from typing import Any, Self

from pydantic import BaseModel, model_validator

from schemas.accuracy_spec import Accuracy
from schemas.documents import canonical, fingerprint_of, parse_as, read_document
from schemas.errors import SpecError
from schemas.evaluation_spec import Evaluation, Uncertainty
from schemas.model_spec import HierarchicalModel, ModelSection
from schemas.retrain_spec import Retrain
from schemas.section import Section
from schemas.settings_spec import Checks, Dataset, Kafka, Paths, Serving, Source, Topics
from schemas.split_spec import SplitRule
from schemas.stream_spec import Feature, Grid, Stream, Window
from schemas.training_spec import Training

MAPPINGS = frozenset(("field", "length", "index", "description"))
"""What a feature says of events and to people, and not of windows."""


class Spec(Section):
    """The whole spec. `load_spec` reads one."""

    stream: Stream
    grid: Grid
    window: Window
    split: SplitRule | None = None
    model: ModelSection | None = None
    training: Training = Training()
    uncertainty: Uncertainty = Uncertainty()
    evaluation: Evaluation = Evaluation()
    source: Source = Source()
    checks: Checks = Checks()
    dataset: Dataset = Dataset()
    kafka: Kafka = Kafka()
    serving: Serving = Serving()
    accuracy: Accuracy = Accuracy()
    retrain: Retrain = Retrain()
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

    @model_validator(mode="after")
    def _a_label_is_told_once(self) -> Self:
        if self.stream.label is not None and self.window.min_observed_target > 1:
            raise ValueError("$.window.min_observed_target is for targets; the first label of the horizon is enough")
        return self

    @model_validator(mode="after")
    def _a_classifier_forecasts_nothing(self) -> Self:
        if self.stream.label is None:
            return self
        if self.uncertainty.intervals or self.evaluation.slices:
            raise ValueError("$.uncertainty.intervals and $.evaluation.slices are for forecasts, not for a label")
        if self.model is not None and (problem := self.model.no_classifier()):
            raise ValueError(f"$.model: {problem} does not go with a label")
        return self

    @model_validator(mode="after")
    def _summaries_see_the_last_value(self) -> Self:
        model, needed = self.model, self.grid.max_gap + 1
        if isinstance(model, HierarchicalModel) and model.cacheable and model.recent < min(needed, self.window.past):
            raise ValueError(
                f"$.model.recent: expected at least $.grid.max_gap + 1 = {needed} steps, got {model.recent}"
            )
        return self

    @model_validator(mode="after")
    def _intervals_have_one_source(self) -> Self:
        if self.uncertainty.intervals and self._model_levels:
            raise ValueError(
                "$.uncertainty.intervals is for a model without quantiles; expected the bounds among $.model.quantiles"
            )
        return self

    @property
    def _model_levels(self) -> tuple[float, ...]:
        return () if self.model is None else self.model.quantiles

    @cached_property
    def quantile_levels(self) -> tuple[float, ...]:
        """The levels of the model's output `quantiles`, rising; without any there is no such output."""
        alphas = [round(1 - coverage, 9) for coverage in self.uncertainty.intervals]
        bounds = (round(bound, 9) for alpha in alphas for bound in (alpha / 2, 1 - alpha / 2))
        return self._model_levels or tuple(sorted(bounds))

    @cached_property
    def season(self) -> int:
        """Steps of a season: what errors are measured against in MASE, MSIS and Naive2."""
        day, step = 86_400_000, self.grid.step
        guess = 7 if step == day else day // step if step < day and day % step == 0 else 1
        return self.evaluation.season or guess

    @model_validator(mode="after")
    def _scored_steps_are_forecast(self) -> Self:
        if self.scored_steps[-1] > self.window.horizon:
            raise ValueError(
                f"$.accuracy.steps: expected steps of the horizon ({self.window.horizon}), got {self.scored_steps[-1]}"
            )
        return self

    @cached_property
    def scored_steps(self) -> tuple[int, ...]:
        """The steps of the horizon that live predictions are scored at, counted from 1, rising."""
        horizon = self.window.horizon
        return self.accuracy.steps or tuple(sorted({1, (horizon + 1) // 2, horizon}))

    @model_validator(mode="after")
    def _model_sees_the_past(self) -> Self:
        for name, steps in ({} if self.model is None else self.model.reaches(self.grid.step)).items():
            if steps > self.window.past:
                raise ValueError(f"model.{name} must be at most window.past ({self.window.past}) steps, got {steps}")
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
    def classes(self) -> tuple[str, ...]:
        """The classes of windows, in the order of their numbers; none where targets are forecast."""
        return () if self.stream.label is None else self.stream.label.categories

    @cached_property
    def model_name(self) -> str:
        """The served model's name."""
        return self.serving.model or self.stream.name

    @cached_property
    def group(self) -> str:
        """The consumer group of `tidegauge stream`."""
        return self.kafka.group or f"tidegauge-{self.stream.name}"

    @cached_property
    def changelog(self) -> str | None:
        """The topic that holds the state of every key; None where windows are rebuilt from the input."""
        return self.kafka.changelog or f"{self.stream.name}.changelog" if self.kafka.recovery == "changelog" else None

    @cached_property
    def topics(self) -> Topics:
        """The stream's topics; unless the spec says otherwise, all but `triggers` have the input's partitions."""
        return Topics.of(self.stream.name, self.kafka)

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
            {name: value for name, value in feature.items() if name not in MAPPINGS} for feature in stream["features"]
        ]
        form = {"features": features, "grid": canonical(self.grid), "window": canonical(self.window)}
        return form | {name: stream[name] for name in ("time_range",) if name in stream}

    def semantic_form(self) -> dict[str, Any]:
        """Canonical form of the semantic sections."""
        sections = {"split": self.split, "model": self.model, "training": self.training}
        form = self.window_form() | {name: canonical(part) for name, part in sections.items() if part is not None}
        # A section that is newer than the first fingerprints is part of them only where it says something.
        return form | ({"uncertainty": told} if (told := canonical(self.uncertainty)) else {})

    def semantic_document(self) -> dict[str, Any]:
        """The semantic sections as a spec document, to embed in datasets and models: no settings, so no secrets."""
        names = ("stream", "grid", "window", "split", "model", "training", "uncertainty", "evaluation")
        document = self.model_dump(mode="json", exclude_defaults=True)
        return {name: document[name] for name in names if name in document}


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


def parse_spec(document: Mapping[str, Any], *, where: str = "spec") -> Spec:
    """Validates a spec document (what YAML or an embedded JSON gives).

    Raises:
      SpecError: one line for each problem.
    """
    return parse_as(Spec, document, where=where)


def require_targets(spec: Spec, verb: str) -> None:
    """Checks that a spec forecasts, for what does not classify.

    Raises:
      SpecError: its stream has a label.
    """
    if spec.stream.label is not None:
        raise SpecError(f"$.stream.features: expected a target to {verb}, got the label '{spec.stream.label.name}'")


def served_levels(spec_json: str) -> tuple[float, ...]:
    """The levels of a served model's quantiles, from what it says of itself (`describe`).

    None where the text is no spec of this release: a model of another one may still be asked for its mean.
    """
    try:
        return parse_spec(json.loads(spec_json)).quantile_levels
    except (ValueError, SpecError):
        return ()


def spec_json_schema(kind: type[BaseModel] = Spec) -> dict[str, Any]:
    """JSON Schema of a spec of series, or of another kind, for editors."""
    return {"$schema": "https://json-schema.org/draft/2020-12/schema", "title": "Tidegauge spec"} | {
        name: part for name, part in kind.model_json_schema(mode="validation").items() if name != "title"
    }
