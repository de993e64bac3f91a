"""Random forest on features of the window (Breiman, 2001), trained by ydf and served as plain gathers.

One forest forecasts every step of the horizon: a row of training is a window and one step of it, and what is asked of
a row is in `models.families.forest_features`. Where windows are classified a row is a window, and each tree has a vote:
a class's share of the votes is its score. What has no value is missing (NaN); trees were trained to send it where the
feature's mean would go.
"""

from __future__ import annotations

import os
import re
import shutil
import tempfile
import weakref
from collections.abc import Callable
from typing import Any

import keras
import numpy as np
from keras import ops
from numpy.typing import NDArray

from models.class_weights import class_weights
from models.families.forest_features import features_of
from models.fitting import Encoder, Fitted, Numbers, State
from models.trees import FlatForest, traverse
from models.window import EncodedWindow
from schemas.dataset import DatasetFolder
from schemas.errors import DatasetError
from schemas.model_spec import ForestModel, season_steps
from schemas.spec import Spec

Float32 = NDArray[np.float32]

_NUMBER = re.compile(r"\d+")


def build(options: ForestModel, window: EncodedWindow, *, portable: bool, state: State) -> Any:  # noqa: ARG001
    """Builds the family; see `models.families.family`.

    `state` has the arrays of `models.trees.FlatForest`; `season`, int32 (), 0 for none; `waves`, int32 (): how many of
    the first channels of the future are calendar phases; and where ydf's operation is wanted `ydf`, uint8, its models
    end to end, and `ydf_sizes`, int64 (output,).
    """
    once, each = features_of(options, window, int(state["season"]), int(state["waves"]))
    if window.classified:
        return ops.reshape(Votes(state, window.width)(once), (-1, 1, window.width))
    once = ops.repeat(once, window.horizon, axis=0)
    rows = ops.concatenate((once, ops.reshape(each, (-1, each.shape[-1]))), axis=-1)
    forest = YdfForest(state) if options.op == "ydf" else Forest(state, window.width)
    return ops.reshape(forest(rows), (-1, window.horizon, window.width))


class Leaves(Numbers):
    """Trees of plain operations: features float32 (row, feature) -> the leaves' values (row, tree)."""

    def __init__(self, state: State) -> None:
        super().__init__({name: state[name] for name in ("nodes", "thresholds", "values", "roots")}, name="forest")
        self.trees, self._depth = len(state["roots"]), int(state["depth"])

    def call(self, inputs: Any) -> Any:
        """Walks down all trees."""
        return traverse(super().call(inputs), inputs, self._depth)


class Forest(Leaves):
    """A forest for each output: features float32 (row, feature) -> (row, output)."""

    def __init__(self, state: State, outputs: int) -> None:
        super().__init__(state)
        self._outputs = outputs

    def call(self, inputs: Any) -> Any:
        """The mean of each output's trees."""
        return ops.mean(ops.reshape(super().call(inputs), (-1, self._outputs, self.trees // self._outputs)), axis=-1)


class Votes(Leaves):
    """A forest whose leaves are numbers of classes: features float32 (row, feature) -> logits (row, class)."""

    def __init__(self, state: State, classes: int) -> None:
        super().__init__(state)
        self._classes = classes

    def call(self, inputs: Any) -> Any:
        """Logarithms of the classes' shares of the votes; a class without any counts as if it had half of one."""
        votes = ops.one_hot(ops.cast(super().call(inputs), "int32"), self._classes, dtype="float32")
        return ops.log(ops.maximum(ops.mean(votes, axis=1), 0.5 / self.trees))


class YdfForest(keras.layers.Layer):  # type: ignore[misc]
    """The same by ydf's own operation. `resources` are what a SavedModel of it must track."""

    def __init__(self, state: State) -> None:
        import ydf
        import ydf_tf  # noqa: F401  (registers the operation)

        super().__init__(name="forest", trainable=False, dtype="float32")
        files = tempfile.mkdtemp(prefix="tidegauge-forest-")  # a SavedModel copies them
        weakref.finalize(self, shutil.rmtree, files, ignore_errors=True)
        forests = np.split(state["ydf"], np.cumsum(state["ydf_sizes"])[:-1])
        self.resources = [ydf.deserialize_model(forest.tobytes()).to_tensorflow_function(files) for forest in forests]

    def call(self, inputs: Any) -> Any:
        """What each forest predicts."""
        return ops.stack([forest.call({"input": inputs}) for forest in self.resources], axis=-1)

    def compute_output_shape(self, shape: tuple[int | None, ...]) -> tuple[int | None, ...]:
        """(row, output)."""
        return (*shape[:-1], len(self.resources))


def fit(spec: Spec, folder: DatasetFolder) -> Fitted:
    """Trains a forest for the classes, for all targets, or where a row of the model has several, for each of them."""
    options = spec.model
    if not isinstance(options, ForestModel):
        raise TypeError(f"expected a spec of the family 'forest', got {options}")
    season = 0 if options.season is None else season_steps(options.season, spec.grid.step)
    waves = 2 * sum(feature.calendar is not None for feature in spec.stream.inputs)
    found = (_fit_classes if spec.classes else _fit_steps)(spec, options, folder, season, waves)
    return Fitted(
        {**found.state, "season": np.array(season, np.int32), "waves": np.array(waves, np.int32)},
        found.report,
        found.summary,
    )


def _fit_classes(spec: Spec, options: ForestModel, folder: DatasetFolder, season: int, waves: int) -> Fitted:
    """A forest whose trees vote for classes."""
    import ydf

    features, labels = _labelled(spec, options, folder, season, waves)
    counts = np.bincount(labels, minlength=len(spec.classes))
    if np.count_nonzero(counts) < 2:
        raise DatasetError(f"{folder.path}: expected windows of two classes or more in the split 'train'")
    weights = class_weights(spec.training, spec.classes, dict(zip(spec.classes, counts.tolist(), strict=True)))
    data = {"input": features, "output": labels, "weight": weights[labels]}
    model = _learner(options, spec, ydf.Task.CLASSIFICATION, weights="weight").train(data)
    forest, numbers = FlatForest(), [int(name) for name in model.label_classes()]
    _add(forest, model, lambda value: numbers[int(np.argmax(value.probability))])
    arrays, accuracy = forest.arrays(), float(model.self_evaluation().accuracy)
    report = {"features": features.shape[1], "nodes": len(arrays["nodes"]), "depth": int(arrays["depth"])}
    report |= {"rows": len(labels), "out_of_bag_accuracy": accuracy}
    return Fitted(arrays, report, f"{report['nodes']} nodes; out of bag: accuracy {accuracy:.2%}")


def _labelled(
    spec: Spec, options: ForestModel, folder: DatasetFolder, season: int, waves: int
) -> tuple[Float32, NDArray[np.int64]]:
    """Features (row, feature) and classes (row,) of a sample of the train split's windows."""
    encoder = Encoder(spec, folder, lambda window: {"once": features_of(options, window, season, waves)[0]})
    random, windows = np.random.default_rng(spec.training.seed), folder.split("train").windows
    parts = []
    for views, labels in encoder.labelled("train"):
        drawn = random.random(len(labels)) * windows < options.rows
        parts.append((views["once"][drawn], labels[drawn]))
    features, labels = (np.concatenate(part) for part in zip(*parts, strict=True))
    return features, labels


def _fit_steps(spec: Spec, options: ForestModel, folder: DatasetFolder, season: int, waves: int) -> Fitted:
    """A forest for each number that is forecast for a step."""
    import ydf

    features, outputs, observed = _rows(spec, options, folder, season, waves)
    forest, reports, kept = FlatForest(), [], []
    for column in range(outputs.shape[1]):
        known = observed[:, column]
        data = {"input": features[known], "output": outputs[known, column]}
        model = _learner(options, spec, ydf.Task.REGRESSION).train(data)
        _add(forest, model, lambda value: value.value)
        kept.append(np.frombuffer(model.serialize(), np.uint8))
        rmse = float(model.self_evaluation().rmse)
        explained = 1 - rmse**2 / float(np.var(outputs[known, column], dtype=np.float64))
        reports.append({"rows": int(known.sum()), "out_of_bag_rmse": rmse, "out_of_bag_explained": explained})
    arrays = forest.arrays()
    names = ["every target"] if options.channels == "independent" else [target.name for target in spec.targets]
    report = {
        "features": features.shape[1],
        "nodes": len(arrays["nodes"]),
        "depth": int(arrays["depth"]),
        "forests": dict(zip(names, reports, strict=True)),
    }
    scores = ", ".join(
        f"{name} RMSE {part['out_of_bag_rmse']:.4f} ({part['out_of_bag_explained']:.1%} of the variance)"
        for name, part in report["forests"].items()
    )
    state = dict(arrays)
    if options.op == "ydf":
        state |= {"ydf": np.concatenate(kept), "ydf_sizes": np.array([len(forest) for forest in kept])}
    return Fitted(state, report, f"{len(arrays['nodes'])} nodes; out of bag, in deviations: {scores}")


def _rows(
    spec: Spec, options: ForestModel, folder: DatasetFolder, season: int, waves: int
) -> tuple[Float32, Float32, NDArray[np.bool_]]:
    """Features (row, feature), outputs (row, target) and which of them are known, of a sample of the train split."""

    def view(window: EncodedWindow) -> dict[str, Any]:
        return dict(zip(("once", "each"), features_of(options, window, season, waves), strict=True))

    apart = options.channels == "independent"
    horizon, targets = spec.window.horizon, len(spec.targets)
    cells = folder.split("train").windows * horizon * (targets if apart else 1)
    random = np.random.default_rng(spec.training.seed)
    parts = []
    for examples in Encoder(spec, folder, view).examples("train"):
        once, each = examples.views["once"], examples.views["each"]
        outputs, observed = examples.outputs, examples.observed
        if apart:
            outputs = outputs.swapaxes(1, 2).reshape(len(once), horizon, 1)
            observed = observed.swapaxes(1, 2).reshape(len(once), horizon, 1)
        row, step = np.nonzero((random.random(observed.shape[:2]) * cells < options.rows) & observed.any(axis=2))
        features = np.concatenate((once[row], each[row, step]), axis=1)
        parts.append((features, outputs[row, step], observed[row, step]))
    features, outputs, observed = (np.concatenate(part) for part in zip(*parts, strict=True))
    return features, outputs, observed


def _learner(options: ForestModel, spec: Spec, task: Any, **more: Any) -> Any:
    import ydf

    ydf.verbose(0)
    return ydf.RandomForestLearner(
        label="output",
        task=task,
        num_trees=options.trees,
        max_depth=options.depth,
        min_examples=options.min_leaf,
        bootstrap_size_ratio=options.bagging,
        num_candidate_attributes_ratio=options.feature_share,
        random_seed=spec.training.seed,
        num_threads=os.cpu_count(),
        **more,
    )


def _add(forest: FlatForest, model: Any, leaf: Callable[[Any], float]) -> None:
    """Adds the trees that ydf trained; `leaf` is what a leaf's value says."""
    ours = {feature.column_idx: int(_NUMBER.findall(feature.name)[0]) for feature in model.input_features()}
    for tree in model.iter_trees():
        forest.add(tree, ours, leaf)
