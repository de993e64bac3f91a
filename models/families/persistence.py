"""The last observed value, repeated: what every forecast must beat."""

from __future__ import annotations

from typing import Any

from keras import ops

from models.encoding import last_observed
from models.fitting import Fitted, State
from models.window import EncodedWindow
from schemas.dataset import DatasetFolder
from schemas.model_spec import PersistenceModel
from schemas.spec import Spec


def build(options: PersistenceModel, window: EncodedWindow, *, portable: bool, state: State) -> Any:  # noqa: ARG001
    """Builds the family; see `models.families.family`."""
    targets = window.target.shape[-1]
    last = last_observed(window.target, window.past[..., targets : 2 * targets])
    return ops.repeat(last[:, None], window.horizon, axis=1)


def fit(spec: Spec, folder: DatasetFolder) -> Fitted:  # noqa: ARG001
    """There is nothing to fit."""
    return Fitted({}, {}, "nothing to fit")
