"""A picture of forecasts beside what came true."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from schemas.dataset import DatasetFolder
from schemas.spec import Spec

_KEYS = 3
_HORIZONS = 12
"""How many forecasts, end to end, are shown of each key."""


def draw_forecasts(
    spec: Spec, folder: DatasetFolder, split: str, predictions: Sequence[Mapping[str, Any]], path: Path
) -> None:
    """Draws the newest forecasts of a split, one after another, over the observed values; the first target, as PNG."""
    import matplotlib as mpl

    mpl.use("Agg")
    from matplotlib import pyplot as plt

    target, step_ms, horizon = spec.targets[0], spec.grid.step, spec.window.horizon
    by_place = {(value["key"], value["origin_ms"]): value["targets"][0]["mean"] for value in predictions}
    actuals = _actuals(folder, split, step_ms)
    keys = sorted(actuals)[:_KEYS]
    figure, axes = plt.subplots(len(keys), 1, figsize=(11, 2.6 * len(keys)), sharex=True, squeeze=False)
    for axis, key in zip(axes[:, 0], keys, strict=True):
        times = np.array(sorted(actuals[key]))
        newest = int(times[-1]) - horizon * step_ms
        origins = [newest - back * horizon * step_ms for back in range(_HORIZONS)]
        shown = times[times >= origins[-1]]
        values = [actuals[key][int(time)] for time in shown]
        axis.plot(_dates(shown), values, color="0.25", linewidth=1.2, label="observed")
        label: str | None = f"forecast, {horizon} steps ahead"
        for origin in origins:
            if mean := by_place.get((key, origin)):
                ahead = origin + np.arange(horizon, dtype=np.int64) * step_ms
                axis.plot(_dates(ahead), mean, color="tab:blue", linewidth=1.2, alpha=0.9, label=label)
                axis.axvline(_dates(ahead[:1])[0], color="0.85", linewidth=0.6, zorder=0)
                label = None
        axis.set_ylabel(f"{key}\n{target.name} ({target.unit})" if target.unit else f"{key}\n{target.name}")
        axis.margins(x=0.01)
    axes[0, 0].legend(loc="upper right", ncols=2, frameon=False)
    axes[0, 0].set_title(f"{spec.stream.name}: forecasts as they were streamed, and what came true", loc="left")
    figure.autofmt_xdate()
    figure.tight_layout()
    figure.savefig(path, dpi=110)
    plt.close(figure)


def _actuals(folder: DatasetFolder, split: str, step_ms: int) -> dict[str, dict[int, float]]:
    """The observed values of the first target by key and start of step, as the windows' horizons hold them."""
    from models.reader import windows

    found: dict[str, dict[int, float]] = {}
    for batch in windows(folder, split, batch_size=1024).as_numpy_iterator():
        steps = np.arange(batch["target_values"].shape[1], dtype=np.int64) * step_ms
        for key, origin, values, seen in zip(
            batch["key"], batch["origin_ms"], batch["target_values"], batch["target_observed"], strict=True
        ):
            times = (origin + steps)[seen[:, 0]]
            found.setdefault(key.decode(), {}).update(zip(times.tolist(), values[seen[:, 0], 0].tolist(), strict=True))
    return found


def _dates(times_ms: NDArray[np.int64]) -> list[datetime]:
    return [datetime.fromtimestamp(time / 1_000, UTC) for time in times_ms.tolist()]
