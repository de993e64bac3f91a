"""Slices: conditions under which forecasts are scored by themselves, as a spec's `evaluation.slices` names them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from pipelines.kernels.zones import local_ms
from schemas.evaluation_spec import CalendarSlice, KeySlice, ObservedSlice
from schemas.spec import Spec

Int64 = NDArray[np.int64]

_HOUR_MS = 3_600_000
_DAYS = ("Monday", "Tuesday", "Wednesday", "Thursday", "Friday", "Saturday", "Sunday")
_LABELS = {
    "hour_of_day": tuple(f"{hour:02d}:00" for hour in range(24)),
    "day_of_week": _DAYS,
    "month": tuple(f"{month:02d}" for month in range(1, 13)),
}


class Slices:
    """The labels of a spec's slices, and which of them the cells of a batch have."""

    def __init__(self, spec: Spec) -> None:
        self._slices = spec.evaluation.slices
        self._step_ms, self._horizon = spec.grid.step, spec.window.horizon
        self._measured = [i for i, feature in enumerate(spec.stream.inputs) if feature.calendar is None]
        self.labels: dict[str, Sequence[str]] = {one.by: _labels(one) for one in self._slices}
        """The labels of each slice by its name, in order."""

    def groups(self, batch: Mapping[str, Any]) -> dict[str, Int64]:
        """The number of each cell's label by the slice's name: int64 (window, horizon); -1 is in none.

        Args:
          batch: as the reader gives it, in numpy.
        """
        return {one.by: self._group(one, batch) for one in self._slices}

    def _group(self, one: CalendarSlice | KeySlice | ObservedSlice, batch: Mapping[str, Any]) -> Int64:
        shape = (len(batch["key"]), self._horizon)
        if isinstance(one, CalendarSlice):
            time_ms = batch["origin_ms"][:, None] + np.arange(self._horizon, dtype=np.int64) * self._step_ms
            return _calendar(one.by, local_ms(one.zone, time_ms))
        if isinstance(one, KeySlice):
            number = {key: place for place, keys in enumerate(one.groups.values()) for key in keys}
            of_window = np.array([number.get(key.decode(), -1) for key in batch["key"]], np.int64)
        else:
            share = batch["past_observed"][:, :, self._measured].mean(axis=(1, 2))
            of_window = np.searchsorted(np.array(one.below), share, side="right").astype(np.int64)
        return np.broadcast_to(of_window[:, None], shape)


def _labels(one: CalendarSlice | KeySlice | ObservedSlice) -> tuple[str, ...]:
    if isinstance(one, CalendarSlice):
        return _LABELS[one.by]
    if isinstance(one, KeySlice):
        return tuple(one.groups)
    return (*(f"below {bound:g}" for bound in one.below), f"{one.below[-1]:g} and more")


def _calendar(kind: str, time_ms: Int64) -> Int64:
    if kind == "hour_of_day":
        return time_ms // _HOUR_MS % 24
    moments = time_ms.astype("datetime64[ms]")
    if kind == "day_of_week":
        return (moments.astype("datetime64[D]").astype(np.int64) + 3) % 7  # 1970-01-01 was a Thursday
    return moments.astype("datetime64[M]").astype(np.int64) % 12
