"""The last observed value of the same phase of the season, repeated (the seasonal naive forecast)."""

from __future__ import annotations

from typing import Any

import numpy as np
from keras import ops

from models.encoding import last_observed
from models.fitting import Fitted, State
from models.window import EncodedWindow
from schemas.dataset import DatasetFolder
from schemas.model_spec import SeasonalModel, season_steps
from schemas.spec import Spec


def build(options: SeasonalModel, window: EncodedWindow, *, portable: bool, state: State) -> Any:  # noqa: ARG001
    """Builds the family; see `models.families.family`. `state` has `season`, int32 (): its steps.

    A phase that was never observed takes the last observed value of any.
    """
    targets = window.target.shape[-1]
    observed = window.past[..., targets : 2 * targets]
    return same_phase(window.target, observed, int(state["season"]), window.horizon)


def same_phase(values: Any, observed: Any, season: int, horizon: int) -> Any:
    """The last observed value of each coming step's phase, and where there is none the last of any phase, or 0.

    Args:
      values: (n, past, column).
      observed: the same shape, 1 where observed, else 0.
      season: its steps, at most those of the past.
      horizon: how many steps are coming.
    Returns:
      (n, horizon, column).
    """
    past, columns = values.shape[1:]
    seasons = -(-past // season)
    before = ((0, 0), (seasons * season - past, 0), (0, 0))

    def by_season(cells: Any) -> Any:  # (n, season, phase * column), so that the last season is the last row
        return ops.reshape(ops.pad(cells, before), (-1, seasons, season * columns))

    values_by_season, observed_by_season = by_season(values), by_season(observed)
    of_phase = last_observed(values_by_season, observed_by_season)
    of_any = ops.tile(last_observed(values, observed), (1, season))
    cycle = ops.where(ops.max(observed_by_season, axis=1) > 0, of_phase, of_any)
    return ops.take(ops.reshape(cycle, (-1, season, columns)), np.arange(horizon, dtype=np.int32) % season, axis=1)


def fit(spec: Spec, folder: DatasetFolder) -> Fitted:  # noqa: ARG001
    """Looks the season up in the spec."""
    if not isinstance(spec.model, SeasonalModel):
        raise TypeError(f"expected a spec of the family 'seasonal', got {spec.model}")
    season = season_steps(spec.model.season, spec.grid.step)
    return Fitted({"season": np.array(season, np.int32)}, {"season_steps": season}, f"a season of {season} steps")
