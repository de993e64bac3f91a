"""What MASE and MSIS are measured in: how far a season's values are from those of the season before, by key.

The scale of a key is the mean absolute error that the seasonal naive forecast has in the key's train rows.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field

import numpy as np
import tensorflow as tf
from numpy.typing import NDArray

from models.reader import windows
from schemas.dataset import BLOCK_FIRST_STEP, BLOCK_KEY, BLOCK_OBSERVED, BLOCK_VALUES, DatasetFolder

Float64 = NDArray[np.float64]
Bool = NDArray[np.bool_]

_TRAIN = "train"
_BATCH = 256


@dataclass(slots=True)
class _Differences:
    """Sums of a key's seasonal differences so far, by target, and its newest rows, which later ones are paired with."""

    end: int
    """The step after the newest row."""
    values: Float64
    """The newest rows, float64 (row, target), NaN where nothing was observed."""
    total: Float64 = field(init=False)
    count: Float64 = field(init=False)

    def __post_init__(self) -> None:
        self.total = np.zeros(self.values.shape[1])
        self.count = np.zeros(self.values.shape[1])


def seasonal_scales(folder: DatasetFolder, season: int) -> dict[str, Float64]:
    """The scales of a dataset's keys: float64 (target,), NaN where no two observed rows are a season apart.

    Args:
      folder: a dataset; one without a train split has no scales.
      season: in steps.
    Raises:
      DatasetError: a file is missing.
    """
    if _TRAIN not in folder.manifest.splits:
        return {}
    sums: dict[str, _Differences] = {}
    for key, first_step, rows in _stretches(folder):
        state = sums.setdefault(key, _Differences(first_step, rows[:0]))
        if first_step + len(rows) <= state.end:
            continue  # stretches of a key overlap: each row counts once
        if first_step > state.end:  # rows that nobody knows
            unknown = np.full((min(first_step - state.end, season), rows.shape[1]), np.nan)
            state.values, state.end = np.concatenate((state.values, unknown)), first_step
        joined = np.concatenate((state.values[-season:], rows[state.end - first_step :]))
        difference = np.abs(joined[season:] - joined[: max(len(joined) - season, 0)])
        state.total += np.nansum(difference, axis=0)
        state.count += np.isfinite(difference).sum(axis=0)
        state.end, state.values = first_step + len(rows), joined[-season:]
    return {key: _mean(state) for key, state in sums.items()}


def _mean(state: _Differences) -> Float64:
    mean: Float64 = state.total / np.where(state.count, state.count, np.nan)
    return mean


def _stretches(folder: DatasetFolder) -> Iterator[tuple[str, int, Float64]]:
    """Consecutive rows of the train split: the key, the first one's step, and the targets, NaN where not observed.

    Those of a key come in the order of time, and overlap.
    """
    spec = folder.spec
    features = spec.stream.inputs
    targets = [index for index, feature in enumerate(features) if feature.role == "target"]
    if folder.manifest.layout == "block":
        for record in tf.data.TFRecordDataset(list(map(str, folder.shard_paths(_TRAIN)))).as_numpy_iterator():
            found = tf.train.Example.FromString(record).features.feature
            values = np.frombuffer(found[BLOCK_VALUES].bytes_list.value[0], "<f4").reshape(-1, len(features))
            observed = np.ones(values.shape, bool)
            if packed := found[BLOCK_OBSERVED].bytes_list.value:
                bits = np.unpackbits(np.frombuffer(packed[0], np.uint8), count=values.size, bitorder="little")
                observed = bits.astype(bool).reshape(values.shape)
            seen = np.where(observed[:, targets], values[:, targets].astype(np.float64), np.nan)
            yield found[BLOCK_KEY].bytes_list.value[0].decode(), found[BLOCK_FIRST_STEP].int64_list.value[0], seen
        return
    for batch in windows(folder, _TRAIN, batch_size=_BATCH).as_numpy_iterator():
        past = np.where(batch["past_observed"], batch["past_values"], np.nan)[..., targets]
        ahead = np.where(batch["target_observed"], batch["target_values"], np.nan)
        rows = np.concatenate((past, ahead), axis=1).astype(np.float64)
        first = (batch["origin_ms"] - spec.grid.offset) // spec.grid.step - spec.window.past
        yield from zip((key.decode() for key in batch["key"]), first.tolist(), rows, strict=True)
