"""Requests of several clients, run as one batch.

The rows of requests that wait for the same outputs, with inputs of the same shape but for the rows, are laid one after
the other and run together. There are no batching threads: a request that finds a free slot runs the batch in its own
thread, at once, with all that is queued beside it; the others sleep until their rows are there, and the oldest of those
that came meanwhile runs the next batch. So an idle server adds nothing to a request, and a busy one fills its batches.

Sequences of different lengths share a batch only where the model says how they may be lengthened (`SequencePadding`):
padding that a model does not know to ignore changes its results.
"""

from __future__ import annotations

import threading
import time
from collections import deque
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np

from streaming.model_server.batching_parameters import BatchingParameters
from streaming.model_server.call import Call
from streaming.model_server.metrics import Metrics
from streaming.model_server.saved_model_bundle import Executable
from streaming.model_server.sequence_padding import SequencePadding
from streaming.model_server.servable import Execution, run_directly
from streaming.model_server.signature import TensorRef
from streaming.model_server.status import (
    Code,
    StatusError,
    failed_precondition,
    invalid_argument,
    status_of,
)
from streaming.tensors import Array


@dataclass(slots=True)
class _Task:
    """One request's rows in a queue."""

    arrays: Sequence[Array]
    rows: int
    length: int
    call: Call
    queued_s: float
    woken: threading.Lock
    outputs: list[Array] | None = None
    error: StatusError | None = None
    # It was woken to run a batch, not because its result is there.
    leads: bool = False

    @property
    def done(self) -> bool:
        return self.outputs is not None or self.error is not None


@dataclass(slots=True)
class _Queue:
    """Requests that can share a batch: one execution, one shape of a row."""

    execution: _BatchedExecution
    length: int
    tasks: deque[_Task] = field(default_factory=deque)
    rows: int = 0


class BatchScheduler:
    """Decides which requests run together, and where. One for all models, so that they share the slots."""

    def __init__(self, parameters: BatchingParameters, metrics: Metrics) -> None:
        self.parameters = parameters
        self.metrics = metrics
        self._lock = threading.Lock()
        self._running = 0
        self._queues: dict[object, _Queue] = {}

    def run(self, key: object, queue: _Queue, task: _Task) -> list[Array]:
        """Runs a task, together with what else is queued under `key`.

        Args:
          key: of the requests that can share a batch with this one.
          queue: a new one, used if there is none under `key`.
          task: its rows.

        Returns:
          The task's own rows of the outputs.

        Raises:
          StatusError, tf.errors.OpError: the queue is full, the deadline passes, the model fails.
        """
        limit = self.parameters.max_batch_size * self.parameters.max_enqueued_batches
        with self._lock:
            queue = self._queues.setdefault(key, queue)
            if queue.rows + task.rows > limit:
                raise StatusError(
                    Code.UNAVAILABLE, "The batch scheduling queue to which this task was submitted is full"
                )
            queue.tasks.append(task)
            queue.rows += task.rows
            batch = self._take_if_free(key, queue)
        while batch or not task.done:
            if batch:
                self._run_batch(queue, batch)
                batch = []
                with self._lock:
                    self._pass_on()
            else:
                batch = self._sleep(key, queue, task)
        if task.error is not None:
            raise task.error
        return task.outputs or []

    def _sleep(self, key: object, queue: _Queue, task: _Task) -> list[_Task]:
        """Waits for a result, or for the turn to run a batch, which is then given back."""
        now = time.monotonic()
        due_s = task.queued_s + self.parameters.batch_timeout_s
        until_s = min(task.call.expires_s, due_s if now < due_s else task.call.expires_s)
        task.woken.acquire(timeout=min(max(0.0, until_s - now), threading.TIMEOUT_MAX))
        with self._lock:
            if task.leads:
                # The slot comes with it, even if another batch has taken this task meanwhile.
                task.leads = False
                batch = self._take(key, queue)
                if not batch:
                    self._pass_on()
                return batch
            if task.done:
                return []
            if time.monotonic() >= task.call.expires_s:
                # It may be running by now; then its rows are computed for nobody.
                task.error = StatusError(Code.DEADLINE_EXCEEDED, "Deadline exceeded while waiting for a batch")
                return []
            return self._take_if_free(key, queue)

    def _take_if_free(self, key: object, queue: _Queue) -> list[_Task]:
        """A batch of `queue`, if it is due and a slot is free. Holds the lock."""
        if self._running >= self.parameters.num_batch_threads or not self._due(queue, time.monotonic()):
            return []
        batch = self._take(key, queue)
        self._running += bool(batch)
        return batch

    def _due(self, queue: _Queue, now: float) -> bool:
        parameters = self.parameters
        return queue.rows >= parameters.max_batch_size or (
            bool(queue.tasks) and now >= queue.tasks[0].queued_s + parameters.batch_timeout_s
        )

    def _take(self, key: object, queue: _Queue) -> list[_Task]:
        """Takes the oldest tasks that fit into a batch, leaving out what nobody waits for. Holds the lock."""
        batch: list[_Task] = []
        rows = 0
        while queue.tasks and rows + queue.tasks[0].rows <= self.parameters.max_batch_size:
            task = queue.tasks.popleft()
            queue.rows -= task.rows
            if task.done:
                continue
            try:
                task.call.check()
            except StatusError as error:
                task.error = error
                _wake(task)
                continue
            batch.append(task)
            rows += task.rows
        if not queue.tasks and self._queues.get(key) is queue:
            del self._queues[key]
        return batch

    def _pass_on(self) -> None:
        """Gives the slot to the oldest request that waits, or frees it. Holds the lock."""
        now = time.monotonic()
        for key, queue in list(self._queues.items()):
            # The thread of a task whose deadline has passed is gone, and cannot take the slot.
            while queue.tasks and queue.tasks[0].done:
                queue.rows -= queue.tasks.popleft().rows
            if not queue.tasks:
                del self._queues[key]
        due = [queue.tasks[0] for queue in self._queues.values() if self._due(queue, now)]
        if not due:
            self._running -= 1
            return
        oldest = min(due, key=lambda task: task.queued_s)
        oldest.leads = True
        _wake(oldest)

    def _run_batch(self, queue: _Queue, batch: list[_Task]) -> None:
        """Runs a batch, and hands each task its rows or its error."""
        pool = (self.parameters.thread_pool_name,)
        now = time.monotonic()
        for task in batch:
            self.metrics.queuing_latency.add(pool, (now - task.queued_s) * 1e6)
            self.metrics.input_batch_size.add(pool, task.rows)
        self.metrics.wrapped_run_count.add(pool)
        try:
            queue.execution.run_batch(batch, queue.length)
        except Exception as exc:
            error = status_of(exc)
            if len(batch) == 1:
                batch[0].error = error
            else:
                # One request may have spoilt the batch: the others must not pay for it.
                for task in batch:
                    self._run_alone(queue, task)
        finally:
            for task in batch:
                _wake(task)

    def _run_alone(self, queue: _Queue, task: _Task) -> None:
        try:
            queue.execution.run_batch([task], queue.length)
        except Exception as exc:
            task.error = status_of(exc)


def _wake(task: _Task) -> None:
    # Two wake-ups may come before the sleeper runs; one is as good as two.
    if task.woken.locked():
        try:
            task.woken.release()
        except RuntimeError:
            return


class _BatchedExecution:
    """One combination of feeds and fetches of one servable, run in batches."""

    def __init__(
        self,
        executable: Executable,
        feeds: tuple[TensorRef, ...],
        scheduler: BatchScheduler,
        padding: SequencePadding | None,
    ) -> None:
        self._executable = executable
        self._feeds = feeds
        self._scheduler = scheduler
        self._padding = padding

    def __call__(self, arrays: Sequence[Array], call: Call) -> Sequence[Array]:
        """Runs one request in a batch with others.

        Raises:
          StatusError, tf.errors.OpError: see `BatchScheduler.run`; INVALID_ARGUMENT for inputs that have no common
            number of rows, or too many.
        """
        rows = _rows(arrays)
        parameters = self._scheduler.parameters
        if rows > parameters.max_batch_size:
            if not parameters.enable_large_batch_splitting:
                raise invalid_argument(
                    f"Task size {rows} is larger than maximum input batch size {parameters.max_batch_size}"
                )
            size = min(parameters.max_execution_batch_size, parameters.max_batch_size)
            parts = [self([array[start : start + size] for array in arrays], call) for start in range(0, rows, size)]
            return [np.concatenate(columns) for columns in zip(*parts, strict=True)]
        length = bucket = 0
        if self._padding is not None:
            length = self._padding.length(self._feeds, arrays)
            bucket = self._padding.bucket(length)
            shapes = self._padding.row_shapes(self._feeds, arrays, bucket)
        else:
            shapes = tuple([array.shape[1:] for array in arrays])
        lock = threading.Lock()
        lock.acquire()
        task = _Task(arrays, rows, length, call, time.monotonic(), lock)
        return self._scheduler.run((id(self), shapes), _Queue(self, bucket), task)

    def run_batch(self, batch: Sequence[_Task], bucket: int) -> None:
        """Runs tasks together and sets their outputs.

        Raises:
          StatusError, tf.errors.OpError: the model fails, or its outputs have not the rows of its inputs.
        """
        rows = sum(task.rows for task in batch)
        filled = self._filled(rows)
        columns: list[Array] = []
        for index, ref in enumerate(self._feeds):
            parts = [task.arrays[index] for task in batch]
            if self._padding is not None:
                parts = [self._padding.pad_to(ref.alias, part, bucket) for part in parts]
            if filled > rows:
                parts.append(np.repeat(parts[0][:1], filled - rows, axis=0))
            columns.append(parts[0] if len(parts) == 1 else np.concatenate(parts))
        pool = (self._scheduler.parameters.thread_pool_name,)
        self._scheduler.metrics.processed_batch_size.add(pool, filled)
        self._scheduler.metrics.padding_size.add(pool, filled - rows)
        outputs = self._executable(*columns)
        for output in outputs:
            if output.ndim == 0:
                raise failed_precondition("Batched output tensor has 0 dimensions")
            if len(output) != filled:
                raise failed_precondition(
                    "Batched output tensor's 0th dimension does not equal the sum of the 0th dimension sizes of the "
                    "input tensors"
                )
        start = 0
        for task in batch:
            task.outputs = [self._own(output[start : start + task.rows], task.length, bucket) for output in outputs]
            start += task.rows

    def _own(self, rows: Array, length: int, bucket: int) -> Array:
        return rows if self._padding is None else self._padding.unpad(rows, length, bucket)

    def _filled(self, rows: int) -> int:
        sizes = [size for size in self._scheduler.parameters.allowed_batch_sizes if size >= rows]
        return min(sizes, default=rows)


def _rows(arrays: Sequence[Array]) -> int:
    if any(array.ndim == 0 for array in arrays):
        raise invalid_argument("Batching Run() input tensors must have at least one dimension")
    sizes = {len(array) for array in arrays}
    if len(sizes) > 1:
        raise invalid_argument("Batching Run() input tensors must have equal 0th-dimension size")
    return sizes.pop()


class BatchingExecution:
    """The `ExecutionFactory` that batches."""

    def __init__(self, scheduler: BatchScheduler, padding: Mapping[str, SequencePadding]) -> None:
        """Batches by the scheduler; `padding` is the model's own declaration, by signature."""
        self._scheduler = scheduler
        self._padding = padding

    def __call__(self, executable: Executable, feeds: tuple[TensorRef, ...]) -> Execution:
        """Wraps an executable. One without inputs has no rows to batch."""
        if not feeds:
            return run_directly(executable, feeds)
        return _BatchedExecution(executable, feeds, self._scheduler, self._padding.get(feeds[0].signature))
