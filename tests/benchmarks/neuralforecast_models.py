"""NeuralForecast on ETTh1 by the strict protocol, 96 steps ahead from 336: what training and prediction take.

PYTHON -m tests.benchmarks.neuralforecast_models CSV MODEL

Prints one JSON document: `mse` of all 2,785 test windows, in deviations of the train rows, `windows` and `seconds`,
from the data frame to the last forecast. A model has the settings that NeuralForecast gives it, but for what is said
below. NeuralForecast is no dependency of this project: PYTHON is that of an environment which has `neuralforecast`
(3.3), and this module imports nothing else.
"""

from __future__ import annotations

import json
import sys
import time
from typing import Any

import numpy as np
import pandas as pd
from neuralforecast import NeuralForecast, models

PAST, HORIZON, TRAIN, HELD_OUT = 336, 96, 8640, 2880

SETTINGS: dict[str, dict[str, Any]] = {
    "DLinear": {"learning_rate": 1e-3},
    "NHITS": {},
    "PatchTST": {"hidden_size": 16, "linear_hidden_size": 128, "n_heads": 4, "dropout": 0.3, "learning_rate": 1e-3},
    "LSTM": {},
}
"""DLinear and PatchTST as their papers set them for these series; 500 steps of 256 windows for all."""
SHARED: dict[str, Any] = {"max_steps": 500, "windows_batch_size": 256, "scaler_type": "standard", "random_seed": 0}


def main(path: str, name: str) -> None:
    """Trains and forecasts."""
    columns = pd.read_csv(path).iloc[: TRAIN + 2 * HELD_OUT]
    values = columns.drop(columns="date").to_numpy(np.float64)
    values = (values - values[:TRAIN].mean(axis=0)) / values[:TRAIN].std(axis=0)
    names = columns.columns[1:]
    series = pd.concat(
        pd.DataFrame({"unique_id": key, "ds": pd.to_datetime(columns["date"]), "y": values[:, number]})
        for number, key in enumerate(names)
    )
    began = time.perf_counter()
    model = getattr(models, name)(
        h=HORIZON,
        input_size=PAST,
        enable_progress_bar=False,
        logger=False,
        accelerator="cpu",
        **SHARED | SETTINGS[name],
    )
    found = NeuralForecast([model], freq="h").cross_validation(
        series, val_size=HELD_OUT, test_size=HELD_OUT, n_windows=None, step_size=1
    )
    seconds = time.perf_counter() - began
    windows = len(found) // (HORIZON * len(names))
    print(json.dumps({"mse": float(((found[name] - found["y"]) ** 2).mean()), "windows": windows, "seconds": seconds}))


if __name__ == "__main__":
    main(*sys.argv[1:])
