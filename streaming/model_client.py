"""What asks a model, wherever the model is."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, Protocol

from numpy.typing import NDArray

Arrays = Mapping[str, NDArray[Any]]


@dataclass(frozen=True, slots=True)
class Answer:
    """The outputs of one request by name, the version that made them, and how long it took, in milliseconds.

    `levels` are those of the output `quantiles`, where the version has one and says which they are.
    """

    outputs: Arrays
    version: int
    latency_ms: float
    levels: tuple[float, ...] = ()


Waiting = Callable[[], Answer]
"""Waits for the answer to a request that has been sent."""


class ModelClient(Protocol):
    """Asks one model of known windows."""

    model: str

    def ask(self, inputs: Arrays) -> Waiting:
        """Sends a request: the model's inputs by name, all with the same first axis. What it returns waits for it."""
        ...
