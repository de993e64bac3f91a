"""Seasonal scales against the rows that train windows hold, each counted once."""

from __future__ import annotations

import numpy as np
import pytest

from models.reader import windows
from models.scales import seasonal_scales
from pipelines.kernels.metrics import seasonal_scale
from schemas.dataset import DatasetFolder
from tests.models.conftest import HOUR_MS


@pytest.mark.parametrize("season", [1, 24, 30, 1000])
def test_scales_are_of_every_row_of_the_train_windows_once(easy_dataset: DatasetFolder, season: int) -> None:
    rows: dict[str, dict[int, float]] = {"north": {}, "süd": {}}
    for batch in windows(easy_dataset, "train", batch_size=64).as_numpy_iterator():
        for number, key in enumerate(batch["key"]):
            origin = int(batch["origin_ms"][number]) // HOUR_MS
            for step in range(26):
                if batch["past_observed"][number, step, 1]:
                    rows[key.decode()][origin - 26 + step] = float(batch["past_values"][number, step, 1])
            for step in range(6):
                if batch["target_observed"][number, step, 0]:
                    rows[key.decode()][origin + step] = float(batch["target_values"][number, step, 0])
    got = seasonal_scales(easy_dataset, season)
    assert got.keys() == rows.keys()
    for key, series in rows.items():
        step = np.array(sorted(series), np.int64)
        expected = seasonal_scale(step, np.array([series[number] for number in step.tolist()]), season)
        np.testing.assert_allclose(got[key], [expected], rtol=1e-12)
