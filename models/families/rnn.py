"""A recurrence over segments of the past that decodes all segments of the horizon at once: SegRNN (Lin et al., 2023).

A segment of consecutive steps is one token, so that the recurrence is short and its gradients are sound. Each segment
of the horizon is one step of the same recurrence from where the past left it, told which segment it is and what is
known of it; none waits for another, so no error feeds the next. With segments of one step it is a recurrence by steps.
"""

from __future__ import annotations

from typing import Any

from keras import layers, ops

from models.families import parts
from models.window import EncodedWindow
from schemas.model_spec import RnnModel


def build(options: RnnModel, window: EncodedWindow, *, portable: bool) -> Any:
    """Builds the family; see `models.families.family`."""
    segment = min(options.segment, window.past.shape[1])
    tokens = parts.segments(window.past, segment)
    state = layers.Dense(options.units, activation="relu")(tokens)
    recurrences = [_recurrence(options, tokens.shape[1], portable=portable) for _ in range(options.layers)]
    if window.classified:
        for recurrence in recurrences:
            state = recurrence(layers.Dropout(options.dropout)(state))
        return parts.head(window, parts.pyramid(window, state, segment, segment), dropout=options.dropout)
    decoded, count = _queries(options, window)
    for recurrence in recurrences:
        state = recurrence(layers.Dropout(options.dropout)(state))
        left = ops.repeat(state[:, -1], count, axis=0)  # of these cells the output is the state
        decoded = recurrence(decoded, initial_state=left)
    decoded = layers.Dropout(options.dropout)(ops.reshape(decoded, (-1, count, options.units)))
    return parts.beside_linear(window, parts.segment_head(window, decoded, min(options.segment, window.horizon)))


def _queries(options: RnnModel, window: EncodedWindow) -> tuple[Any, int]:
    """What the recurrence is told of each segment of the horizon, (n * segment, 1, unit), and how many there are."""
    length = min(options.segment, window.horizon)
    count = -(-window.horizon // length)
    told = ops.zeros_like(window.target[:, :1, :1])
    if (constant := parts.context(window)) is not None:
        told = told + layers.Dense(options.units)(constant)[:, None]
    if window.future is not None:
        told = told + layers.Dense(options.units)(parts.horizon_segments(window.future, length))
    told = parts.Positions(count, options.units)(told)
    return ops.reshape(told, (-1, 1, options.units)), count


def _recurrence(options: RnnModel, tokens: int, *, portable: bool) -> Any:
    short = tokens <= parts.UNROLLED_STEPS
    if options.cell == "simple":
        return layers.SimpleRNN(options.units, return_sequences=True, unroll=short)
    use_cudnn = False if portable else "auto"
    return layers.GRU(options.units, return_sequences=True, unroll=short, use_cudnn=use_cudnn)
