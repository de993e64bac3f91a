"""Which split a window belongs to: the one that holds all its horizon steps (schemas.spec.SplitRule)."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Mapping, Sequence
from itertools import pairwise

import numpy as np

from pipelines.kernels.grid import Int64
from pipelines.kernels.windowing import Windowing, Windows
from schemas.dataset import ALL_ORIGINS
from schemas.errors import SpecError
from schemas.spec import Spec
from schemas.split_spec import SPLITS, FieldSplit, FractionSplit, Interval, KeySplit, TimeSplit

TRAIN = "train"
VALIDATION = "validation"

_ALL_TIME: Interval = (-(2**62), 2**62)


class Splitter:
    """Assigns windows to the splits of a spec, or all of them to the one split `all`."""

    def __init__(self, spec: Spec, *, all_origins: bool) -> None:
        if not all_origins and spec.split is None:
            raise SpecError("$.split: expected a section that says which windows are for training, got none")
        self._windowing = Windowing(spec)
        self._past, self._horizon_ms = spec.window.past, spec.window.horizon * spec.grid.step
        self._rule = None if all_origins else spec.split
        self.names = (ALL_ORIGINS,) if all_origins else SPLITS

    def intervals(self, key: str, runs: Sequence[Windows]) -> dict[str, Interval]:
        """When each split of a key is; a split that the key has no part in is left out.

        Args:
          key: the key.
          runs: all its runs, oldest first.
        """
        rule, grid = self._rule, self._windowing.grid
        if rule is None:
            return {ALL_ORIGINS: _ALL_TIME}
        if isinstance(rule, KeySplit):
            return {split_of_key(rule, key): _ALL_TIME}
        if not isinstance(rule, FractionSplit):
            return {name: rule.interval(name) for name in self.names}
        if not runs:
            return {}
        first = runs[0].steps.first + self._past - 1  # the steps before stand for what was before any event
        end = runs[-1].steps.first + len(runs[-1].steps)
        validated, tested = first + int((end - first) * rule.train), end - int((end - first) * rule.test)
        bounds = [grid.start_ms(step) for step in (first, validated, tested, end)]
        return dict(zip(self.names, pairwise(bounds), strict=True))

    def split(self, windows: Windows, intervals: Mapping[str, Interval]) -> Iterator[tuple[str, Int64]]:
        """The windows of each split: its name, and int64 (window,), the rows of `windows.steps` where they end.

        Args:
          windows: of one run.
          intervals: when the splits of its key are.
        """
        if self._rule is None:
            yield ALL_ORIGINS, windows.end
            return
        grid = self._windowing.grid
        start_ms = windows.origin_step * grid.step_ms + grid.offset_ms
        end_ms = start_ms + self._horizon_ms
        labelled = self._windowing.labelled(windows)
        for name, (first, last) in intervals.items():
            chosen = labelled & (start_ms >= first) & (end_ms <= last)
            if isinstance(self._rule, TimeSplit):
                for stronger in SPLITS[SPLITS.index(name) + 1 :]:
                    before, after = intervals[stronger]
                    chosen &= (end_ms <= before - self._rule.purge) | (start_ms >= after + self._rule.embargo)
            yield name, windows.end[np.flatnonzero(chosen)]


def split_of_key(rule: KeySplit, key: str) -> str:
    """The split that all windows of a key are in."""
    drawn, below = _drawn(key), 0.0
    named = {name: choice for name in ("test", "validation") if isinstance(choice := getattr(rule, name), tuple)}
    for name, keys in named.items():
        if key in keys:
            return name
    for name in ("test", "validation"):
        if name not in named:
            below += getattr(rule, name)
            if drawn < below:
                return name
    return TRAIN


def split_by_field(rule: FieldSplit, key: str, named: str) -> str:
    """The split of a document whose field names one."""
    return VALIDATION if named == TRAIN and rule.validation and _drawn(key) < rule.validation else named


def _drawn(key: str) -> float:
    """A number of [0, 1) that is always the same for a key."""
    # Of a hash that no shard is drawn by, or else a shard could be all of one split.
    digest = hashlib.blake2b(key.encode(), digest_size=8, person=b"split").digest()
    return int.from_bytes(digest, "little") / 2**64
