"""Requests of several clients, run as one batch.

The rows of requests that wait for the same outputs, with inputs of the same shape but for the rows, are laid one after
the other and run together. A batching thread that is free runs at once all that is queued, the oldest kind of request
first; so an idle server makes nobody wait, and a busy one fills its batches.

Sequences of different lengths share a batch only where the model says how they may be lengthened (`SequencePadding`):
padding that a model does not know to ignore changes its results.
"""

from __future__ import annotations

import threading
import time
from collections import deque
from collections.abc import Mapping, Sequence
from contextlib import suppress
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

_IDLE_THREAD_S = 5.0


class _Task:
    """One request's rows in a queue, and the thread that waits for what becomes of them."""

    __slots__ = ("_left", "_relay", "_sleeping", "arrays", "call", "error", "length", "outputs", "queued_s", "rows")

    def __init__(self, arrays: Sequence[Array], rows: int, length: int, call: Call) -> None:
        self.arrays = arrays
        self.rows = rows
        self.length = length
        self.call = call
        self.queued_s = time.monotonic()
        self.outputs: Sequence[Array] = ()
        self.error: StatusError | None = None
        self._sleeping = threading.Lock()
        self._sleeping.acquire()
        self._relay: _Relay | None = None
        self._left = False

    def result(self) -> Sequence[Array]:
        """Waits for the outputs.

        Raises:
          StatusError: what the batch came to; DEADLINE_EXCEEDED if the call's time is over first.
        """
        remaining_s = max(0.0, self.call.expires_s - time.monotonic())
        woken = self._sleeping.acquire(timeout=min(remaining_s, threading.TIMEOUT_MAX))
        self._left = not woken
        if self._relay is not None:
            self._relay.pass_on()
        if not woken:
            # It may be running by now; then its rows are computed for nobody.
            raise StatusError(Code.DEADLINE_EXCEEDED, "Deadline exceeded while waiting for a batch")
        if self.error is not None:
            raise self.error
        return self.outputs

    def wake(self, relay: _Relay) -> bool:
        """Ends the waiting. False if nobody waits any more, who would pass the word on."""
        self._relay = relay
        self._sleeping.release()
        return not self._left


class _Relay:
    """Wakes those who wait for the tasks of a batch, each by the one before.

    Dozens of threads woken at once would all ask for the interpreter's lock, and take it from the one that has it
    before it is done with its answer.
    """

    def __init__(self, tasks: Sequence[_Task]) -> None:
        self._tasks = deque(tasks)

    def pass_on(self) -> None:
        """Wakes the next. Who leaves while being woken may pass on twice, which does no harm."""
        with suppress(IndexError):
            while not self._tasks.popleft().wake(self):
                pass


@dataclass(slots=True)
class _Queue:
    """Requests that can share a batch: one execution, one shape of a row."""

    execution: _BatchedExecution
    length: int
    tasks: deque[_Task] = field(default_factory=deque)
    rows: int = 0


class BatchScheduler:
    """Decides which requests run together, and runs them. One for all models, so that they share its threads."""

    def __init__(self, parameters: BatchingParameters, metrics: Metrics) -> None:
        self.parameters = parameters
        self.metrics = metrics
        self._changed = threading.Condition()
        self._queues: dict[object, _Queue] = {}
        self._threads = 0
        self._idle = 0

    def submit(self, key: object, queue: _Queue, task: _Task) -> None:
        """Queues a task; a batching thread wakes whoever waits for its result.

        Args:
          key: of the requests that can share a batch with this one.
          queue: a new one, used if there is none under `key`.
          task: its rows.

        Raises:
          StatusError: UNAVAILABLE, the queue is full.
        """
        limit = self.parameters.max_batch_size * self.parameters.max_enqueued_batches
        with self._changed:
            queue = self._queues.setdefault(key, queue)
            if queue.rows + task.rows > limit:
                raise StatusError(
                    Code.UNAVAILABLE, "The batch scheduling queue to which this task was submitted is full"
                )
            queue.tasks.append(task)
            queue.rows += task.rows
            if self._idle:
                self._changed.notify()
            elif self._threads < self.parameters.num_batch_threads:
                self._threads += 1
                threading.Thread(target=self._work, name=self.parameters.thread_pool_name, daemon=True).start()

    def _work(self) -> None:
        """Runs batches, until there has been none for a while."""
        while True:
            with self._changed:
                chosen = self._next()
                while chosen is None:
                    self._idle += 1
                    notified = self._changed.wait(self._until_due_s())
                    self._idle -= 1
                    chosen = self._next()
                    if chosen is None and not notified and not self._queues:
                        self._threads -= 1
                        return
            queue, batch, dropped = chosen
            _Relay(dropped).pass_on()
            if batch:
                self._run_batch(queue, batch)

    def _next(self) -> tuple[_Queue, list[_Task], list[_Task]] | None:
        """The queue that is due and whose oldest task is the oldest, and what is taken from it. Holds the lock."""
        now = time.monotonic()
        due = [(queue.tasks[0].queued_s, key) for key, queue in self._queues.items() if self._due(queue, now)]
        if not due:
            return None
        _, key = min(due, key=lambda entry: entry[0])
        queue = self._queues[key]
        batch, dropped = self._take(queue)
        if not queue.tasks:
            del self._queues[key]
        return queue, batch, dropped

    def _until_due_s(self) -> float:
        if not self._queues:
            return _IDLE_THREAD_S
        oldest_s = min(queue.tasks[0].queued_s for queue in self._queues.values())
        return max(0.0, oldest_s + self.parameters.batch_timeout_s - time.monotonic())

    def _due(self, queue: _Queue, now: float) -> bool:
        parameters = self.parameters
        return queue.rows >= parameters.max_batch_size or (
            bool(queue.tasks) and now >= queue.tasks[0].queued_s + parameters.batch_timeout_s
        )

    def _take(self, queue: _Queue) -> tuple[list[_Task], list[_Task]]:
        """The oldest tasks that fit into a batch, and those among them that nobody waits for. Holds the lock."""
        batch: list[_Task] = []
        dropped: list[_Task] = []
        rows = 0
        while queue.tasks and rows + queue.tasks[0].rows <= self.parameters.max_batch_size:
            task = queue.tasks.popleft()
            queue.rows -= task.rows
            try:
                task.call.check()
            except StatusError as error:
                task.error = error
                dropped.append(task)
                continue
            batch.append(task)
            rows += task.rows
        return batch, dropped

    def _run_batch(self, queue: _Queue, batch: list[_Task]) -> None:
        """Runs a batch, gives each task its rows or its error, and wakes who waits for them."""
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
        _Relay(batch).pass_on()

    def _run_alone(self, queue: _Queue, task: _Task) -> None:
        try:
            queue.execution.run_batch([task], queue.length)
        except Exception as exc:
            task.error = status_of(exc)


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
        """Runs one request in a batch with others, and waits for it.

        Returns:
          Its rows of the outputs.

        Raises:
          StatusError: INVALID_ARGUMENT for inputs that have no common number of rows, or too many; UNAVAILABLE, the
            queue is full; DEADLINE_EXCEEDED; what the model says.
        """
        rows = _rows(arrays)
        parameters = self._scheduler.parameters
        if rows > parameters.max_batch_size:
            if not parameters.enable_large_batch_splitting:
                raise invalid_argument(
                    f"Task size {rows} is larger than maximum input batch size {parameters.max_batch_size}"
                )
            size = parameters.max_execution_batch_size
            parts = [self([array[start : start + size] for array in arrays], call) for start in range(0, rows, size)]
            return [np.concatenate(columns) for columns in zip(*parts, strict=True)]
        length = bucket = 0
        if self._padding is not None:
            length = self._padding.length(self._feeds, arrays)
            bucket = self._padding.bucket(length)
            shapes = self._padding.row_shapes(self._feeds, arrays, bucket)
        else:
            shapes = tuple([array.shape[1:] for array in arrays])
        task = _Task(arrays, rows, length, call)
        self._scheduler.submit((id(self), shapes), _Queue(self, bucket), task)
        call.step_aside()
        return task.result()

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
