"""Accuracy: what predictions were worth, once the actual values are known."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from schemas.dataset import DatasetFolder
from schemas.errors import DatasetError

_BATCH = 1024


@dataclass(frozen=True, slots=True)
class Scores:
    """Errors over the really observed horizon steps of the first target, in its unit.

    `skill` is 1 - MAE / MAE of persistence, which repeats the value that was observed last.
    """

    windows: int
    mae: float
    mae_persistence: float

    @property
    def skill(self) -> float:
        """1 is perfect, 0 no better than persistence."""
        return 1 - self.mae / self.mae_persistence


def score_predictions(folder: DatasetFolder, split: str, predictions: Sequence[Mapping[str, Any]]) -> Scores:
    """Scores the predictions (values of the predictions topic) whose windows are in a split of a dataset.

    Raises:
      DatasetError: a window of the split was not predicted.
    """
    from models.reader import windows

    by_place = {
        (value["key"], value["origin_ms"]): value["targets"][0] for value in predictions if value["role"] != "shadow"
    }
    count, error, error_persistence, cells = 0, 0.0, 0.0, 0
    for batch in windows(folder, split, batch_size=_BATCH).as_numpy_iterator():
        actual, observed = batch["target_values"][:, :, 0], batch["target_observed"][:, :, 0]
        places = zip(batch["key"], batch["origin_ms"], strict=True)
        try:
            found = [by_place[key.decode(), int(origin_ms)] for key, origin_ms in places]
        except KeyError as exc:
            raise DatasetError(f"{folder.path}: no prediction for the window {exc} of the split '{split}'") from exc
        forecast = np.array([target["mean"] for target in found])
        last = np.array([[target["last_observed"]] for target in found])
        count += len(found)
        error += float(np.abs(forecast - actual)[observed].sum())
        error_persistence += float(np.abs(last - actual)[observed].sum())
        cells += int(observed.sum())
    return Scores(count, error / cells, error_persistence / cells)
