"""LeNet-5, the reference of the convolutional families: what it takes to train one is there, and works.

The network of LeCun et al. (1998) on 32 x 32 digits, with a dense output of 10 classes and rectified units. The 8 x 8
digits of UCI (1,797, as scikit-learn ships them) are enlarged three times and padded. They are trained by the engine
that trains every family.
"""

from __future__ import annotations

import gzip
from pathlib import Path
from typing import Any

import keras
import numpy as np
import pytest
import tensorflow as tf
from keras import layers, ops
from numpy.typing import NDArray
from rich.console import Console

from models.descent import Feed, Objective, descend
from schemas.training_spec import CosineRate, Training

DIGITS = Path(__file__).parents[3] / "shared" / "data" / "digits" / "digits.csv.gz"
BATCH = 64


def lenet() -> Any:
    """LeNet-5: images float32 (batch, 32, 32, 1) to logits (batch, 10)."""
    images = keras.Input((32, 32, 1))
    maps = layers.Conv2D(6, 5, activation="relu")(images)
    maps = layers.AveragePooling2D(2)(maps)
    maps = layers.Conv2D(16, 5, activation="relu")(maps)
    maps = layers.AveragePooling2D(2)(maps)
    maps = layers.Conv2D(120, 5, activation="relu")(maps)
    hidden = layers.Dense(84, activation="relu")(layers.Flatten()(maps))
    return keras.Model(images, layers.Dense(10)(hidden))


def test_it_has_as_many_parameters_as_published() -> None:
    assert lenet().count_params() == 61_706


@pytest.mark.slow
@pytest.mark.skipif(not DIGITS.is_file(), reason="needs the digits")
def test_it_reads_digits(tmp_path: Path) -> None:
    with gzip.open(DIGITS) as file:
        rows = np.loadtxt(file, delimiter=",", dtype=np.float32)
    rows = np.random.default_rng(0).permutation(rows)
    images = np.kron(rows[:, :64].reshape(-1, 8, 8) / 16, np.ones((3, 3), np.float32))
    images = np.pad(images, ((0, 0), (4, 4), (4, 4)))[..., None].astype(np.float32)
    labels = rows[:, 64].astype(np.int64)
    parts = {"train": slice(0, 1257), "validation": slice(1257, 1437), "test": slice(1437, 1797)}

    def batches(name: str) -> Any:
        found = (images[parts[name]], labels[parts[name]], np.ones(len(labels[parts[name]]), np.float32))
        return tf.data.Dataset.from_tensor_slices(found)

    def steps(name: str) -> int:
        return -(-len(labels[parts[name]]) // BATCH)

    def cost(actual: Any, logits: Any) -> Any:
        return ops.sparse_categorical_crossentropy(actual, logits, from_logits=True)

    keras.utils.set_random_seed(0)
    model = lenet()
    feed = Feed(
        lambda seed: batches("train").shuffle(2_000, seed=seed).batch(BATCH),
        steps("train"),
        batches("validation").batch(BATCH),
        steps("validation"),
    )
    training = Training(
        epochs=20, batch_size=BATCH, learning_rate=2e-3, schedule=CosineRate(by="cosine"), patience=None
    )
    descend(model, training, Objective(cost), feed, run=tmp_path, console=Console(quiet=True))
    said: NDArray[np.int64] = model.predict(images[parts["test"]], verbose=0).argmax(axis=1)
    assert (said == labels[parts["test"]]).mean() >= 0.98
