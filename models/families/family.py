"""What a model family is."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Protocol

from models.scaling import Constants
from models.window import EncodedWindow
from schemas.spec import Spec


class Build(Protocol):
    """How a family is built into a model.

    It is a function of the family's section of the spec and a batch of encoded windows, and returns float32
    (n, horizon, `window.width`): how far, in normalised units, each target of a row will be from its anchor; where
    there are quantiles, a number for each level of the first target, then of the second, and so on.

    It is built of `keras.layers` and `keras.ops` only, so that it trains on every backend of Keras. With `portable` it
    uses only operations that every device has; its weights are the same, in the same order, either way.
    """

    def __call__(self, options: Any, window: EncodedWindow, *, portable: bool) -> Any:
        """Builds the family's part of the graph."""


class Signatures(Protocol):
    """What an exported model of a family can do beyond forecasting.

    It is a function of the spec, the constants of its dataset and the whole model as it is exported, and returns Keras
    models by the names of their signatures. Each is a function of named inputs to named outputs, batch first, made of
    that model's own layers.
    """

    def __call__(self, spec: Spec, constants: Constants, model: Any) -> Mapping[str, Any]:
        """Builds the signatures."""


@dataclass(frozen=True, slots=True)
class Family:
    """A family; `refuses` are the roles of features that it cannot take."""

    build: Build
    signatures: Signatures | None = None
    refuses: frozenset[str] = frozenset()
