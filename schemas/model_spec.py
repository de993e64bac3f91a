"""What is trained."""

from __future__ import annotations

from functools import cached_property
from typing import Annotated, Any, Literal, Self

from pydantic import AfterValidator, Field, TypeAdapter, model_validator

from schemas.section import Count, Section, Share
from schemas.units import DURATION_PATTERN, format_duration, parse_duration_ms

Activation = Literal["relu", "leaky_relu", "sigmoid", "tanh", "gelu"]
Dropout = Annotated[float, Field(ge=0, lt=1)]
"""Share of activations that training leaves out."""


def _levels_around_the_median(levels: tuple[float, ...]) -> tuple[float, ...]:
    if levels and (0.5 not in levels or sorted(set(levels)) != list(levels) or not 0 < levels[0] <= levels[-1] < 1):
        raise ValueError("expected rising levels between 0 and 1 with 0.5 among them, whose quantile is the forecast")
    return levels


Steps = Annotated[tuple[Count, ...], Field(strict=False)]
"""Numbers of steps."""

Season = Count | Annotated[str, Field(pattern=DURATION_PATTERN)]
"""The length of a season, in steps or as a duration such as 1d."""


def season_steps(season: Season, step_ms: int) -> int:
    """A season in steps of so many milliseconds.

    Raises:
      ValueError: it is not a whole number of steps, or none.
    """
    if isinstance(season, int):
        return season
    steps, rest = divmod(parse_duration_ms(season), step_ms)
    if rest or not steps:
        raise ValueError(f"a season must be a whole number of steps ({format_duration(step_ms)}), got {season}")
    return steps


class ForecastModel(Section):
    """What every family of forecasting models shares."""

    scaling: Literal["shared", "per_key", "window"] = "shared"
    """Whose mean and deviation normalise a value: the train split's, the key's own in it, or the window's own."""
    channels: Literal["together", "independent"] = "together"
    """Whether the targets of a window are forecast at once, each from all, or one by one with the same weights."""
    anchor: Literal["last", "mean", "none"] = "last"
    """What a forecast is relative to: the target's last observed value, its mean in the window, or the scaling's mean.
    """
    reversible: bool = False
    """Normalised targets are stretched and shifted by learnt numbers, and forecasts are put back by the same."""
    quantiles: Annotated[tuple[float, ...], Field(strict=False), AfterValidator(_levels_around_the_median)] = ()
    """Levels to forecast, rising, with 0.5 among them: the median is the forecast then."""

    @property
    def on_absolute_steps(self) -> bool:
        """Whether the model must be told the number of each window's first step."""
        return False

    def no_classifier(self) -> str | None:
        """What of it makes sense for forecasts alone, if anything."""
        if self.channels == "independent" or self.reversible or self.quantiles:
            return "'channels: independent', 'reversible' or 'quantiles'"
        return None

    def reaches(self, step_ms: int) -> dict[str, int]:  # noqa: ARG002
        """How many steps before the origin its fields ask for, by field; at most those of a window's past."""
        return {}


class MlpModel(ForecastModel):
    """Layers of neurons over the whole past at once."""

    family: Literal["mlp"]
    units: Count = 128
    layers: Count = 3
    activation: Activation = "relu"
    shortcuts: bool = True
    """Whether each layer adds to what went into it, so that deep stacks train as well as shallow ones."""
    dropout: Dropout = 0.0


class RnnModel(ForecastModel):
    """A recurrence over segments of the past that decodes all segments of the horizon at once."""

    family: Literal["rnn"]
    cell: Literal["gru", "simple"] = "gru"
    units: Count = 64
    layers: Count = 1
    segment: Count = 24
    """Steps that make one token of the recurrence, and of the horizon; 1 takes every step by itself."""
    dropout: Dropout = 0.0


class LstmModel(ForecastModel):
    """Stacked LSTM over segments of the past with a direct head for all horizon steps."""

    family: Literal["lstm"]
    units: Count = 64
    layers: Count = 1
    segment: Count = 24
    """Steps that make one token of the recurrence; 1 takes every step by itself."""
    bidirectional: bool = False
    """Whether the past is read from both ends; none of it lies after the origin."""
    forget: Literal["one", "chrono"] = "one"
    """What the forget gates' biases start from: 1, or spread so that memories last from one token to all of them."""
    dropout: Dropout = 0.0


class MultiHeadModel(ForecastModel):
    """What families of several attention heads share."""

    units: Count = 64
    """Width of a token, of which `heads` is a divisor."""
    heads: Count = 4
    """Of each attention."""

    @model_validator(mode="after")
    def _heads_divide_the_units(self) -> Self:
        if self.units % self.heads:
            raise ValueError(f"heads must divide units; {self.heads} does not divide {self.units}")
        return self


class AttentionModel(MultiHeadModel):
    """A Transformer encoder over patches of the past."""

    family: Literal["attention"]
    layers: Count = 2
    feed_forward: Count = 128
    """Width of the net after each attention."""
    patch: Count = 16
    """Steps that make one token."""
    stride: Count = 8
    """Steps from the beginning of a patch to that of the next."""
    norm: Literal["layer", "batch"] = "layer"
    """What is normalised before each part: each token by itself, or each channel over the batch."""
    activation: Activation = "gelu"
    dropout: Dropout = 0.0


class CnnModel(ForecastModel):
    """Convolutions over patches of the past."""

    family: Literal["cnn"]
    kind: Literal["dilated", "wide"] = "dilated"
    """Causal convolutions whose reach doubles with each layer, or depthwise ones that reach far at once."""
    units: Count = 64
    layers: Count = 4
    kernel: Count | None = None
    """Patches that a convolution looks at: 3 of `dilated` and 25 of `wide` when left out."""
    patch: Count = 8
    """Steps that make one token."""
    stride: Count = 4
    """Steps from the beginning of a patch to that of the next."""
    shortcuts: bool = True
    """Whether each layer adds to what went into it."""
    activation: Activation = "gelu"
    dropout: Dropout = 0.0


class HierarchicalModel(MultiHeadModel):
    """Levels of attention over chunks of the past, for tens of thousands of steps."""

    family: Literal["hierarchical"]
    layers: Count = 1
    """Encoder blocks of each level."""
    patch: Count = 8
    """Steps that make one token; 1 takes every step by itself."""
    chunk: Count = 64
    """Tokens that attend to each other and are pooled into one token of the level above."""
    recent: Count = 512
    """Last steps from which a linear path leads to the forecast."""
    dropout: Dropout = 0.0
    cacheable: bool = False
    """Whether chunks are cut on absolute steps, so that their summaries can be kept from one window to the next."""

    @model_validator(mode="after")
    def _is_cacheable(self) -> Self:
        if not self.cacheable:
            return self
        needed = {"scaling": ("shared", "per_key"), "channels": ("together",), "anchor": ("last", "none")}
        for name, allowed in needed.items():
            if getattr(self, name) not in allowed:
                raise ValueError(
                    f"a cacheable model looks at no window as a whole: expected {name} {' or '.join(allowed)}, "
                    f"got {getattr(self, name)}"
                )
        if self.reversible:
            raise ValueError("a cacheable model normalises by constants of the dataset only: expected reversible false")
        return self

    @property
    def on_absolute_steps(self) -> bool:
        """Whether the model must be told the number of each window's first step."""
        return self.cacheable

    def no_classifier(self) -> str | None:
        """What of it makes sense for forecasts alone, if anything."""
        return "'cacheable'" if self.cacheable else super().no_classifier()


class FittedModel(ForecastModel):
    """What the families share that are fitted without descent."""

    @model_validator(mode="after")
    def _nothing_for_descent(self) -> Self:
        if self.reversible or self.quantiles:
            raise ValueError("a family that is fitted without descent has neither 'reversible' nor 'quantiles'")
        return self

    def no_classifier(self) -> str | None:
        """All of it."""
        return "a family that is fitted without descent"


class PersistenceModel(FittedModel):
    """The last observed value, repeated."""

    family: Literal["persistence"]


class SeasonalModel(FittedModel):
    """The last observed value of the same phase of the season, repeated."""

    family: Literal["seasonal"]
    season: Season
    """In steps (24), or as a duration (1d)."""

    def reaches(self, step_ms: int) -> dict[str, int]:
        """How far back it looks."""
        return {"season": season_steps(self.season, step_ms)}


class LinearModel(FittedModel):
    """A linear map by least squares with a ridge; what it leaves open is chosen on the validation split."""

    family: Literal["linear"]
    channels: Literal["together", "independent"] = "independent"
    weights: Literal["auto", "shared", "per_channel"] = "auto"
    """Of independent channels: whether they share one map or each has its own."""
    look_back: Steps = ()
    """How many steps before the origin it sees, or several to choose from; the whole past when left out."""
    strengths: Annotated[tuple[Annotated[float, Field(ge=0)], ...], Field(strict=False, min_length=1)] = (
        0.001,
        0.01,
        0.1,
        0.3,
        1.0,
        3.0,
        10.0,
    )
    """Ridge penalties to choose from, relative to the mean square of an input."""

    def reaches(self, step_ms: int) -> dict[str, int]:  # noqa: ARG002
        """How far back it looks."""
        return {"look_back": max(self.look_back, default=0)}


class ForestModel(FittedModel):
    """Random forest on features of the window: lags, and over spans the mean, least, greatest and slope."""

    family: Literal["forest"]
    trees: Count = 100
    depth: Count = 16
    min_leaf: Count = 5
    """Rows that a leaf has at least."""
    bagging: Annotated[float, Field(gt=0, le=1)] = 1.0
    """Rows that each tree draws, with replacement, relative to all; the others measure its out-of-bag error."""
    feature_share: Annotated[float, Field(gt=0, le=1)] = 0.33
    """Share of the features that each split draws to choose from."""
    rows: Count = 100_000
    """About so many pairs of a window and a step of its horizon are drawn for training; of a label, windows."""
    lags: Steps = ()
    """Steps before the origin whose values are features; powers of 2 when left out."""
    spans: Steps = ()
    """Lengths of the stretches before the origin that are summed up; powers of 4 and the whole past when left out."""
    season: Season | None = None
    """Makes the last observed value of the coming step's phase a feature; in steps (24), or as a duration (1d)."""
    op: Literal["plain", "ydf"] = "plain"
    """What the exported trees are: operations of any TensorFlow, or ydf's own, which a server must have linked."""

    def reaches(self, step_ms: int) -> dict[str, int]:
        """How far back it looks."""
        far = {"lags": max(self.lags, default=0), "spans": max(self.spans, default=0)}
        return far if self.season is None else far | {"season": season_steps(self.season, step_ms)}

    def no_classifier(self) -> str | None:
        """Trees vote for classes by plain operations; a coming step's phase tells nothing of a whole window."""
        if self.season is not None or self.op == "ydf":
            return "'season' or 'op: ydf'"
        return ForecastModel.no_classifier(self)


SingleModel = Annotated[
    MlpModel
    | RnnModel
    | LstmModel
    | AttentionModel
    | CnnModel
    | HierarchicalModel
    | PersistenceModel
    | SeasonalModel
    | LinearModel
    | ForestModel,
    Field(discriminator="family"),
]
"""A model that is no ensemble: one section for each family."""

_SINGLE: TypeAdapter[SingleModel] = TypeAdapter(SingleModel)


class EnsembleModel(ForecastModel):
    """Several models as one, the weighted mean of them; `tidegauge ensemble` makes one."""

    family: Literal["ensemble"]
    members: Annotated[tuple[dict[str, Any], ...], Field(min_length=1)]
    """The model section of each."""
    weights: tuple[Share, ...]
    """Of each, together 1."""

    @model_validator(mode="after")
    def _is_whole(self) -> Self:
        if len(self.weights) != len(self.members) or abs(sum(self.weights) - 1) > 1e-6:
            raise ValueError(f"expected a weight for each of the {len(self.members)} members, together 1")
        if any(section.quantiles != self.quantiles for section in self.sections):
            raise ValueError("expected members with the quantiles of the ensemble")
        return self

    @cached_property
    def sections(self) -> tuple[SingleModel, ...]:
        """The members."""
        return tuple(_SINGLE.validate_python(member) for member in self.members)

    def no_classifier(self) -> str | None:
        """What of the members does."""
        return next((problem for section in self.sections if (problem := section.no_classifier())), None)

    @property
    def on_absolute_steps(self) -> bool:
        """Whether a member must be told the number of each window's first step."""
        return any(section.on_absolute_steps for section in self.sections)

    def reaches(self, step_ms: int) -> dict[str, int]:
        """How far back the members look."""
        return {
            f"members[{number}].{name}": steps
            for number, section in enumerate(self.sections)
            for name, steps in section.reaches(step_ms).items()
        }


ModelSection = Annotated[SingleModel | EnsembleModel, Field(discriminator="family")]
"""The model of a spec."""
