"""What asks a model, wherever the model is."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, Protocol, runtime_checkable

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


@runtime_checkable
class SignatureClient(ModelClient, Protocol):
    """Asks other signatures of the model too."""

    @property
    def version(self) -> int | None:
        """The version that answered last."""
        ...

    def ask_signature(self, signature: str, inputs: Arrays) -> Waiting:
        """As `ask`, of a signature that is not the default one."""
        ...
