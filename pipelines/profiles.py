"""What the data are like: profiles of keys and features over all closed steps, in the pass that makes the windows."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TypeVar

import numpy as np
from numpy.typing import NDArray

from pipelines.kernels.grid import Events, Float32, Int64
from pipelines.kernels.sketch import Sketch, bits_for
from pipelines.kernels.windowing import Windows
from pipelines.statistics import merge, moments
from schemas.dataset import QUANTILE_LEVELS, FeatureProfile, KeyProfile, SketchCounts, Statistics
from schemas.spec import Spec

T = TypeVar("T", bound=np.generic)

_LEVELS = np.array(QUANTILE_LEVELS)
_GATHERED = 64
"""Sketches of so many keys wait to be merged."""


class Profiler:
    """Profiles the keys of one spec, and gathers the distributions of all that it has seen."""

    def __init__(self, spec: Spec) -> None:
        self._past = spec.window.past
        self._columns = [
            (index, feature.name, bits_for(categorical=feature.categorical))
            for index, feature in enumerate(spec.stream.features)
            if feature.calendar is None
        ]
        self._sketches: dict[str, list[Sketch]] = {}

    def profile(self, events: Events, outcomes: Sequence[int], runs: Sequence[Windows]) -> KeyProfile:
        """The profile of a key.

        Args:
          events: all its events, at least one.
          outcomes: how many of them were used, duplicate and late.
          runs: its runs, oldest first, each with the blank steps before its first.
        """
        times = events.time_ms
        interval = np.diff(times)
        if (interval <= 0).any():
            times = np.unique(times)
            interval = np.diff(times)
        usual, regularity = _most_frequent(interval)
        used, duplicate, late = outcomes
        return KeyProfile(
            used=used,
            duplicate=duplicate,
            late=late,
            first_event_ms=int(times[0]),
            last_event_ms=int(times[-1]),
            interval_ms=usual,
            regularity=regularity,
            features=self._features(runs) if runs else {},
        )

    def take_sketches(self) -> dict[str, SketchCounts]:
        """The distribution of each feature over all keys since the last call."""
        taken, self._sketches = self._sketches, {}
        return {name: counts_of(Sketch.merged(sketches)) for name, sketches in taken.items()}

    def _features(self, runs: Sequence[Windows]) -> dict[str, FeatureProfile]:
        blank = self._past - 1
        first, last = runs[0].steps.first + blank, runs[-1].steps.first + len(runs[-1].steps)
        step = np.concatenate([run.steps.first + np.arange(blank, len(run.steps)) for run in runs])
        values = _joined([run.steps.values[blank:] for run in runs])
        observed = _joined([run.steps.observed[blank:] for run in runs])
        whole = np.logical_and.reduce(observed, axis=0)
        profiles = {}
        for index, name, bits in self._columns:
            if whole[index]:
                column, at = np.ascontiguousarray(values[:, index]), step
            else:
                seen = observed[:, index]
                column, at = values[seen, index], step[seen]
            sketch = Sketch.of(column, bits)
            profiles[name] = _profile(column, at, last - first, sketch)
            gathered = self._sketches.setdefault(name, [])
            gathered.append(sketch)
            if len(gathered) == _GATHERED:
                gathered[:] = [Sketch.merged(gathered)]
        return profiles


def counts_of(sketch: Sketch) -> SketchCounts:
    """A sketch as files hold it."""
    return SketchCounts(bits=sketch.bits, bucket=tuple(sketch.bucket.tolist()), count=tuple(sketch.count.tolist()))


def sketch_of(counts: SketchCounts) -> Sketch:
    """The sketch that a file holds."""
    return Sketch(counts.bits, np.array(counts.bucket, np.int64), np.array(counts.count, np.int64))


def with_profiles(
    statistics: Statistics, keys: Mapping[str, KeyProfile], sketches: Sequence[Mapping[str, SketchCounts]]
) -> Statistics:
    """Statistics with what all closed steps are like.

    Args:
      statistics: of the train split.
      keys: the profile of each key; they are merged in this order.
      sketches: the distribution of each feature, from one part of the keys after the other, in any order.
    """
    newest_ms = max((profile.last_event_ms for profile in keys.values()), default=0)
    parts: dict[str, list[Sketch]] = {}
    for part in sketches:
        for name, counts in part.items():
            parts.setdefault(name, []).append(sketch_of(counts))
    whole = {name: Sketch.merged(parts[name]) for name in sorted(parts)}
    return statistics.model_copy(
        update={
            "profiles": _merge_profiles(keys, whole),
            "sketches": {name: counts_of(sketch) for name, sketch in whole.items()},
            "key_profiles": {
                key: profile.model_copy(update={"stale_ms": newest_ms - profile.last_event_ms})
                for key, profile in keys.items()
            },
        }
    )


def _merge_profiles(keys: Mapping[str, KeyProfile], sketches: Mapping[str, Sketch]) -> dict[str, FeatureProfile]:
    merged: dict[str, FeatureProfile] = {}
    for profile in keys.values():
        for name, right in profile.features.items():
            left = merged.get(name)
            merged[name] = right if left is None else _merged(left, right)
    return {
        name: profile.model_copy(update={"quantiles": _quantiles(sketches[name])}) if name in sketches else profile
        for name, profile in merged.items()
    }


def _merged(left: FeatureProfile, right: FeatureProfile) -> FeatureProfile:
    both = merge(left.moments, right.moments) if left.moments and right.moments else left.moments or right.moments
    return FeatureProfile(
        steps=left.steps + right.steps,
        missing=left.missing + right.missing,
        moments=both,
        quantiles=(),
        gaps=left.gaps + right.gaps,
        longest_gap=max(left.longest_gap, right.longest_gap),
        longest_constant=max(left.longest_constant, right.longest_constant),
    )


def _profile(column: Float32, step: Int64, steps: int, sketch: Sketch) -> FeatureProfile:
    """The profile of one key's feature: its observed values and their steps, among so many steps."""
    absent = np.diff(step) - 1
    same = column[1:] == column[:-1]
    longest_constant = min(len(column), 1)
    if same.any():
        longest_constant = int(np.diff(np.flatnonzero(~same), prepend=-1, append=len(same)).max())
    return FeatureProfile(
        steps=steps,
        missing=steps - len(column),
        moments=moments(column),
        quantiles=_quantiles(sketch),
        gaps=int(np.count_nonzero(absent)),
        longest_gap=int(absent.max(initial=0)),
        longest_constant=longest_constant,
    )


def _most_frequent(interval: Int64) -> tuple[int | None, float | None]:
    """The most frequent of some intervals, the shortest of equally frequent ones, and its share."""
    if not len(interval):
        return None, None
    if (interval == interval[0]).all():
        return int(interval[0]), 1.0
    distinct, count = np.unique(interval, return_counts=True)
    usual = int(np.argmax(count))
    return int(distinct[usual]), float(count[usual] / count.sum())


def _quantiles(sketch: Sketch) -> tuple[float, ...]:
    return tuple(sketch.quantiles(_LEVELS).tolist()) if sketch.size else ()


def _joined(parts: Sequence[NDArray[T]]) -> NDArray[T]:
    return parts[0] if len(parts) == 1 else np.concatenate(parts)
