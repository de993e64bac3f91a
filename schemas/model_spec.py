"""What is trained."""

from __future__ import annotations

from typing import Annotated, Literal, Self

from pydantic import AfterValidator, Field, model_validator

from schemas.section import Count, Section

Activation = Literal["relu", "leaky_relu", "sigmoid", "tanh", "gelu"]
Dropout = Annotated[float, Field(ge=0, lt=1)]
"""Share of activations that training leaves out."""


def _levels_around_the_median(levels: tuple[float, ...]) -> tuple[float, ...]:
    if levels and (0.5 not in levels or sorted(set(levels)) != list(levels) or not 0 < levels[0] <= levels[-1] < 1):
        raise ValueError("expected rising levels between 0 and 1 with 0.5 among them, whose quantile is the forecast")
    return levels


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


class AttentionModel(ForecastModel):
    """A Transformer encoder over patches of the past."""

    family: Literal["attention"]
    units: Count = 64
    layers: Count = 2
    heads: Count = 4
    """Of each attention; it divides the units."""
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

    @model_validator(mode="after")
    def _heads_divide_the_units(self) -> Self:
        if self.units % self.heads:
            raise ValueError(f"heads must divide units; {self.heads} does not divide {self.units}")
        return self


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


class HierarchicalModel(ForecastModel):
    """Levels of attention over chunks of the past, for tens of thousands of steps."""

    family: Literal["hierarchical"]
    units: Count = 64
    """Width of a token, of which `heads` is a divisor."""
    heads: Count = 4
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
    def _fits_together(self) -> Self:
        if self.units % self.heads:
            raise ValueError(f"expected units that are a multiple of the {self.heads} heads, got {self.units}")
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


ModelSection = Annotated[
    MlpModel | RnnModel | LstmModel | AttentionModel | CnnModel | HierarchicalModel,
    Field(discriminator="family"),
]
"""The model of a spec: one section for each family."""
