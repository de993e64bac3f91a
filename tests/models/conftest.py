"""An easy stream, a dataset of it, and a model trained on it once for all tests."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from models.train import RunSummary, train
from schemas.dataset import DatasetFolder
from schemas.spec import Spec, parse_spec
from tests.models.datasets import Series, lay_dataset

KERAS_ON_NUMPY_2 = "ignore:__array__ implementation doesn't accept a copy keyword:DeprecationWarning"
HOUR_MS = 3_600_000


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    for item in items:
        if Path(__file__).parent in item.path.parents:
            item.add_marker(pytest.mark.filterwarnings(KERAS_ON_NUMPY_2))


def easy_spec(**sections: Any) -> Spec:
    """An hourly load that swings with the day, and a wind with gaps.

    Keyword arguments extend its sections; a model of a family of its own replaces the one there is.
    """
    document: dict[str, Any] = {
        "stream": {
            "name": "easy",
            "key": "site",
            "time": {"field": "time", "format": "epoch_ms"},
            "features": [
                {"name": "wind", "role": "past", "unit": "m/s", "fill": "none"},
                {"name": "load", "role": "target", "unit": "MW"},
                {"name": "time_of_day", "role": "future", "calendar": "time_of_day"},
            ],
        },
        "grid": {"step": "1h", "regular": True, "max_gap": 2},
        "window": {"past": 26, "horizon": 6},
        "split": {
            "by": "dates",
            "train": ["1970-01-01", "1970-02-01"],
            "validation": ["1970-02-01", "1970-02-11"],
            "test": ["1970-02-11", "1970-02-21"],
        },
        "model": {"family": "lstm", "units": 8, "segment": 6},
        "training": {"epochs": 3, "batch_size": 64, "learning_rate": 0.01},
    }
    for name, section in sections.items():
        document[name] = section if "family" in section else document.get(name, {}) | section
    return parse_spec(document)


def easy_series(days: int = 51, keys: tuple[str, ...] = ("north", "süd")) -> Series:
    """Series with holes in single features and in time."""
    series = {}
    for number, key in enumerate(keys):
        rng = np.random.default_rng(number)
        hours = np.arange(24 * days, dtype=np.int64)
        load = 100 * (number + 1) + 20 * np.sin(2 * np.pi * (hours + 3 * number) / 24) + rng.normal(size=len(hours))
        wind = np.where(rng.random(len(hours)) < 0.4, np.nan, rng.normal(5, 2, len(hours)))
        load[rng.random(len(hours)) < 0.05] = np.nan
        there = (rng.random(len(hours)) > 0.03) & ~((hours > 300) & (hours < 308))
        series[key] = (hours[there] * HOUR_MS, np.stack((wind, load), axis=1)[there])
    return series


@dataclass(frozen=True)
class Trained:
    """A run: its spec, dataset, folder and summary."""

    spec: Spec
    dataset: DatasetFolder
    run: Path
    summary: RunSummary


@pytest.fixture(scope="session")
def easy_dataset(tmp_path_factory: pytest.TempPathFactory) -> DatasetFolder:
    return lay_dataset(tmp_path_factory.mktemp("easy") / "dataset", easy_spec(), easy_series())


@pytest.fixture(scope="session")
def trained(easy_dataset: DatasetFolder, tmp_path_factory: pytest.TempPathFactory) -> Trained:
    """A model that scales by key, so that it has every kind of input."""
    spec = easy_spec(model={"scaling": "per_key"})
    run = tmp_path_factory.mktemp("trained") / "run"
    return Trained(spec, easy_dataset, run, train(spec, data=easy_dataset.path, output=run, quiet=True))
