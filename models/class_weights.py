"""What each class counts in a classifier's loss."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
from numpy.typing import NDArray

from schemas.errors import ModelError
from schemas.training_spec import Training


def class_weights(training: Training, classes: Sequence[str], counts: Mapping[str, int]) -> NDArray[np.float32]:
    """The weight of each class.

    Args:
      training: with or without `class_weights`.
      classes: in the order of their numbers.
      counts: examples of each in the train split.
    Returns:
      float32 (class,); all 1 unless the spec says otherwise. Balanced ones average 1 over the examples.
    Raises:
      ModelError: the spec names a class that there is not.
    """
    given = training.class_weights
    if given is None:
        return np.ones(len(classes), np.float32)
    if given == "balanced":
        sizes = np.array([counts.get(name, 0) for name in classes], np.float64)
        present = sizes > 0
        weights = np.zeros(len(classes))
        weights[present] = sizes.sum() / (present.sum() * sizes[present])
        return weights.astype(np.float32)
    if unknown := sorted(given.keys() - set(classes)):
        raise ModelError(f"$.training.class_weights: expected classes of {list(classes)}, got {unknown}")
    return np.array([given.get(name, 1.0) for name in classes], np.float32)
