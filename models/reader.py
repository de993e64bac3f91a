"""Reads the windows of a dataset into tf.data batches.

Ingest lays each stretch of a key's steps once into a block; the reader only cuts. Several blocks at a time are parsed
and decoded in one go into one long matrix of rows, and a batch of windows is one gather of row numbers from it. So the
cost of a window is that of copying its rows.
"""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import tensorflow as tf

from schemas.dataset import (
    BLOCK_FIRST_STEP,
    BLOCK_KEY,
    BLOCK_OBSERVED,
    BLOCK_ORIGINS,
    BLOCK_VALUES,
    DatasetFolder,
    Split,
)
from schemas.errors import DatasetError
from schemas.spec import Spec

BLOCKS_AT_ONCE = 16
"""Blocks that are cut together, at least; when shuffling, a batch mixes their windows."""
WINDOWS_AT_ONCE = 65_536
"""Of blocks with fewer windows, as many are shuffled together as hold so many windows on average, ..."""
MOST_BLOCKS_AT_ONCE = 1024
"""... but no more than these: a batch of many short series mixes the keys."""
SHUFFLED_GROUPS = 4
"""Groups of blocks that wait in memory, still serialised, to be drawn from."""
SHUFFLED_WINDOWS = 4096
"""As many records of the window layout."""

_FEATURES = {
    BLOCK_KEY: tf.io.FixedLenFeature((), tf.string),
    BLOCK_FIRST_STEP: tf.io.FixedLenFeature((), tf.int64),
    BLOCK_VALUES: tf.io.FixedLenFeature((), tf.string),
    BLOCK_OBSERVED: tf.io.FixedLenFeature((), tf.string, default_value=""),
    BLOCK_ORIGINS: tf.io.FixedLenFeature((), tf.string, default_value=""),
}


def windows(
    folder: DatasetFolder,
    split: str,
    *,
    batch_size: int,
    shuffle_seed: int | tf.Tensor | None = None,
    sample: int | None = None,
    repeat: bool = False,
) -> Any:
    """The windows of a split, each exactly once unless a sample is asked for, in batches.

    Args:
      folder: a dataset.
      split: its name.
      batch_size: windows a batch; the last batch of a pass holds the rest.
      shuffle_seed: shuffles the windows, in another order each pass, the same orders for the same seed; None keeps the
        order of the files. It may be a tensor, int64 (), of a function that makes datasets.
      sample: of the windows so many at random, in whole batches (see `batches_of`); with a `shuffle_seed` only.
      repeat: goes over the split again and again, with batches running across the end of a pass.
    Returns:
      A `tf.data.Dataset` of dicts, by the names of the model's inputs: `past_values` float32 (batch, past, feature),
      NaN where masked; `past_observed` bool, the same shape; `future_values` float32 (batch, horizon, future feature),
      and `static_values` float32 (batch, static feature), where the spec has such features; `key` string (batch,). And
      what belongs to them: `target_values` float32 (batch, horizon, target), `target_observed` bool, the same shape, or
      of a stream with a label `label` int64 (batch,), -1 where the horizon tells no class; `origin_ms` int64 (batch,),
      and `first_step` int64 (batch,), the number of the past's first step.
    Raises:
      DatasetError: there is no such split, a file of it is missing, or the layout is unknown.
    """
    count, paths = folder.split(split).windows, folder.shard_paths(split)
    for path in paths:
        if not path.is_file():
            raise DatasetError(f"{path}: expected a file of the split '{split}', got none")

    if folder.manifest.layout not in _LAYOUTS:
        raise DatasetError(f"{folder.path}: expected a layout of {sorted(_LAYOUTS)}, got '{folder.manifest.layout}'")
    records = tf.data.TFRecordDataset([str(path) for path in paths])
    part = (sample, count) if sample is not None and sample < count else None
    if part is not None:
        batch_size = min(batch_size, part[0])
    blocks = _blocks_at_once(folder.split(split))
    batches = _LAYOUTS[folder.manifest.layout](records, folder.spec, batch_size, blocks, shuffle_seed, part)
    if repeat:
        return batches.repeat().rebatch(batch_size).prefetch(tf.data.AUTOTUNE)
    number = batches_of(count, batch_size, sample)
    whole = batches.rebatch(batch_size)
    if part is not None:
        whole = whole.take(number)
    return whole.apply(tf.data.experimental.assert_cardinality(number)).prefetch(tf.data.AUTOTUNE)


def batches_of(count: int, batch_size: int, sample: int | None = None) -> int:
    """How many batches a pass over so many windows has; of a sample, rounded down, at least 1."""
    if sample is None or sample >= count:
        return math.ceil(count / batch_size)
    return max(sample // batch_size, 1)


def _blocks_at_once(split: Split) -> int:
    """How many blocks of a split are shuffled together."""
    blocks = sum(shard.blocks for shard in split.shards)
    wanted = WINDOWS_AT_ONCE * blocks // max(split.windows, 1)
    return min(max(wanted, BLOCKS_AT_ONCE), MOST_BLOCKS_AT_ONCE)


def _from_windows(
    records: Any,
    spec: Spec,
    batch_size: int,
    blocks: int,  # noqa: ARG001 (there are none)
    shuffle_seed: int | tf.Tensor | None,
    part: tuple[int, int] | None,
) -> Any:
    """Batches of the window layout."""
    features = spec.stream.features
    past, horizon, inputs = spec.window.past, spec.window.horizon, len(spec.stream.inputs)
    counts = {role: sum(feature.role == role for feature in features) for role in ("target", "future", "static")}
    shapes = {
        "past_values": (past, inputs),
        "past_observed": (past, inputs),
        "target_values": (horizon, counts["target"]),
        "target_observed": (horizon, counts["target"]),
        "future_values": (horizon, counts["future"]),
        "static_values": (counts["static"],),
    }
    parts = {name: shape for name, shape in shapes.items() if 0 not in shape}
    dtypes = {name: tf.float32 if name.endswith("values") else tf.int64 for name in parts}
    forms = {name: tf.io.FixedLenFeature(shape, dtypes[name]) for name, shape in parts.items()}
    forms |= {"key": tf.io.FixedLenFeature((), tf.string), "origin_ms": tf.io.FixedLenFeature((), tf.int64)}
    if spec.stream.label is not None:
        forms["label"] = tf.io.FixedLenFeature((), tf.int64)

    def parse(serialized: tf.Tensor) -> dict[str, tf.Tensor]:
        batch: dict[str, tf.Tensor] = tf.io.parse_example(serialized, forms)
        batch = {name: tf.cast(part, tf.bool) if name.endswith("observed") else part for name, part in batch.items()}
        batch["first_step"] = (batch["origin_ms"] - spec.grid.offset) // spec.grid.step - past
        return batch

    if part is not None:
        records = _drawn(records, *part, shuffle_seed)
    if shuffle_seed is not None:
        records = records.shuffle(SHUFFLED_WINDOWS, seed=shuffle_seed, reshuffle_each_iteration=True)
    return records.batch(batch_size).map(parse, num_parallel_calls=tf.data.AUTOTUNE)


def _drawn(records: Any, sample: int, count: int, seed: int | tf.Tensor) -> Any:
    """As many of `count` records as the sample has, each as likely as any other, in their order."""
    chosen = tf.random.experimental.stateless_shuffle(tf.range(count) < sample, tf.stack([tf.cast(seed, tf.int64), 0]))
    pairs = tf.data.Dataset.zip(records, tf.data.Dataset.from_tensor_slices(chosen))
    return pairs.filter(lambda _, drawn: drawn).map(lambda record, _: record)


def _from_blocks(
    records: Any,
    spec: Spec,
    batch_size: int,
    blocks: int,
    shuffle_seed: int | tf.Tensor | None,
    part: tuple[int, int] | None,
) -> Any:
    """Batches of the block layout."""
    cutter = _Cutter(spec, batch_size, part)
    if shuffle_seed is None:
        return records.batch(BLOCKS_AT_ONCE).flat_map(cutter.in_order)
    drawn = records.shuffle(SHUFFLED_GROUPS * blocks, seed=shuffle_seed, reshuffle_each_iteration=True)
    seeds = tf.data.Dataset.random(seed=shuffle_seed, rerandomize_each_iteration=True).batch(2)
    return tf.data.Dataset.zip(drawn.batch(blocks), seeds).flat_map(cutter.shuffled)


_LAYOUTS = {"block": _from_blocks, "window": _from_windows}


class _Cutter:
    """Cuts groups of serialised blocks into batches of windows."""

    def __init__(self, spec: Spec, batch_size: int, part: tuple[int, int] | None) -> None:
        features, inputs = spec.stream.features, spec.stream.inputs
        self._width = len(features)
        self._future = [(i, feature.lead or 0) for i, feature in enumerate(features) if feature.role == "future"]
        self._statics = np.array([i for i, feature in enumerate(inputs) if feature.role == "static"], np.int64)
        self._label = next((i for i, feature in enumerate(features) if feature.role == "label"), None)
        self._inputs = np.array([i for i in range(len(features)) if i != self._label], np.int64)
        self._classes = len(spec.classes)
        self._targets = np.array([i for i, feature in enumerate(features) if feature.role == "target"], np.int64)
        self._past, self._horizon = spec.window.past, spec.window.horizon
        self._step_ms, self._offset_ms = spec.grid.step, spec.grid.offset
        self._batch_size = batch_size
        self._part = part

    def in_order(self, serialized: tf.Tensor) -> Any:
        """The windows of string (block,), in order; no batch is larger than the batch size."""
        return self._cut(serialized, None)

    def shuffled(self, serialized: tf.Tensor, seed: tf.Tensor) -> Any:
        """The windows of string (block,), permuted by int64 (2,)."""
        return self._cut(serialized, seed)

    def _cut(self, serialized: tf.Tensor, seed: tf.Tensor | None) -> Any:
        block = tf.io.parse_example(serialized, _FEATURES)
        packed = block[BLOCK_VALUES]
        rows = tf.cast(tf.strings.length(packed) // (4 * self._width), tf.int64)
        values = tf.reshape(tf.io.decode_raw(tf.strings.reduce_join(packed), tf.float32), (-1, self._width))
        observed = tf.reshape(_bits(block[BLOCK_OBSERVED], rows * self._width), (-1, self._width))

        # Of each candidate of each block: the row that its past starts in, and the step that its horizon starts in.
        candidates = rows - (self._past + self._horizon - 1)
        valid = _bits(block[BLOCK_ORIGINS], candidates)
        number = tf.ragged.range(candidates).flat_values
        start = number + tf.repeat(tf.cumsum(rows, exclusive=True), candidates)
        step = number + tf.repeat(block[BLOCK_FIRST_STEP] + self._past, candidates)
        owner = tf.repeat(tf.range(tf.size(packed)), candidates)
        window = tf.where(valid)[:, 0]
        if seed is not None:
            window = tf.random.experimental.stateless_shuffle(window, seed)
        if self._part is not None:
            # Of every group of blocks its share, rounded up: so all of the split is drawn from, and there are enough.
            sample, count = self._part
            window = window[: (tf.size(window, tf.int64) * sample + count - 1) // count]

        # Row r of what is known: a calendar's own, and of what is announced `lead` steps ahead that of r - lead.
        rolled = [tf.roll(values[:, column], shift=lead, axis=0) for column, lead in self._future]
        known = tf.stack(rolled, axis=1) if rolled else None
        target_values = tf.gather(values, self._targets, axis=1)
        target_observed = tf.gather(observed, self._targets, axis=1)
        inputs, inputs_observed = values, observed
        if self._label is not None:
            inputs = tf.gather(values, self._inputs, axis=1)
            inputs_observed = tf.gather(observed, self._inputs, axis=1)
        past, horizon = tf.range(self._past, dtype=tf.int64), tf.range(self._horizon, dtype=tf.int64)

        def batch(first: tf.Tensor) -> dict[str, tf.Tensor]:
            chosen = window[first : first + self._batch_size]
            starts = tf.gather(start, chosen)
            before = starts[:, None] + past
            after = starts[:, None] + (self._past + horizon)
            cut = {
                "past_values": tf.gather(inputs, before),
                "past_observed": tf.gather(inputs_observed, before),
                "key": tf.gather(block[BLOCK_KEY], tf.gather(owner, chosen)),
                "origin_ms": tf.gather(step, chosen) * self._step_ms + self._offset_ms,
                "first_step": tf.gather(step, chosen) - self._past,
            }
            if self._label is None:
                cut["target_values"] = tf.gather(target_values, after)
                cut["target_observed"] = tf.gather(target_observed, after)
            else:
                told = tf.gather(values[:, self._label], after), tf.gather(observed[:, self._label], after)
                cut["label"] = self._first_class(*told)
            if known is not None:
                cut["future_values"] = tf.gather(known, after)
            if len(self._statics):
                cut["static_values"] = self._last_observed(cut["past_values"], cut["past_observed"])
            return cut

        firsts = tf.data.Dataset.range(0, tf.size(window, tf.int64), self._batch_size)
        return firsts.map(batch, num_parallel_calls=tf.data.AUTOTUNE)

    def _first_class(self, values: tf.Tensor, observed: tf.Tensor) -> tf.Tensor:
        """The first class that the horizon tells: of (batch, horizon) int64 (batch,), -1 where it tells none."""
        told = observed & (values < self._classes)
        first = tf.argmax(tf.cast(told, tf.int32), axis=1)
        return tf.cast(tf.gather(tf.where(told, values, -1.0), first, batch_dims=1), tf.int64)

    def _last_observed(self, values: tf.Tensor, observed: tf.Tensor) -> tf.Tensor:
        """The statics of a batch, float32 (batch, static feature): the last observed value of each, NaN without one."""
        seen = tf.gather(observed, self._statics, axis=2)
        number = tf.where(seen, tf.range(self._past)[:, None], -1)
        last = tf.reduce_max(number, axis=1)
        columns = tf.transpose(tf.gather(values, self._statics, axis=2), (0, 2, 1))
        value = tf.gather(columns, tf.maximum(last, 0), axis=2, batch_dims=2)
        return tf.where(last >= 0, value, np.float32(np.nan))


def _bits(packed: tf.Tensor, counts: tf.Tensor) -> tf.Tensor:
    """Unpacks bit strings, least significant bit first, and lays them end to end.

    Args:
      packed: string (block,); an empty one stands for nothing but ones.
      counts: int64 (block,), bits of each; the rest of its last byte is padding.
    Returns:
      bool (sum of counts,).
    """
    octets = tf.io.decode_raw(tf.strings.reduce_join(packed), tf.uint8)
    bits = tf.bitwise.right_shift(octets[:, None], np.arange(8, dtype=np.uint8)) & 1
    flat = tf.concat((tf.reshape(bits, (-1,)), tf.ones(1, tf.uint8)), axis=0)  # the last one is for empty strings
    size = tf.cast(tf.strings.length(packed), tf.int64)
    first = 8 * tf.cumsum(size, exclusive=True)
    position = tf.ragged.range(first, first + counts).flat_values
    left_out = tf.repeat(size == 0, counts)
    return tf.cast(tf.gather(flat, tf.where(left_out, tf.size(flat, tf.int64) - 1, position)), tf.bool)
