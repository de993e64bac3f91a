"""The window layout: one plain `tf.train.Example` a window, which any tool that knows TFRecord reads.

Windows are cut from blocks as the reader cuts them, so both layouts hold the same. The names are those of the model's
inputs, so a record is also what the signature `serving_examples` takes.
"""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
from numpy.lib.stride_tricks import sliding_window_view

from pipelines.blocks import Block
from pipelines.example_encoder import Column, encode_examples
from pipelines.kernels.grid import Bool, Float32, Int64
from pipelines.kernels.windowing import Windowing
from pipelines.tfrecord import frame_table
from schemas.spec import Spec

_AT_ONCE = 256
"""Windows that are in memory together."""


class WindowLayout:
    """Lays the windows of one spec into records of their own."""

    def __init__(self, spec: Spec) -> None:
        features = spec.stream.features
        self._windowing = Windowing(spec)
        self._length = spec.window.past + spec.window.horizon
        self._label = spec.stream.label is not None
        self._targets = [index for index, feature in enumerate(features) if feature.role == "target"]
        self._has_future = any(feature.role == "future" for feature in features)
        self._has_static = any(feature.role == "static" for feature in features)

    def expand(self, key: str, packed: bytes) -> Iterator[bytes]:
        """The framed records of a packed block's windows, some at a time."""
        for _, _, framed in self.encode(key, Block.unpack(packed)):
            yield framed

    def encode(self, key: str, block: Block) -> Iterator[tuple[int, int, bytes]]:
        """The windows of a block, some at a time: the first one's step, how many they are, and their framed records."""
        starts = np.flatnonzero(block.origins)
        values = sliding_window_view(block.values, self._length, axis=0)
        observed = sliding_window_view(block.observed, self._length, axis=0)
        for first in range(0, len(starts), _AT_ONCE):
            some = starts[first : first + _AT_ONCE]
            columns = self._columns(key, block.first_step + some, values[some], observed[some])
            if self._label:
                columns["label"] = self._windowing.labels(block.steps, some + self._windowing.past)
            records = b"".join(frame_table(table).data for _, table in encode_examples(columns))
            yield block.first_step + int(some[0]), len(some), records

    def _columns(self, key: str, first_step: Int64, values: Float32, observed: Bool) -> dict[str, Column]:
        """The features of some windows by name; `values` and `observed` are (window, feature, time)."""
        past, grid = self._windowing.past, self._windowing.grid
        inputs = self._windowing.inputs
        past_values = np.ascontiguousarray(values[:, inputs, :past].transpose(0, 2, 1))
        past_observed = np.ascontiguousarray(observed[:, inputs, :past].transpose(0, 2, 1))
        origin = first_step + past
        parts: dict[str, Float32 | Bool] = {
            "past_values": past_values,
            "past_observed": past_observed,
        }
        if self._targets:
            parts["target_values"] = values[:, self._targets, past:].transpose(0, 2, 1)
            parts["target_observed"] = observed[:, self._targets, past:].transpose(0, 2, 1)
        if self._has_future:
            parts["future_values"] = self._windowing.future_values(origin, past_values)
        if self._has_static:
            parts["static_values"] = self._windowing.static_values(past_values, past_observed)
        flat: dict[str, Column] = {name: part.reshape(len(origin), -1) for name, part in parts.items()}
        return flat | {"key": key.encode(), "origin_ms": origin * grid.step_ms + grid.offset_ms}
