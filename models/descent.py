"""Gradient descent: what trains a model of any kind, and survives being killed.

The loop is our own rather than Keras' `fit`, because a run must be able to stop after any batch and go on as if nothing
had happened: each epoch's order of batches follows from the seed and the epoch's number alone, and all else that the
rest of a run depends on is in one checkpoint. And because under a distribution strategy the loss and the gradient are
those of the global batch, whatever share of its weight each replica got.
"""

from __future__ import annotations

import math
import signal
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import tensorflow as tf
from numpy.typing import NDArray
from rich.console import Console

from models import layout
from models.checkpoint import Checkpoint
from models.dead_units import DeadUnits
from models.distribution import Distribution, summed
from models.optimization import LearningRate, build_optimizer, clipping
from models.progress import Boards, EpochLines, EpochLog, draw_learning_curve
from schemas.errors import Interrupted, ModelError
from schemas.training_spec import Training

CHECKPOINT_SECONDS = 60.0

Cost = Callable[[Any, Any], Any]
"""(labels, outputs) -> float32, in the shape of the weights."""

Remarks = Callable[[Mapping[str, float]], dict[str, float | None]]
"""Gives more numbers for an epoch's record, of those that it has."""


@dataclass(frozen=True, slots=True)
class Objective:
    """What descent makes small, and what else it tells.

    `cost` is averaged by the batches' weights and made small. Each of `metrics` is averaged over the cells whose weight
    is not 0, which count alike.
    """

    cost: Cost
    metrics: Mapping[str, Cost] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Feed:
    """Where batches come from: `tf.data.Dataset`s of (inputs, labels, weights).

    `train` gives an epoch's from its seed, int64 (), the same for the same seed; it is called inside of a
    `tf.data.Dataset` function, so the seed is a tensor. `train_steps` and `validation_steps` are their numbers of
    batches. Weights are float32; what weighs 0 does not count.
    """

    train: Callable[[Any], Any]
    train_steps: int
    validation: Any
    validation_steps: int


@dataclass(frozen=True, slots=True)
class Descent:
    """What came of it: a record of each epoch (see `models.progress.EpochLog`), and which of them was best, from 1."""

    records: list[dict[str, Any]]
    best_epoch: int


def descend(
    model: Any,
    training: Training,
    objective: Objective,
    feed: Feed,
    *,
    run: Path,
    console: Console,
    remarks: Remarks = lambda _: {},
    checkpoint_seconds: float = CHECKPOINT_SECONDS,
    distribution: Distribution | None = None,
    stop_after: int | None = None,
) -> Descent:
    """Trains until the validation loss no longer falls, and leaves the model with the best epoch's weights.

    Where the run's folder holds a checkpoint it goes on from there: on a CPU the weights at the end are, bit for bit,
    those of a run that nothing disturbed. A checkpoint is written at the end of an epoch, after
    `checkpoint_seconds` within one, and on SIGINT and SIGTERM.

    Args:
      model: a Keras model; its weights are changed.
      training: how.
      objective: what is made small.
      feed: the batches.
      run: the run's folder: `metrics.jsonl`, TensorBoard logs, the learning curve and the checkpoint go there.
      console: for progress.
      remarks: adds numbers to an epoch's record from those that it has.
      checkpoint_seconds: see above.
      distribution: over which devices; the model was built in its scope. One device when left out. Of several processes
        each has a folder of its own, with the same checkpoint.
      stop_after: ends after so many epochs, as if the run were over; called again with more it goes on.
    Raises:
      ModelError: the loss or a weight is no finite number any more, or the checkpoint is of another model.
      Interrupted: on SIGINT or SIGTERM, when the checkpoint is written.
    """
    spread = distribution or Distribution()
    with spread.scope():
        descent = _Run(model, training, objective, feed, run, console, remarks, checkpoint_seconds, spread)
    return descent.descend(min(training.epochs, stop_after or training.epochs))


class _Run:
    def __init__(
        self,
        model: Any,
        training: Training,
        objective: Objective,
        feed: Feed,
        run: Path,
        console: Console,
        remarks: Remarks,
        checkpoint_seconds: float,
        distribution: Distribution,
    ) -> None:
        self._model, self._training, self._feed, self._run, self._remarks = model, training, feed, run, remarks
        self._checkpoint_seconds, self._distribution = checkpoint_seconds, distribution
        self._rate = LearningRate(training, feed.train_steps)
        self._optimizer = build_optimizer(training, self._rate)
        self._optimizer.build(model.trainable_variables)
        self._steps = _Steps(model, self._optimizer, objective, clipping(training), distribution)
        self._state = [*model.variables, *self._optimizer.variables]
        self._dead_units = DeadUnits(model)
        self._log = EpochLog(run / layout.METRICS_FILE)
        self._boards = Boards(run / layout.LOGS_FOLDER)
        self._lines = EpochLines(console, training.epochs, feed.train_steps)
        self._best: list[NDArray[Any]] = []
        self._checkpoint_due = math.inf

    def descend(self, epochs: int) -> Descent:
        step, spent, sums = self._restore()
        batches = self._distribution.batches(self._batches(len(self._log.records), step), self._training.batch_size)
        with _interruptible() as interrupted:
            try:
                while not self._is_done(epochs):
                    self._epoch(batches, step, spent, sums, interrupted)
                    step, spent, sums = 0, 0.0, self._steps.nothing()
            finally:
                self._lines.close()
                self._boards.close()
                if self._log.records:
                    draw_learning_curve(self._log.records, self._best_epoch(), self._run / layout.CURVE_FILE)
        self._model.set_weights(self._best)
        return Descent(self._log.records, self._best_epoch())

    def _epoch(
        self, batches: Any, step: int, spent: float, sums: NDArray[np.float64], interrupted: Callable[[], bool]
    ) -> None:
        """Trains the next epoch from a batch of it on, validates, and keeps the best weights."""
        started = time.perf_counter() - spent
        number, steps = len(self._log.records) + 1, self._feed.train_steps
        self._checkpoint_due = time.monotonic() + self._checkpoint_seconds
        self._lines.begin(number, step)
        total = tf.constant(sums)
        while step < steps:
            count = min(self._training.steps_per_execution, steps - step)
            total += tf.cast(self._steps.train(batches, tf.constant(count)), tf.float64)
            step += count
            self._lines.move(step)
            if interrupted():
                self._save(step, time.perf_counter() - started, total.numpy())
                raise Interrupted(
                    f"{self._run}: interrupted in epoch {number}, after {step} of {steps} batches; --resume goes on"
                )
            if time.monotonic() > self._checkpoint_due and step < steps:
                self._save(step, time.perf_counter() - started, total.numpy())
        numbers = self._steps.means(total.numpy(), "")
        numbers |= self._steps.means(self._validate(), "val_")
        for name in ("loss", "val_loss"):
            if not math.isfinite(numbers[name]):
                raise self._diverged(f"a finite {name}, got {numbers[name]}")
        dead = self._dead_units.share(next(iter(self._feed.validation))[0])
        rate = float(self._rate(self._optimizer.iterations - 1))
        record: dict[str, Any] = {"epoch": number, "seconds": round(time.perf_counter() - started, 3), **numbers}
        record |= self._remarks(numbers) | {"learning_rate": rate} | ({} if dead is None else {"dead_units": dead})
        self._log.add(record)
        self._boards.add(record)
        self._lines.end(record)
        if self._best_epoch() == number:
            self._best = self._model.get_weights()
        self._rate.note([record["val_loss"] for record in self._log.records])
        self._save(0, 0.0, self._steps.nothing())

    def _batches(self, epoch: int, step: int) -> Any:
        """The batches of all epochs from one on, without the first of it."""
        seed = np.array(self._training.seed * 1_000_003).astype(np.int64)  # far apart, so that runs share no epoch

        def of(number: Any) -> Any:
            tf.random.set_seed(1)  # of this function's graph: datasets mix it into their seeds, and stumble over a 0
            return self._feed.train(seed + number)

        rest = tf.data.Dataset.range(epoch, self._training.epochs).flat_map(of)
        return rest.skip(step).prefetch(tf.data.AUTOTUNE)

    def _validate(self) -> NDArray[np.float64]:
        batches = self._distribution.batches(self._feed.validation, self._training.batch_size)
        left = self._feed.validation_steps
        total = tf.constant(self._steps.nothing())
        while left:
            count = min(self._training.steps_per_execution, left)
            total += tf.cast(self._steps.test(batches, tf.constant(count)), tf.float64)
            left -= count
        found: NDArray[np.float64] = total.numpy()
        return found

    def _best_epoch(self) -> int:
        return int(min(self._log.records, key=lambda record: float(record["val_loss"]))["epoch"])

    def _is_done(self, epochs: int) -> bool:
        done, patience = len(self._log.records), self._training.patience
        if not done:
            return False
        return done >= epochs or (patience is not None and done - self._best_epoch() >= patience)

    def _save(self, step: int, seconds: float, sums: NDArray[np.float64]) -> None:
        variables = [variable.numpy() for variable in self._state]
        if not all(np.isfinite(value).all() for value in variables if value.dtype.kind == "f"):
            raise self._diverged("finite weights, got some that are not")
        state = Checkpoint(self._log.records, step, seconds, sums, variables, self._best)
        state.write(self._run / layout.CHECKPOINT_FILE)
        self._checkpoint_due = time.monotonic() + self._checkpoint_seconds

    def _restore(self) -> tuple[int, float, NDArray[np.float64]]:
        """Goes back to the checkpoint, where there is one; says how far into its epoch that is."""
        path = self._run / layout.CHECKPOINT_FILE
        if not path.exists():
            self._log.restore([])
            return 0, 0.0, self._steps.nothing()
        state = Checkpoint.read(path)
        if [value.shape for value in state.variables] != [tuple(variable.shape) for variable in self._state]:
            raise ModelError(f"{path}: expected the checkpoint of a model of this spec, got one of another shape")
        for variable, value in zip(self._state, state.variables, strict=True):
            variable.assign(value)
        self._best = state.best
        self._log.restore(state.records)
        self._rate.note([record["val_loss"] for record in state.records])
        return state.step, state.seconds, state.sums

    def _diverged(self, expected: str) -> ModelError:
        return ModelError(
            f"epoch {len(self._log.records) + 1}: expected {expected}; "
            "a lower $.training.learning_rate or $.training.clip_norm may help"
        )


class _Steps:
    """The compiled passes over batches. Each gives sums: of weighted cost, of weight, of cells, of each metric."""

    def __init__(
        self,
        model: Any,
        optimizer: Any,
        objective: Objective,
        clip: Callable[[list[Any]], list[Any]],
        distribution: Distribution,
    ) -> None:
        self._model, self._optimizer, self._objective, self._clip = model, optimizer, objective, clip
        self._distribution = distribution
        self._variables = model.trainable_variables
        self.train = tf.function(self._train)
        self.test = tf.function(self._test)

    def nothing(self) -> NDArray[np.float64]:
        """The sums of no batch."""
        return np.zeros(3 + len(self._objective.metrics))

    def means(self, sums: NDArray[np.float64], prefix: str) -> dict[str, float]:
        """The numbers that sums stand for."""
        cost, weight, cells, *metrics = (float(value) for value in sums)
        found = {"loss": cost / weight if weight else math.nan}
        found |= {name: total / cells for name, total in zip(self._objective.metrics, metrics, strict=True) if cells}
        return {f"{prefix}{name}": value for name, value in found.items()}

    def _train(self, batches: Any, count: Any) -> Any:
        sums = tf.zeros(3 + len(self._objective.metrics))
        for _ in tf.range(count):
            sums += self._distribution.run(self._train_batch, next(batches))
        return sums

    def _test(self, batches: Any, count: Any) -> Any:
        sums = tf.zeros(3 + len(self._objective.metrics))
        for _ in tf.range(count):
            sums += self._distribution.run(self._test_batch, next(batches))
        return sums

    def _train_batch(self, inputs: Any, labels: Any, weights: Any) -> Any:
        weight = summed(tf.reduce_sum(weights))  # of the global batch: a replica's part is a part of that mean
        with tf.GradientTape() as tape:
            outputs = self._model(inputs, training=True)
            cost = tf.reduce_sum(self._objective.cost(labels, outputs) * weights)
            others = [loss / self._distribution.replicas for loss in self._model.losses]
            loss = tf.add_n([tf.math.divide_no_nan(cost, weight), *others])
        gradients = [
            tf.zeros_like(variable) if gradient is None else tf.convert_to_tensor(gradient)
            for gradient, variable in zip(tape.gradient(loss, self._variables), self._variables, strict=True)
        ]
        self._optimizer.apply(self._clip(summed(gradients)), self._variables)
        return self._sums(labels, outputs, weights, cost)

    def _test_batch(self, inputs: Any, labels: Any, weights: Any) -> Any:
        outputs = self._model(inputs, training=False)
        cost = tf.reduce_sum(self._objective.cost(labels, outputs) * weights)
        return self._sums(labels, outputs, weights, cost)

    def _sums(self, labels: Any, outputs: Any, weights: Any, cost: Any) -> Any:
        cells = tf.cast(weights != 0, tf.float32)
        metrics = [tf.reduce_sum(metric(labels, outputs) * cells) for metric in self._objective.metrics.values()]
        return summed(tf.stack([cost, tf.reduce_sum(weights), tf.reduce_sum(cells), *metrics]))


@contextmanager
def _interruptible() -> Iterator[Callable[[], bool]]:
    """Turns the first SIGINT or SIGTERM into a question; the second one ends the process as ever."""
    asked = threading.Event()
    if threading.current_thread() is not threading.main_thread():  # only the main thread can handle signals
        yield asked.is_set
        return
    before = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)}

    def restore() -> None:
        for number, handler in before.items():
            signal.signal(number, handler)

    def ask(*_: Any) -> None:
        asked.set()
        restore()

    for number in before:
        signal.signal(number, ask)
    try:
        yield asked.is_set
    finally:
        restore()
