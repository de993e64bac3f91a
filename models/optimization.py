"""The optimizer that a spec describes: its rule, its learning rate over time and how gradients are clipped."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any

import keras
import tensorflow as tf

from schemas.training_spec import (
    ConstantRate,
    CosineRate,
    ExponentialRate,
    PlateauRate,
    Training,
)

_UNDECAYED = ("bias", "gamma", "beta", "scale")
"""Of the names of variables: those that weight decay leaves alone."""


class LearningRate(keras.optimizers.schedules.LearningRateSchedule):  # type: ignore[misc]
    """The learning rate at a step: warm-up, then the schedule's course.

    `plateau_factor` is what a plateau has left of it; `note` sets it by the epochs so far.
    """

    def __init__(self, training: Training, steps_per_epoch: int) -> None:
        super().__init__()
        self._training, self._steps = training, steps_per_epoch
        self.plateau_factor = tf.Variable(1.0, trainable=False, name="plateau_factor")

    def __call__(self, step: Any) -> Any:
        """The rate at a step of the whole run, from 0: float32 ()."""
        schedule = self._training.schedule
        epoch = tf.cast(step, tf.float32) / self._steps
        after = tf.maximum(epoch - schedule.warmup, 0.0)
        rate = self._training.learning_rate * self.plateau_factor * self._course(after)
        # The first step has a part of the rate too: it would be lost otherwise.
        warm = (epoch + 1 / self._steps) / schedule.warmup if schedule.warmup else 1.0
        return rate * tf.minimum(warm, 1.0)

    def _course(self, epoch: Any) -> Any:
        """The share of the rate that is left so many epochs after the warm-up."""
        schedule = self._training.schedule
        match schedule:
            case CosineRate():
                length = max(self._training.epochs - schedule.warmup, 1 / self._steps)
                half = 0.5 * (1 + tf.cos(math.pi * tf.minimum(epoch / length, 1.0)))
                return schedule.floor + (1 - schedule.floor) * half
            case ExponentialRate():
                times = epoch / schedule.every
                return tf.pow(schedule.factor, tf.floor(times) if schedule.steps else times)
            case ConstantRate() | PlateauRate():
                return 1.0

    def note(self, losses: Sequence[float]) -> None:
        """Takes the validation losses of all epochs so far."""
        if isinstance(self._training.schedule, PlateauRate):
            self.plateau_factor.assign(plateau_factor(self._training.schedule, losses))

    def get_config(self) -> dict[str, Any]:
        """Not for saving: a run keeps its spec."""
        raise NotImplementedError


def plateau_factor(schedule: PlateauRate, losses: Sequence[float]) -> float:
    """What is left of the rate after epochs with these validation losses."""
    best, waited, left = math.inf, 0, 1.0
    for loss in losses:
        if loss < best:
            best, waited = loss, 0
        else:
            waited += 1
        if waited == schedule.patience:
            left, waited = left * schedule.factor, 0
    return max(left, schedule.floor)


def build_optimizer(training: Training, rate: LearningRate) -> Any:
    """The optimizer of the spec, without clipping.

    It takes gradients that are already those of the global batch: under a distribution strategy `models.descent` has
    summed them before it clips them, and clipping each replica's would be another thing.
    """
    decay = training.weight_decay or None
    match training.optimizer:
        case "sgd":
            optimizer = keras.optimizers.SGD(rate, training.momentum, training.nesterov, weight_decay=decay)
        case "adagrad":
            optimizer = keras.optimizers.Adagrad(rate, weight_decay=decay)
        case "rmsprop":
            optimizer = keras.optimizers.RMSprop(rate, momentum=training.momentum, weight_decay=decay)
        case "adam" | "adamw":
            optimizer = keras.optimizers.Adam(rate, weight_decay=decay)
    if decay:
        optimizer.exclude_from_weight_decay(var_names=_UNDECAYED)
    optimizer._all_reduce_sum_gradients = list
    return optimizer


def clipping(training: Training) -> Callable[[list[Any]], list[Any]]:
    """How gradients are clipped, by the spec."""
    bound = training.clip_norm
    clips: dict[str, Callable[[list[Any]], list[Any]]] = {
        "global_norm": lambda gradients: tf.clip_by_global_norm(gradients, bound)[0],
        "norm": lambda gradients: [tf.clip_by_norm(gradient, bound) for gradient in gradients],
        "value": lambda gradients: [tf.clip_by_value(gradient, -bound, bound) for gradient in gradients],
        "none": lambda gradients: gradients,
    }
    return clips[training.clip]
