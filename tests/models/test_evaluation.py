"""The yardstick and the evaluation, against naive loops."""

from __future__ import annotations

import json
import math
from collections import defaultdict
from datetime import datetime
from pathlib import Path
from typing import Any
from zoneinfo import ZoneInfo

import numpy as np
import pytest

from models.evaluation import Errors, Forecast, evaluate_forecasts, evaluate_persistence, persistence_of
from models.reader import windows
from models.scales import seasonal_scales
from models.scaling import Constants
from models.yardsticks import persistence
from schemas.dataset import DatasetFolder
from schemas.errors import DatasetError, ModelError
from schemas.spec import Spec
from tests.models.conftest import HOUR_MS, easy_series, easy_spec
from tests.models.datasets import lay_dataset, seal


def test_persistence_is_the_last_observed_value() -> None:
    rng = np.random.default_rng(3)
    values = rng.normal(size=(50, 7, 2)).astype(np.float32)
    observed = rng.random((50, 7, 2)) < 0.3
    observed[0] = False
    got = persistence(values, observed, 4)
    assert got.shape == (50, 4, 2)
    assert got.dtype == np.float32
    for window in range(50):
        for column in range(2):
            expected = math.nan
            for step in range(7):
                if observed[window, step, column]:
                    expected = values[window, step, column]
            np.testing.assert_array_equal(got[window, :, column], np.full(4, expected, np.float32))


def test_report_against_a_naive_loop(easy_dataset: DatasetFolder) -> None:
    spec = easy_spec(model={"scaling": "per_key"})
    constants = Constants.of(spec, easy_dataset.statistics)
    rng = np.random.default_rng(0)
    errors = Errors(spec, ["north"])
    naive: dict[Any, list[tuple[float, float, float]]] = defaultdict(list)
    for batch in windows(easy_dataset, "test", batch_size=50).as_numpy_iterator():
        keys = [key.decode() for key in batch["key"]]
        deviation = np.array([easy_dataset.statistics.keys[key]["load"].std for key in keys], np.float32)
        mean = rng.normal(150, 50, batch["target_values"].shape).astype(np.float32)
        last = persistence(batch["past_values"][..., 1:2], batch["past_observed"][..., 1:2], 6)
        errors.add(batch | {"target_deviation": deviation[:, None]}, {"mean": mean}, {"persistence": last})
        for window, key in enumerate(keys):
            for step in range(6):
                if batch["target_observed"][window, step, 0]:
                    actual = float(batch["target_values"][window, step, 0])
                    pair = float(mean[window, step, 0]) - actual, float(last[window, step, 0]) - actual
                    for group in ("all", ("key", key), ("step", step)):
                        naive[group].append((*pair, float(deviation[window])))
    report = errors.report()

    def check(scores: dict[str, Any], group: Any) -> None:
        cells = naive[group]
        assert scores["cells"] == len(cells)
        assert scores["mae"] == pytest.approx(sum(abs(error) for error, _, _ in cells) / len(cells))
        assert scores["mse"] == pytest.approx(sum(error**2 for error, _, _ in cells) / len(cells))
        assert scores["mae_persistence"] == pytest.approx(sum(abs(missed) for _, missed, _ in cells) / len(cells))
        assert scores["skill"] == pytest.approx(1 - scores["mae"] / scores["mae_persistence"])

    load = report["targets"]["load"]
    assert load["unit"] == "MW"
    check(load, "all")
    for key in ("north", "süd"):
        check(load["by_key"][key], ("key", key))
    assert len(load["by_horizon"]) == 6
    for step, scores in enumerate(load["by_horizon"]):
        check(scores, ("step", step))
    standard = sum(abs(error) / scale for error, _, scale in naive["all"]) / len(naive["all"])
    assert report["standardised"]["mae"] == pytest.approx(standard)
    assert report["windows"] == easy_dataset.split("test").windows
    assert report["windows_by_key"] == easy_dataset.split("test").windows_by_key
    assert report["windows_of_unknown_keys"] == easy_dataset.split("test").windows_by_key["süd"]
    assert constants.keys == ("north", "süd")


def test_persistence_has_no_skill_over_itself(easy_dataset: DatasetFolder) -> None:
    report = evaluate_persistence(easy_spec(), easy_dataset, "validation")
    assert report["standardised"]["skill"] == 0
    assert report["windows"] == easy_dataset.split("validation").windows


def quantile_spec() -> Spec:
    slices = [
        {"by": "hour_of_day", "zone": "Asia/Kolkata"},
        {"by": "keys", "groups": {"<b>cold</b>": ["north"]}},
        {"by": "observed", "below": [0.7, 0.8]},
    ]
    return easy_spec(uncertainty={"intervals": [0.5, 0.9]}, evaluation={"slices": slices})


def shifted(spec: Spec) -> Forecast:
    """Forecasts of persistence, one too high, with intervals of 5 and 20 to each side."""

    def forecast(batch: Any) -> Any:
        mean = persistence_of(spec, batch) + 1
        return {"mean": mean, "quantiles": mean[..., None] + np.array([-20, -5, 5, 20], np.float32)}

    return forecast


def test_slices_intervals_and_anomalies_against_a_naive_loop(easy_dataset: DatasetFolder) -> None:
    spec = quantile_spec()
    found = evaluate_forecasts(
        spec, easy_dataset, "test", shifted(spec), {"two above": lambda batch: persistence_of(spec, batch) + 2}
    )
    cells: list[dict[str, Any]] = []
    scales = seasonal_scales(easy_dataset, 24)
    for batch in windows(easy_dataset, "test", batch_size=50).as_numpy_iterator():
        last = persistence(batch["past_values"][..., 1:2], batch["past_observed"][..., 1:2], 6)
        for window, step in np.argwhere(batch["target_observed"][..., 0]).tolist():
            key = batch["key"][window].decode()
            time_ms = int(batch["origin_ms"][window]) + step * HOUR_MS
            error = float(batch["target_values"][window, step, 0]) - float(last[window, step, 0]) - 1
            cells.append(
                {
                    "key": key,
                    "step": step,
                    "time_ms": time_ms,
                    "hour": f"{datetime.fromtimestamp(time_ms / 1000, ZoneInfo('Asia/Kolkata')).hour:02d}:00",
                    "share": batch["past_observed"][window, :, :2].mean(),
                    "error": error,
                    "scale": float(scales[key][0]),
                }
            )

    def check(scores: dict[str, Any], chosen: list[dict[str, Any]]) -> None:
        count = len(chosen)
        assert scores["cells"] == count
        if not count:
            return
        assert scores["mae"] == pytest.approx(sum(abs(cell["error"]) for cell in chosen) / count)
        assert scores["mae_two above"] == pytest.approx(sum(abs(cell["error"] - 1) for cell in chosen) / count)
        assert scores["skill_two above"] == pytest.approx(1 - scores["mae"] / scores["mae_two above"])
        assert scores["mase"] == pytest.approx(sum(abs(cell["error"]) / cell["scale"] for cell in chosen) / count)
        assert scores["coverage"]["0.9"] == pytest.approx(sum(abs(cell["error"]) <= 20 for cell in chosen) / count)
        missed = [40 + 20 * max(abs(cell["error"]) - 20, 0) for cell in chosen]
        expected = sum(score / cell["scale"] for score, cell in zip(missed, chosen, strict=True)) / count
        assert scores["msis"]["0.9"] == pytest.approx(expected, rel=1e-5)

    document = found.document
    assert document["levels"] == [0.05, 0.25, 0.75, 0.95]
    assert document["season"] == 24
    load = document["targets"]["load"]
    check(load, cells)
    for hour, scores in load["by_slice"]["hour_of_day"].items():
        check(scores, [cell for cell in cells if cell["hour"] == hour])
    assert list(load["by_slice"]["keys"]) == ["<b>cold</b>"]
    check(load["by_slice"]["keys"]["<b>cold</b>"], [cell for cell in cells if cell["key"] == "north"])
    bounds = {"below 0.7": (0, 0.7), "below 0.8": (0.7, 0.8), "0.8 and more": (0.8, 1.1)}
    assert list(load["by_slice"]["observed"]) == list(bounds)
    for label, (least, most) in bounds.items():
        check(load["by_slice"]["observed"][label], [cell for cell in cells if least <= cell["share"] < most])

    newest = sorted((cell for cell in cells if cell["step"] == 0), key=lambda cell: -abs(cell["error"]))
    unusual = [cell for cell in newest if abs(cell["error"]) > 20][:20]
    got = [(one["key"], one["time_ms"], one["score"]) for one in document["anomalies"]]
    assert got == [(cell["key"], cell["time_ms"], pytest.approx(cell["error"] / 20, rel=1e-5)) for cell in unusual]
    json.dumps(document, allow_nan=False)

    assert len(found.examples) == 6
    assert found.examples[0].quantiles is not None
    assert found.examples[0].quantiles.shape == (6, 1, 4)
    assert {example.key for example in found.examples} == {"north", "süd"}


def test_owa_is_the_mean_of_both_scores_beside_naive2(easy_dataset: DatasetFolder) -> None:
    spec = easy_spec()
    load = evaluate_persistence(spec, easy_dataset, "test")["targets"]["load"]
    expected = (load["smape"] / load["smape_naive2"] + load["mase"] / load["mase_naive2"]) / 2
    assert load["owa"] == pytest.approx(expected)
    # The past is shorter than three days, so that Naive2 sees no season in it, and is persistence.
    assert load["owa"] == pytest.approx(1)


def test_a_window_that_does_not_come_is_an_error(tmp_path: Path) -> None:
    folder = lay_dataset(tmp_path / "dataset", easy_spec(), easy_series())
    split = folder.split("test")
    by_key = split.windows_by_key | {"north": split.windows_by_key["north"] - 1, "else": 1}
    manifest = folder.manifest.model_copy(
        update={"splits": folder.manifest.splits | {"test": split.model_copy(update={"windows_by_key": by_key})}}
    )
    with pytest.raises(DatasetError, match=r"expected the .* windows of the split 'test' that the manifest says"):
        evaluate_persistence(easy_spec(), seal(folder.path, manifest), "test")


def test_a_forecast_that_is_no_number_is_an_error(easy_dataset: DatasetFolder) -> None:
    spec = easy_spec()

    def forecast(batch: Any) -> Any:
        return {"mean": np.full_like(batch["target_values"], np.nan)}

    with pytest.raises(ModelError, match=r"expected finite forecasts, got .* that are none"):
        evaluate_forecasts(spec, easy_dataset, "test", forecast)
