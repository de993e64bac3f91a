"""What several neural families are made of."""

from __future__ import annotations

from itertools import pairwise
from typing import Any

import keras
from keras import layers, ops

from models.window import EncodedWindow

UNROLLED_STEPS = 64
"""A recurrence of at most so many steps is laid out in the graph: faster than a loop, and small enough."""
_PARTS = 4
"""Of a past of which a class is told."""


def segments(sequence: Any, length: int) -> Any:
    """Cuts a sequence into segments of so many steps: (n, step, channel) -> (n, segment, length * channel).

    What is missing of the first one is 0, so that the last one ends where the sequence does.
    """
    if short := -sequence.shape[1] % length:
        sequence = ops.pad(sequence, ((0, 0), (short, 0), (0, 0)))
    steps, channels = sequence.shape[1:]
    return ops.reshape(sequence, (-1, steps // length, length * channels))


def patches(sequence: Any, length: int, stride: int, units: int) -> Any:
    """A vector of `units` for each patch of so many steps: (n, step, channel) -> (n, patch, unit).

    A patch begins every `stride` steps; the last one ends where the sequence does, and what the first lacks is 0.
    """
    return layers.Conv1D(units, length, strides=stride)(_whole_patches(sequence, length, stride))


def _whole_patches(sequence: Any, length: int, stride: int) -> Any:
    steps = sequence.shape[1]
    count = -(-max(steps - length, 0) // stride) + 1
    short = (count - 1) * stride + length - steps
    return ops.pad(sequence, ((0, 0), (short, 0), (0, 0))) if short else sequence


def pyramid(window: EncodedWindow, tokens: Any, length: int, stride: int) -> Any:
    """Means of the tokens of patches: of all, and of each quarter of the past; (n, patch, unit) -> (n, 5 * unit).

    What tells a class may be anywhere in a window or at one place, and examples are often few. Weights for each place
    would learn the examples' own; these tell places only roughly (spatial pyramid pooling, He et al., 2014). Patches of
    which no step is there count for nothing.
    """
    steps = ops.cast(window.present, tokens.dtype)[..., None]
    there = ops.max_pool(_whole_patches(steps, length, stride), length, stride)
    tokens = tokens * there
    count = tokens.shape[1]
    edges = [part * count // _PARTS for part in range(_PARTS + 1)]
    spans = [(0, count), *pairwise(edges)]
    return joined(
        [
            ops.sum(tokens[:, first:end], axis=1) / ops.maximum(ops.sum(there[:, first:end], axis=1), 1.0)
            for first, end in spans
            if first < end
        ]
    )


def horizon_segments(sequence: Any, length: int) -> Any:
    """As `segments`, of what is known of the horizon: the first begins where it does, and what the last lacks is 0."""
    if short := -sequence.shape[1] % length:
        sequence = ops.pad(sequence, ((0, 0), (0, short), (0, 0)))
    return segments(sequence, length)


class Positions(keras.layers.Layer):  # type: ignore[misc]
    """Adds a learnt vector for each place to tokens: (n, count or 1, unit) -> (n, count, unit)."""

    def __init__(self, count: int, units: int) -> None:
        super().__init__()
        self.count, self.units = count, units

    def build(self, shape: tuple[int | None, ...]) -> None:  # noqa: ARG002
        """Makes the vectors."""
        self.vectors = self.add_weight(shape=(self.count, self.units), initializer="uniform", name="vectors")

    def call(self, tokens: Any) -> Any:
        """The tokens, each with its place."""
        return tokens + ops.cast(self.vectors, tokens.dtype)


def context(window: EncodedWindow) -> Any | None:
    """What is true of a row at all steps: its static covariates and which target it is; (n, channel) or None."""
    parts = [] if window.static is None else [window.static]
    if window.channel is not None and window.channels > 1:
        parts.append(ops.one_hot(window.channel, window.channels, dtype="float32"))
    return joined(parts) if parts else None


def joined(parts: list[Any]) -> Any:
    """The parts side by side in the last axis."""
    return parts[0] if len(parts) == 1 else layers.Concatenate()(parts)


def head(window: EncodedWindow, state: Any, *, dropout: float) -> Any:
    """The forecast of all steps at once from what a family made of the past: (n, unit) -> (n, horizon, width).

    Where something is known of the future, the state is unfolded into a vector for each step, which what is known of
    that step joins before both become its numbers, as in TiDE (Das et al., 2023).
    """
    state = layers.Dropout(dropout)(state)
    constant = context(window)
    if constant is not None:
        state = joined([state, constant])
    if window.future is None:
        moved = layers.Dense(window.horizon * window.width)(state)
        return beside_linear(window, unfolded(moved, window))
    units = min(16, state.shape[-1])
    steps = ops.reshape(layers.Dense(window.horizon * units)(state), (-1, window.horizon, units))
    steps = layers.Dense(units, activation="relu")(joined([steps, window.future]))
    return beside_linear(window, layers.Dense(window.width)(steps))


def segment_head(window: EncodedWindow, state: Any, length: int) -> Any:
    """The forecast from a vector for each segment of the horizon: (n, segment, unit) -> (n, horizon, width)."""
    moved = layers.Dense(length * window.width)(state)
    return ops.reshape(moved, (-1, state.shape[1] * length, window.width))[:, : window.horizon]


def beside_linear(window: EncodedWindow, moved: Any) -> Any:
    """Adds what a family says, (n, horizon, width), to the linear forecast from the target's past, which it corrects.

    That starts from nothing, so that a new model repeats the anchor but for the family's own first guess. Classes have
    no such path: which class a window is of hardly follows from single steps, and its weights are many.
    """
    if window.classified:
        return moved
    flat = layers.Flatten()(window.target)
    return moved + unfolded(layers.Dense(window.horizon * window.width, kernel_initializer="zeros")(flat), window)


def unfolded(flat: Any, window: EncodedWindow) -> Any:
    """(n, horizon * width) -> (n, horizon, width)."""
    return ops.reshape(flat, (-1, window.horizon, window.width))
