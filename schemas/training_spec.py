"""How a model is fitted by gradient descent."""

from __future__ import annotations

from typing import Annotated, Literal, Self

from pydantic import Field, model_validator

from schemas.section import Count, Section, Share

Positive = Annotated[float, Field(gt=0)]
Factor = Annotated[float, Field(gt=0, lt=1)]
WarmUp = Annotated[float, Field(ge=0)]


class ConstantRate(Section):
    """The learning rate as it is given."""

    by: Literal["constant"]
    warmup: WarmUp = 0.0
    """Epochs, or a part of one, in which the rate rises evenly from 0; the same for every schedule."""


class CosineRate(Section):
    """Down along half a cosine, from the end of the warm-up to the last of `training.epochs`."""

    by: Literal["cosine"]
    warmup: WarmUp = 0.0
    floor: Share = 0.0
    """Where it ends, as a share of the learning rate."""


class ExponentialRate(Section):
    """Times `factor` every so many epochs."""

    by: Literal["exponential"]
    warmup: WarmUp = 0.0
    factor: Factor
    every: Positive = 1.0
    """Epochs, counted from the end of the warm-up."""
    steps: bool = False
    """In steps, at the end of each `every`; otherwise evenly."""


class PlateauRate(Section):
    """Times `factor` after `patience` epochs without a better validation loss."""

    by: Literal["plateau"]
    warmup: WarmUp = 0.0
    factor: Factor = 0.5
    patience: Count = 2
    floor: Share = 0.0
    """Not below this share of the learning rate."""


Schedule = Annotated[ConstantRate | CosineRate | ExponentialRate | PlateauRate, Field(discriminator="by")]


class Training(Section):
    """How the model is fitted."""

    loss: Literal["mse", "mae", "huber"] = "mse"
    optimizer: Literal["sgd", "adagrad", "rmsprop", "adam", "adamw"] = "adam"
    learning_rate: Positive = 1e-3
    momentum: Annotated[float, Field(ge=0, lt=1)] = 0.0
    """Of `sgd` and `rmsprop`."""
    nesterov: bool = False
    """Momentum looks ahead; of `sgd`."""
    weight_decay: Annotated[float, Field(ge=0)] = 0.0
    """Decoupled from the gradient: each step takes this share times the learning rate off the weights, but for biases
    and what scales a normalisation. With any optimizer; `adamw` is `adam` with one."""
    schedule: Schedule = ConstantRate(by="constant")
    clip: Literal["global_norm", "norm", "value", "none"] = "global_norm"
    """What `clip_norm` bounds: the norm of the whole gradient, that of each variable's, or each number of it."""
    clip_norm: Positive = 1.0
    batch_size: Count = 256
    epochs: Count = 30
    windows_per_epoch: Count | None = None
    """An epoch is so many windows (documents), drawn anew each time, rounded down to whole batches; all of them when
    left out."""
    patience: Count | None = 4
    """Epochs without a better validation loss before training stops; null never stops early. The best weights come
    back either way."""
    precision: Literal["float32", "bfloat16"] = "float32"
    """What layers compute in; weights, losses and outputs are float32 always."""
    steps_per_execution: Count = 1
    """Batches in one call of the compiled graph. It changes nothing but the time that a small model's epoch takes."""
    class_weights: Literal["balanced"] | dict[str, Positive] | None = None
    """What a class counts in a classifier's loss: by name (1 for one that is not named), or `balanced`, so that all of
    them together count alike."""
    seed: int = 0

    @model_validator(mode="after")
    def _optimizer_has_its_options(self) -> Self:
        if self.momentum and self.optimizer not in ("sgd", "rmsprop"):
            raise ValueError(f"'{self.optimizer}' has no momentum; 'sgd' and 'rmsprop' have one")
        if self.nesterov and not (self.optimizer == "sgd" and self.momentum):
            raise ValueError("nesterov is for 'sgd' with a momentum")
        if self.optimizer == "adamw" and not self.weight_decay:
            raise ValueError("'adamw' is 'adam' with a weight_decay; expected one greater than 0")
        return self
