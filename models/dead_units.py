"""Units that never fire: rectified activations that are zero whatever comes, and so learn nothing."""

from __future__ import annotations

from typing import Any

import keras
import tensorflow as tf

_RECTIFIED = frozenset({"relu", "leaky_relu", "relu6"})


class DeadUnits:
    """Looks at the rectified activations of a model, those of its layers and operations by name.

    A unit is an index of the last axis; it is dead on a batch if it is positive at no place of it.
    """

    def __init__(self, model: Any) -> None:
        watched = [
            node.outputs[0]
            for nodes in model._nodes_by_depth.values()
            for node in nodes
            if _is_rectified(node.operation) and len(node.outputs) == 1
        ]
        self._probe = keras.Model(model.inputs, watched) if watched else None
        self._share = tf.function(self._dead)

    def share(self, inputs: Any) -> float | None:
        """The share of dead units on a batch; None where the model has no rectified activations."""
        return None if self._probe is None else float(self._share(inputs))

    def _dead(self, inputs: Any) -> Any:
        assert self._probe is not None
        found = self._probe(inputs, training=False)
        dead = [
            tf.reduce_max(activation, axis=range(len(activation.shape) - 1)) <= 0
            for activation in (found if isinstance(found, list) else [found])
        ]
        return tf.reduce_mean(tf.cast(tf.concat(dead, axis=0), tf.float32))


def _is_rectified(operation: Any) -> bool:
    name = getattr(getattr(operation, "activation", None), "__name__", None)
    kind = type(operation).__name__
    return name in _RECTIFIED or kind.lower() in {"relu", "leakyrelu", "relu6"}
