"""Several models as one: how their outputs are put together. The weights are not negative, and together 1."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import keras
import numpy as np
from keras import ops


def member_name(number: int) -> str:
    """The layer of an ensemble's member."""
    return f"member_{number}"


def outputs_of(members: Sequence[Any], inputs: Mapping[str, Any]) -> list[Any]:
    """What each of several Keras models makes of its own of the inputs, with the model as one layer of that name."""
    layers = [keras.Model(one.input, one.output, name=member_name(number)) for number, one in enumerate(members)]
    return [layer({name: inputs[name] for name in one.input}) for layer, one in zip(layers, members, strict=True)]


def weighted_mean(weights: Sequence[float], outputs: Sequence[Any]) -> Any:
    """Of tensors of one shape."""
    return ops.sum(ops.stack([weight * one for weight, one in zip(weights, outputs, strict=True)]), axis=0)


def mixed_logits(weights: Sequence[float], logits: Sequence[Any]) -> Any:
    """Logits (batch, class) whose shares are the weighted mean of the shares of several logits."""
    parts = [
        float(np.log(weight)) + ops.log_softmax(one) for weight, one in zip(weights, logits, strict=True) if weight
    ]
    return ops.logsumexp(ops.stack(parts), axis=0)
