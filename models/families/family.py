"""What a model family is."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Protocol

from models.fitting import Fitted, State
from models.scaling import Constants
from models.window import EncodedWindow
from schemas.dataset import DatasetFolder
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


class BuildFitted(Protocol):
    """How a fitted family is built into a model: as `Build`, of the numbers that its `Fit` found."""

    def __call__(self, options: Any, window: EncodedWindow, *, portable: bool, state: State) -> Any:
        """Builds the family's part of the graph."""


class Fit(Protocol):
    """How a family is fitted that needs no descent.

    It is a function of a spec with a model of the family, and a dataset of the spec's windows with a train and a
    validation split. It raises `ModelError` where they do not go together.
    """

    def __call__(self, spec: Spec, folder: DatasetFolder) -> Fitted:
        """Finds the numbers."""


@dataclass(frozen=True, slots=True)
class FittedFamily:
    """A family whose numbers are not found by descent."""

    build: BuildFitted
    fit: Fit
    signatures: Signatures | None = None
    refuses: frozenset[str] = frozenset()


@dataclass(frozen=True, slots=True)
class Family:
    """A family that is trained by descent; `refuses` are the roles of features that it cannot take."""

    build: Build
    signatures: Signatures | None = None
    refuses: frozenset[str] = frozenset()
