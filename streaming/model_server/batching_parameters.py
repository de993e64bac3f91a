"""How requests are batched: TensorFlow Serving's BatchingParameters."""

from __future__ import annotations

import os
from dataclasses import dataclass
from typing import Any

from streaming.model_server.status import invalid_argument


@dataclass(frozen=True)
class BatchingParameters:
    """TensorFlow Serving's parameters, with its meanings.

    Attributes:
      max_batch_size: rows of a batch.
      batch_timeout_s: for which a batch that is not full waits for more; 0 runs what is there.
      max_enqueued_batches: full batches that may wait, for each kind of request.
      num_batch_threads: batches that run at the same time.
      allowed_batch_sizes: to one of which a batch is filled up with copies of its first row; empty for any.
      enable_large_batch_splitting: run a request that is larger than a batch in parts, instead of refusing it.
      max_execution_batch_size: rows of such a part.
      thread_pool_name: the label of the metrics.
    """

    max_batch_size: int = 1000
    batch_timeout_s: float = 0.0
    max_enqueued_batches: int = 10
    num_batch_threads: int = max(1, (os.cpu_count() or 1) // 2)
    allowed_batch_sizes: tuple[int, ...] = ()
    enable_large_batch_splitting: bool = False
    max_execution_batch_size: int = 1000
    thread_pool_name: str = "batch_threads"


def batching_parameters(message: Any) -> BatchingParameters:
    """Checks a BatchingParameters message.

    Raises:
      StatusError: INVALID_ARGUMENT for numbers that make no sense, as TensorFlow Serving refuses them, or for its
        padding, which lengthens sequences with values that models do not know to ignore.
    """
    if message.pad_variable_length_inputs:
        raise invalid_argument(
            "pad_variable_length_inputs would change the results of models: "
            "declare sequence_padding in assets.extra/model.json instead"
        )
    defaults = BatchingParameters()

    def number(name: str, least: int) -> int:
        value = getattr(message, name).value if message.HasField(name) else int(getattr(defaults, name))
        if value < least:
            raise invalid_argument(f"{name}: expected {least} or more, got {value}")
        return int(value)

    largest = number("max_batch_size", 1)
    sizes = tuple(message.allowed_batch_sizes)
    splitting = message.enable_large_batch_splitting.value
    execution = min(largest, number("max_execution_batch_size", 1))
    if sizes and (
        list(sizes) != sorted(set(sizes)) or sizes[0] < 1 or sizes[-1] != (execution if splitting else largest)
    ):
        raise invalid_argument(
            f"allowed_batch_sizes: expected rising sizes that end with max_batch_size {largest}, got {list(sizes)}"
        )
    timeout_us = message.batch_timeout_micros.value
    if timeout_us < 0:
        raise invalid_argument(f"batch_timeout_micros: expected 0 or more, got {timeout_us}")
    return BatchingParameters(
        max_batch_size=largest,
        batch_timeout_s=timeout_us / 1e6,
        max_enqueued_batches=number("max_enqueued_batches", 1),
        num_batch_threads=number("num_batch_threads", 1),
        allowed_batch_sizes=sizes,
        enable_large_batch_splitting=splitting,
        max_execution_batch_size=execution,
        thread_pool_name=message.thread_pool_name.value or defaults.thread_pool_name,
    )
