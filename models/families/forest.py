"""Random forest on features of the window (Breiman, 2001), trained by ydf and served as plain gathers.

One forest forecasts every step of the horizon: the step is a feature, beside what is known of it (calendar, announced
values, the same phase of earlier seasons) and what the window was like: lags, and over spans that end at the origin the
mean, the least, the greatest and the slope. A row of training is a window and one step of its horizon. What a target's
window has not observed is missing (NaN); trees were trained to send it where the feature's mean would go.
"""

from __future__ import annotations

import os
import re
import shutil
import tempfile
import weakref
from typing import Any

import keras
import numpy as np
from keras import ops
from numpy.typing import NDArray

from models.families.seasonal import same_phase
from models.fitting import Encoder, Fitted, Numbers, State
from models.trees import FlatForest, traverse
from models.window import EncodedWindow
from schemas.dataset import DatasetFolder
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
    once, each = _features(options, window, int(state["season"]), int(state["waves"]))
    once = ops.repeat(once, window.horizon, axis=0)
    rows = ops.concatenate((once, ops.reshape(each, (-1, each.shape[-1]))), axis=-1)
    forest = YdfForest(state) if options.op == "ydf" else Forest(state, window.width)
    return ops.reshape(forest(rows), (-1, window.horizon, window.width))


class Forest(Numbers):
    """A forest for each output, of plain operations: features float32 (row, feature) -> (row, output)."""

    def __init__(self, state: State, outputs: int) -> None:
        super().__init__({name: state[name] for name in ("nodes", "thresholds", "values", "roots")}, name="forest")
        self._outputs, self._trees, self._depth = outputs, len(state["roots"]) // outputs, int(state["depth"])

    def call(self, inputs: Any) -> Any:
        """The mean of each output's trees."""
        leaves = traverse(super().call(inputs), inputs, self._depth)
        return ops.mean(ops.reshape(leaves, (-1, self._outputs, self._trees)), axis=-1)


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
    """Trains a forest for all targets, or where a row of the model has several, for each of them."""
    options = spec.model
    if not isinstance(options, ForestModel):
        raise TypeError(f"expected a spec of the family 'forest', got {options}")
    season = 0 if options.season is None else season_steps(options.season, spec.grid.step)
    waves = 2 * sum(feature.calendar is not None for feature in spec.stream.inputs)
    features, outputs, observed = _rows(spec, options, folder, season, waves)
    forest, reports, kept = FlatForest(), [], []
    for column in range(outputs.shape[1]):
        known = observed[:, column]
        model = _train(options, features[known], outputs[known, column], spec.training.seed)
        ours = {feature.column_idx: int(_NUMBER.findall(feature.name)[0]) for feature in model.input_features()}
        for tree in model.iter_trees():
            forest.add(tree, ours)
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
    state = {**arrays, "season": np.array(season, np.int32), "waves": np.array(waves, np.int32)}
    if options.op == "ydf":
        state |= {"ydf": np.concatenate(kept), "ydf_sizes": np.array([len(forest) for forest in kept])}
    return Fitted(state, report, f"{len(arrays['nodes'])} nodes; out of bag, in deviations: {scores}")


def _rows(
    spec: Spec, options: ForestModel, folder: DatasetFolder, season: int, waves: int
) -> tuple[Float32, Float32, NDArray[np.bool_]]:
    """Features (row, feature), outputs (row, target) and which of them are known, of a sample of the train split."""

    def view(window: EncodedWindow) -> dict[str, Any]:
        return dict(zip(("once", "each"), _features(options, window, season, waves), strict=True))

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


def _train(options: ForestModel, features: Float32, outputs: Float32, seed: int) -> Any:
    import ydf

    ydf.verbose(0)
    learner = ydf.RandomForestLearner(
        label="output",
        task=ydf.Task.REGRESSION,
        num_trees=options.trees,
        max_depth=options.depth,
        min_examples=options.min_leaf,
        bootstrap_size_ratio=options.bagging,
        num_candidate_attributes_ratio=options.feature_share,
        random_seed=seed,
        num_threads=os.cpu_count(),
    )
    return learner.train({"input": features, "output": outputs})


def _features(options: ForestModel, window: EncodedWindow, season: int, waves: int) -> tuple[Any, Any]:
    """Features of a window, (n, feature), and of each step of its horizon, (n, horizon, feature)."""
    past, targets = window.target.shape[1:]
    seen = window.past[..., targets : 2 * targets]
    beside = window.past[..., 2 * targets : window.past.shape[-1] - waves]
    values = ops.concatenate((window.target, beside), axis=-1)
    there = ops.concatenate((seen, ops.ones_like(beside)), axis=-1)
    known = ops.where(there > 0, values, np.nan)
    once = [known[:, past - lag] for lag in options.lags or [2**power for power in range(past.bit_length())]]
    for span in options.spans or (*(4**power for power in range(1, 16) if 4**power < past), past):
        once += _summaries(values[:, past - span :], there[:, past - span :])
    if window.static is not None:
        once.append(window.static)
    if window.channel is not None:
        once.append(ops.cast(window.channel, "float32")[:, None])

    number = np.arange(1, window.horizon + 1, dtype=np.float32)[:, None]
    each = [ops.zeros_like(window.target[:, :1, :1]) + number]
    if window.future is not None:
        each.append(window.future)
    if season:
        each.append(same_phase(window.target, seen, season, window.horizon))
    return ops.concatenate(once, axis=-1), ops.concatenate(each, axis=-1)


def _summaries(values: Any, there: Any) -> list[Any]:
    """Mean, least, greatest and slope of what was observed, NaN where that is too little: (n, column) each."""
    count = ops.sum(there, axis=1)
    time = ops.cumsum(ops.ones_like(there), axis=1)

    def mean(cells: Any) -> Any:
        return ops.sum(cells * there, axis=1) / ops.maximum(count, 1.0)

    middle, level = mean(time), mean(values)
    spread = mean(ops.square(time - middle[:, None]))
    slope = mean((time - middle[:, None]) * (values - level[:, None])) / ops.where(spread > 0, spread, 1.0)
    least = ops.min(ops.where(there > 0, values, np.inf), axis=1)
    greatest = ops.max(ops.where(there > 0, values, -np.inf), axis=1)
    some = [ops.where(count > 0, part, np.nan) for part in (level, least, greatest)]
    return [*some, ops.where(spread > 0, slope, np.nan)]
