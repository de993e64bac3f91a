"""A Keras model as a function of batches."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import tensorflow as tf
from numpy.typing import NDArray

from models.saved_model import traced

Answer = Callable[[Mapping[str, Any]], dict[str, NDArray[Any]]]
"""A batch as the reader gives it, in numpy, to the model's outputs by name."""


def answer_of(model: Any) -> Answer:
    """Asks a model; its weights are those that it has when it is asked.

    It is traced once: Keras's own `predict_on_batch` traces a model again for the last, shorter batch.

    Args:
      model: from a dict of inputs to a dict of outputs, each with the batch as its first axis.
    """
    forms = {name: (tuple(tensor.shape[1:]), tensor.dtype) for name, tensor in model.input.items()}
    call = traced(lambda **inputs: model(inputs, training=False), **forms)

    def answer(batch: Mapping[str, Any]) -> dict[str, NDArray[Any]]:
        outputs = call(**{name: tf.constant(batch[name]) for name in forms})
        return {name: tensor.numpy() for name, tensor in outputs.items()}

    return answer
