"""Which split a window belongs to: the one that holds all its horizon steps (schemas.spec.DateSplit)."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

from pipelines.kernels.grid import Int64
from pipelines.kernels.windowing import Windowing, Windows
from schemas.dataset import ALL_ORIGINS
from schemas.errors import SpecError
from schemas.spec import SPLITS, Spec

TRAIN = "train"


class Splitter:
    """Assigns windows to the splits of a spec, or all of them to the one split `all`."""

    def __init__(self, spec: Spec, *, all_origins: bool) -> None:
        self._windowing = Windowing(spec)
        self._step_ms, self._offset_ms = spec.grid.step, spec.grid.offset
        self._horizon_ms = spec.window.horizon * spec.grid.step
        self._dates = None if all_origins else spec.split
        if not all_origins and spec.split is None:
            raise SpecError("$.split: expected a section that says which windows are for training, got none")
        self.names = (ALL_ORIGINS,) if all_origins else SPLITS

    def split(self, windows: Windows) -> Iterator[tuple[str, Int64]]:
        """The windows of each split: its name, and int64 (window,), the rows of `windows.steps` where they end."""
        if self._dates is None:
            yield ALL_ORIGINS, windows.end
            return
        origin_ms = windows.origin_step * self._step_ms + self._offset_ms
        labelled = self._windowing.labelled(windows)
        for name in self.names:
            start, end = self._dates.interval(name)
            within = (origin_ms >= start) & (origin_ms + self._horizon_ms <= end)
            yield name, windows.end[np.flatnonzero(labelled & within)]
