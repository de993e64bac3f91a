"""A loaded model version: what requests run on, and what must not vanish under them."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Mapping, Sequence
from typing import Protocol

from streaming.model_server.call import Call
from streaming.model_server.metrics import Histogram
from streaming.model_server.saved_model_bundle import Bundle, Executable
from streaming.model_server.signature import INIT_OP_SIGNATURES, Signature, TensorRef
from streaming.tensors import Array

_SHORT_RUN_S = 200e-6
"""A run that takes no longer keeps its thread's turn: changing threads costs as much."""


class Execution(Protocol):
    """Runs one combination of feeds and fetches, directly or in batches with others."""

    def __call__(self, arrays: Sequence[Array], call: Call) -> Sequence[Array]:
        """Gives the fetches in order.

        Raises:
          StatusError, tf.errors.OpError: the deadline has passed, a queue is full, the model refuses the tensors.
        """
        ...


class ExecutionFactory(Protocol):
    """Decides how executions of a servable run."""

    def __call__(self, executable: Executable, feeds: tuple[TensorRef, ...]) -> Execution:
        """Wraps a bare executable."""
        ...


class DirectExecution:
    """Without batching: each request is run by itself, in its own thread."""

    def __init__(self, executable: Executable) -> None:
        self._executable = executable
        self._usual_s = 2 * _SHORT_RUN_S

    def __call__(self, arrays: Sequence[Array], call: Call) -> Sequence[Array]:
        """Runs the model; if that usually takes a while, another request is taken meanwhile."""
        call.check()
        if self._usual_s > _SHORT_RUN_S:
            call.step_aside()
        started = time.perf_counter()
        results = self._executable(*arrays)
        self._usual_s += 0.1 * (time.perf_counter() - started - self._usual_s)
        return results


def run_directly(executable: Executable, feeds: tuple[TensorRef, ...]) -> Execution:  # noqa: ARG001
    """The `ExecutionFactory` without batching."""
    return DirectExecution(executable)


class Servable:
    """One version of one model, loaded. As a context, it ends one `acquire`.

    Attributes:
      name: the model's.
      version: its number.
      signatures: by key.
    """

    def __init__(
        self,
        name: str,
        version: int,
        bundle: Bundle,
        execution: ExecutionFactory = run_directly,
        on_unloaded: Callable[[], None] = lambda: None,
        runtime_latency: Histogram | None = None,
    ) -> None:
        """Takes over a bundle.

        Args:
          name: of the model.
          version: its number.
          bundle: what runs.
          execution: how it runs.
          on_unloaded: called when the bundle is closed.
          runtime_latency: where the time of each run is counted, in microseconds.
        """
        self.name = name
        self.version = version
        self.signatures: Mapping[str, Signature] = {
            key: Signature.of(key, definition)
            for key, definition in bundle.signature_defs.items()
            if key not in INIT_OP_SIGNATURES
        }
        self.signature_defs = bundle.signature_defs
        self._bundle = bundle
        self._execution = execution
        self._on_unloaded = on_unloaded
        self._runtime_latency = runtime_latency
        self._executions: dict[tuple[tuple[TensorRef, ...], tuple[TensorRef, ...]], Execution] = {}
        self._in_flight = 0
        self._retired = False
        self._idle = threading.Condition()

    def prepare(self) -> None:
        """Compiles every signature with all its outputs, so that the first request finds it ready."""
        for signature in self.signatures.values():
            self._bundle.executable(tuple(signature.inputs.values()), tuple(signature.outputs.values()))

    def run(
        self, feeds: tuple[TensorRef, ...], arrays: Sequence[Array], fetches: tuple[TensorRef, ...], call: Call
    ) -> Sequence[Array]:
        """Runs the model.

        Args:
          feeds: the inputs that are given.
          arrays: their values, in the same order, of the inputs' dtypes.
          fetches: the outputs that are wanted; may be of several signatures.
          call: the request's deadline and cancellation.

        Returns:
          The outputs, in the order of `fetches`.

        Raises:
          StatusError, tf.errors.OpError: as `Execution`.
        """
        started = time.perf_counter()
        results = self._execution_of(feeds, fetches)(arrays, call)
        self._observe(call, started)
        return results

    def _execution_of(self, feeds: tuple[TensorRef, ...], fetches: tuple[TensorRef, ...]) -> Execution:
        key = feeds, fetches
        execution = self._executions.get(key)
        if execution is None:
            execution = self._executions.setdefault(
                key, self._execution(self._bundle.executable(feeds, fetches), feeds)
            )
        return execution

    def _observe(self, call: Call, started: float) -> None:
        if self._runtime_latency is not None:
            self._runtime_latency.add((self.name, call.api, "TF1"), (time.perf_counter() - started) * 1e6)

    def acquire(self) -> bool:
        """Keeps the servable loaded until its context ends. False if it is already being unloaded."""
        with self._idle:
            if self._retired:
                return False
            self._in_flight += 1
            return True

    def __enter__(self) -> Servable:
        """What `acquire` has kept."""
        return self

    def __exit__(self, *_: object) -> None:
        """Ends one `acquire`."""
        with self._idle:
            self._in_flight -= 1
            if self._retired and not self._in_flight:
                self._idle.notify_all()

    def unload(self) -> None:
        """Refuses new users, waits for those there are, and frees the model."""
        with self._idle:
            self._retired = True
            self._idle.wait_for(lambda: not self._in_flight)
        self._executions.clear()
        self._bundle.close()
        del self._bundle
        self._on_unloaded()
