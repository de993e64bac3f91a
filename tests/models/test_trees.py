import numpy as np
import pytest
import ydf
from keras import ops

from models.trees import FlatForest, traverse


@pytest.fixture(scope="module", autouse=True)
def _quiet() -> None:
    ydf.verbose(0)


def test_the_walk_gives_what_ydf_predicts_missing_values_and_ties_included() -> None:
    rng = np.random.default_rng(0)
    features = np.round(rng.normal(size=(3000, 7)), 1).astype(np.float32)  # rounded, so that values meet thresholds
    target = (features[:, 0] * 2 + np.abs(features[:, 3]) + rng.normal(size=len(features))).astype(np.float32)
    features[rng.random(features.shape) < 0.15] = np.nan
    learner = ydf.RandomForestLearner(label="y", task=ydf.Task.REGRESSION, num_trees=12, max_depth=9, random_seed=3)
    model = learner.train({"x": features, "y": target})
    forest = FlatForest()
    columns = {feature.column_idx: number for number, feature in enumerate(model.input_features())}
    for tree in model.iter_trees():
        forest.add(tree, columns, lambda value: value.value)

    asked = np.round(rng.normal(size=(500, 7)) * 2, 1).astype(np.float32)
    asked[rng.random(asked.shape) < 0.3] = np.nan
    asked[0] = np.nan
    arrays = forest.arrays()
    leaves = ops.convert_to_numpy(traverse(arrays, asked, int(arrays["depth"])))
    assert leaves.shape == (500, 12)
    np.testing.assert_allclose(leaves.mean(axis=1), model.predict({"x": asked}), atol=1e-5)


def test_a_tree_that_is_one_leaf_gives_its_value() -> None:
    features = np.zeros((20, 2), np.float32)
    model = ydf.RandomForestLearner(label="y", task=ydf.Task.REGRESSION, num_trees=2).train(
        {"x": features, "y": np.full(20, 1.5, np.float32)}
    )
    forest = FlatForest()
    for tree in model.iter_trees():
        forest.add(tree, {}, lambda value: value.value)
    arrays = forest.arrays()
    leaves = ops.convert_to_numpy(traverse(arrays, features, int(arrays["depth"])))
    np.testing.assert_allclose(leaves, np.full((20, 2), 1.5))
