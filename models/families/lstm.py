"""LSTM over segments of the past, with a direct head for all horizon steps.

One token is a segment of consecutive steps rather than a step, as in SegRNN (Lin et al., 2023): the recurrence is
short, so it is fast and its gradients are sound.
"""

from __future__ import annotations

from typing import Any

import keras
import numpy as np
from keras import layers, ops

from models.families import parts
from models.window import EncodedWindow
from schemas.model_spec import LstmModel


def build(options: LstmModel, window: EncodedWindow, *, portable: bool) -> Any:
    """Builds the family; see `models.families.family`."""
    segment = min(options.segment, window.past.shape[1])
    tokens = parts.segments(window.past, segment)
    state = layers.Dense(options.units, activation="relu")(tokens)
    for layer in range(1, options.layers + 1):
        state = layers.Dropout(options.dropout)(state)
        state = _read(options, state, whole=window.classified or layer < options.layers, portable=portable)
    if window.classified:
        state = parts.pyramid(window, state, segment, segment)
    return parts.head(window, state, dropout=options.dropout)


def _read(options: LstmModel, tokens: Any, *, whole: bool, portable: bool) -> Any:
    """Reads tokens: (n, token, unit) -> (n, token, unit) if `whole`, else what it ends with, (n, unit)."""

    def recurrence(*, backwards: bool) -> Any:
        chrono = options.forget == "chrono"
        return layers.LSTM(
            options.units,
            return_sequences=whole,
            go_backwards=backwards,
            unroll=tokens.shape[1] <= parts.UNROLLED_STEPS,
            use_cudnn=False if portable else "auto",
            unit_forget_bias=not chrono,
            bias_initializer=ChronoBias(tokens.shape[1]) if chrono else "zeros",
        )

    forwards = recurrence(backwards=False)(tokens)
    if not options.bidirectional:
        return forwards
    # By hand: Keras's own wrapper makes copies that forget `use_cudnn`.
    backwards = recurrence(backwards=True)(tokens)
    return ops.concatenate((forwards, ops.flip(backwards, axis=1) if whole else backwards), axis=-1)


class ChronoBias(keras.initializers.Initializer):  # type: ignore[misc]
    """Biases of an LSTM's gates by which memories last from one step to `steps` (Tallec & Ollivier, 2018).

    A forget gate that stays open at sigmoid(b) forgets in about 1 + exp(b) steps: b is the logarithm of a number drawn
    evenly from 1 to `steps - 1`, and the input gate's bias is -b. The order of the gates is Keras's: input, forget,
    cell, output.
    """

    def __init__(self, steps: int) -> None:
        self.steps = steps
        self._seed = keras.random.SeedGenerator()

    def __call__(self, shape: tuple[int, ...], dtype: Any = None) -> Any:
        """Biases of all four gates, (4 * units,)."""
        (units,) = np.array(shape) // 4
        last = ops.log(keras.random.uniform((units,), 1.0, max(self.steps - 1.0, 1.0), dtype=dtype, seed=self._seed))
        zeros = ops.zeros_like(last)
        return ops.concatenate((-last, last, zeros, zeros))
