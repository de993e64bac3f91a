"""What the families that are fitted without descent share: their numbers, and the data as they see it."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import keras
import numpy as np
from keras import ops
from numpy.typing import NDArray

from models.answers import answer_of
from models.encoding import encode
from models.forms import input_forms
from models.objective import add_deviation
from models.reader import windows
from models.scaling import Constants
from models.window import EncodedWindow
from schemas.dataset import DatasetFolder
from schemas.errors import ModelError
from schemas.spec import Spec

State = Mapping[str, NDArray[Any]]
"""A fitted family's numbers, by name: all that its graph is built of beside its section of the spec."""


def write_state(path: Path, state: State) -> None:
    """Writes a state to a file (.npz), whole or not at all."""
    unfinished = path.with_name(f".unfinished-{path.name}")
    np.savez(unfinished, allow_pickle=False, **state)
    unfinished.replace(path)


def read_state(path: Path) -> State:
    """Reads what `write_state` wrote."""
    with np.load(path) as numbers:
        return dict(numbers)


@dataclass(frozen=True, slots=True)
class Fitted:
    """What fitting gave: the numbers, and what is worth knowing of them, as a JSON document and in a line."""

    state: State
    report: dict[str, Any]
    summary: str


@dataclass(frozen=True, slots=True)
class Examples:
    """A batch of windows as a family sees it, in numpy.

    `views` has what the family asked for, by name. `outputs` float32 (batch, horizon, target) is how far, in normalised
    units, each target came to be from its anchor, and `observed` bool, the same shape, where that is known; NaN where
    not. `scale` float32 (batch, target): what 1 in these units is in those in which errors are reported.
    """

    views: dict[str, NDArray[Any]]
    outputs: NDArray[np.float32]
    observed: NDArray[np.bool_]
    scale: NDArray[np.float32]


class Numbers(keras.layers.Layer):  # type: ignore[misc]
    """A fitted family's numbers as weights that no descent changes: any tensor -> the tensors of `state` by name."""

    def __init__(self, state: State, *, name: str) -> None:
        super().__init__(name=name, trainable=False, dtype="float32")
        self._numbers = {
            key: self.add_weight(
                shape=numbers.shape,
                dtype=str(numbers.dtype),
                initializer=lambda _shape, dtype, numbers=numbers: ops.convert_to_tensor(numbers, dtype),
                trainable=False,
                name=key,
            )
            for key, numbers in state.items()
        }

    def call(self, inputs: Any) -> dict[str, Any]:  # noqa: ARG002
        """The numbers, whatever comes in."""
        return {key: ops.convert_to_tensor(variable) for key, variable in self._numbers.items()}


class Encoder:
    """Shows a dataset of the spec's windows as the spec's model sees them.

    Args:
      spec: with a model.
      folder: a dataset of its windows.
      view: from an encoded window, symbolic, to the tensors that are wanted, by name.
    """

    def __init__(self, spec: Spec, folder: DatasetFolder, view: Callable[[EncodedWindow], Mapping[str, Any]]) -> None:
        if spec.model is None:
            raise ModelError("$.model: expected a model to fit, got none")
        self._folder, self._batch_size = folder, spec.training.batch_size
        constants = Constants.of(spec, folder.statistics)
        forms = input_forms(spec)
        inputs = {name: keras.Input(form.shape, dtype=form.dtype, name=name) for name, form in forms.items()}
        encoding = encode(spec, spec.model, constants, inputs)
        views = dict(view(encoding.window))
        self.shapes = {name: tuple(tensor.shape[1:]) for name, tensor in views.items()}
        self._answer = answer_of(
            keras.Model(
                inputs, views | {"anchor": encoding.anchor, "mean": encoding.mean, "deviation": encoding.deviation}
            )
        )
        self._spec, self._constants = spec, constants

    def examples(self, split: str) -> Iterator[Examples]:
        """The windows of a split with targets, each once, in batches of the training's size."""
        batches = windows(self._folder, split, batch_size=self._batch_size)
        for batch in batches.map(add_deviation(self._spec, self._constants)).as_numpy_iterator():
            views = self._answer(batch)
            anchor, mean, deviation = (views.pop(name) for name in ("anchor", "mean", "deviation"))
            outputs = (batch["target_values"] - mean[:, None]) / deviation[:, None] - anchor[:, None]
            yield Examples(views, outputs, batch["target_observed"], deviation / batch["target_deviation"])

    def labelled(self, split: str) -> Iterator[tuple[dict[str, NDArray[Any]], NDArray[np.int64]]]:
        """The views of a split's windows that have a label, and its class's number, int64 (batch,)."""
        for batch in windows(self._folder, split, batch_size=self._batch_size).as_numpy_iterator():
            told = batch["label"] >= 0
            views = self._answer(batch)
            yield {name: views[name][told] for name in self.shapes}, batch["label"][told]
