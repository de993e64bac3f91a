"""The families that are fitted without descent, each against an independent computation on windows with gaps."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tensorflow as tf

from models import stored
from models.families import FAMILIES
from models.families.family import FittedFamily
from models.forecaster import build_forecaster
from models.forms import input_forms
from models.reader import windows
from models.train import train
from models.yardsticks import yardsticks
from schemas.dataset import DatasetFolder
from schemas.errors import ModelError, SpecError
from schemas.spec import Spec
from tests.models.conftest import HOUR_MS, easy_series, easy_spec
from tests.models.datasets import lay_dataset
from tests.models.test_encoding import rich_spec

_FOREST = {"family": "forest", "trees": 8, "depth": 8, "rows": 3000, "season": "1d"}


def _batch(folder: DatasetFolder, split: str = "test") -> dict[str, Any]:
    return next(iter(windows(folder, split, batch_size=10_000).as_numpy_iterator()))


def _forecast(spec: Spec, folder: DatasetFolder, batch: dict[str, Any]) -> np.ndarray:
    assert spec.model is not None
    family = FAMILIES[spec.model.family]
    assert isinstance(family, FittedFamily)
    model = build_forecaster(spec, folder.statistics, state=family.fit(spec, folder).state)
    return model.predict_on_batch({name: batch[name] for name in input_forms(spec)})["mean"]


def _naive(batch: dict[str, Any], season: int, horizon: int) -> np.ndarray:
    """The load's last observed value of each step's phase, or of any phase."""
    forecasts = []
    for values, observed in zip(batch["past_values"][..., 1], batch["past_observed"][..., 1], strict=True):
        past, seen = len(values), np.flatnonzero(observed)
        of_phase = [[row for row in seen if (past + step - row) % season == 0] for step in range(horizon)]
        forecasts.append([values[(rows or seen)[-1]] for rows in of_phase])
    return np.array(forecasts)


@pytest.mark.parametrize("shared", [{}, {"channels": "independent", "anchor": "mean", "scaling": "window"}])
def test_persistence_and_seasonal_repeat_what_was_observed(easy_dataset: DatasetFolder, shared: dict[str, str]) -> None:
    batch = _batch(easy_dataset)
    spec = easy_spec(model={"family": "persistence"} | shared)
    assert not batch["past_observed"][:, -1, 1].all()
    np.testing.assert_allclose(_forecast(spec, easy_dataset, batch)[..., 0], _naive(batch, 1, 6), rtol=1e-4)
    for season in (5, "5h"):
        spec = easy_spec(model={"family": "seasonal", "season": season} | shared)
        np.testing.assert_allclose(_forecast(spec, easy_dataset, batch)[..., 0], _naive(batch, 5, 6), rtol=1e-4)


def test_a_season_is_whole_steps_within_the_past() -> None:
    with pytest.raises(SpecError, match=r"model\.season must be at most window\.past \(26\) steps, got 168"):
        easy_spec(model={"family": "seasonal", "season": "1w"})
    with pytest.raises(SpecError, match=r"a season must be a whole number of steps \(1h\), got 90min"):
        easy_spec(model={"family": "seasonal", "season": "90min"})
    with pytest.raises(SpecError, match="has neither 'reversible' nor 'quantiles'"):
        easy_spec(model={"family": "persistence", "reversible": True})


def test_linear_is_the_ridge_of_each_horizon_steps_observed_rows(easy_dataset: DatasetFolder) -> None:
    spec = easy_spec(model={"family": "linear", "strengths": [0.01], "look_back": [20]})
    train_batch, batch = _batch(easy_dataset, "train"), _batch(easy_dataset)
    load, wind = easy_dataset.statistics.features["load"], easy_dataset.statistics.features["wind"]

    def inputs(of: dict[str, Any]) -> tuple[np.ndarray, np.ndarray]:
        values, observed = of["past_values"].astype(float), of["past_observed"]
        anchor = (_naive(of, 1, 1)[:, 0] - load.mean) / load.std
        moved = np.nan_to_num((values[:, -20:, 1] - load.mean) / load.std - anchor[:, None])
        beside = np.nan_to_num((values[:, -20:, 0] - wind.mean) / wind.std)
        assert not observed[:, :, 1].all()
        angle = 2 * np.pi * of["future_values"][:, :1, 0]
        steps = np.stack((moved, beside), axis=2).reshape(len(values), -1)
        return np.concatenate((steps, np.sin(angle), np.cos(angle)), axis=1), anchor

    x, anchor = inputs(train_batch)
    asked, asked_anchor = inputs(batch)
    cost = 0.01 * (x**2).mean()
    expected = []
    for step in range(6):
        known = train_batch["target_observed"][:, step, 0]
        y = ((train_batch["target_values"][:, step, 0] - load.mean) / load.std - anchor)[known]
        left = x[known].T @ x[known] + known.sum() * cost * np.eye(x.shape[1])
        moved = asked @ np.linalg.solve(left, x[known].T @ y)
        expected.append((asked_anchor + moved) * load.std + load.mean)
    np.testing.assert_allclose(_forecast(spec, easy_dataset, batch)[..., 0], np.stack(expected, axis=1), rtol=2e-3)


def test_what_linear_leaves_open_is_chosen_on_the_validation_split(tmp_path: Path) -> None:
    # Two loads that follow opposite rules, which no shared map can know, with a memory of three steps.
    features = [{"name": name, "role": "target"} for name in ("up", "down")]
    document = {"features": features}
    spec = easy_spec(stream=document, model={"family": "linear", "look_back": [2, 12], "strengths": [1e-3, 100.0]})
    time_ms = np.arange(24 * 51, dtype=np.int64) * HOUR_MS
    noise = np.random.default_rng(0).normal(size=(len(time_ms), 2))
    values = np.cumsum(noise, axis=0)
    for row in range(9, len(values)):
        values[row] = np.array([0.9, -0.9]) * values[row - 9] + 0.1 * noise[row]
    folder = lay_dataset(tmp_path / "dataset", spec, {"one": (time_ms, values)})
    report = FAMILIES["linear"].fit(spec, folder).report  # type: ignore[union-attr]
    assert (report["look_back"], report["strength"], report["weights"]) == (12, 1e-3, "per_channel")
    errors = [candidate["validation_mse"] for candidate in report["candidates"]]
    assert len(errors) == 8
    assert report["validation_mse"] == min(errors)
    batch = _batch(folder, "validation")
    deviation = np.array([folder.statistics.features[name].std for name in ("up", "down")])
    missed = (_forecast(spec, folder, batch) - batch["target_values"]) / deviation
    assert report["validation_mse"] == pytest.approx(np.square(missed).mean(), rel=1e-4)


def test_forest_knows_the_step_the_season_and_the_channel(tmp_path: Path) -> None:
    spec = easy_spec(model=_FOREST | {"channels": "independent"})
    folder = lay_dataset(tmp_path / "dataset", spec, easy_series(keys=("north",)))
    batch = _batch(folder)
    forecast = _forecast(spec, folder, batch)[..., 0]
    error = np.abs(forecast - batch["target_values"][..., 0])[batch["target_observed"][..., 0]].mean()
    naive = np.abs(_naive(batch, 1, 6) - batch["target_values"][..., 0])[batch["target_observed"][..., 0]].mean()
    assert error < 0.3 * naive


@pytest.mark.parametrize(
    ("model", "least"),
    [
        ({"family": "linear"}, 0.8),
        ({"family": "linear", "channels": "together", "scaling": "window", "anchor": "mean"}, 0.6),
        ({"family": "forest", "trees": 10, "rows": 8000, "feature_share": 1.0}, 0.4),
    ],
    ids=str,
)
def test_features_of_every_role_are_inputs(tmp_path: Path, model: dict[str, Any], least: float) -> None:
    """What is forecast follows from a price that is announced, which nothing else tells."""
    spec = rich_spec(**model)
    rng = np.random.default_rng(0)
    steps = 24 * 51
    price = rng.normal(30, 10, steps + 6)
    sky, kind = rng.integers(0, 3, steps), np.ones(steps)
    wind, area = rng.normal(5, 2, steps), np.full(steps, 1000.0)
    sun = 3 + 0.2 * (price[:steps] - 30) + 0.1 * rng.normal(size=steps)
    load = 150 - 5 * (price[:steps] - 30) + 2 * rng.normal(size=steps)
    values = np.stack((sun, sky, wind, load, price[6:], area, kind), axis=1)
    folder = lay_dataset(tmp_path / "dataset", spec, {"one": (np.arange(steps, dtype=np.int64) * HOUR_MS, values)})
    batch = _batch(folder)
    error = np.abs(_forecast(spec, folder, batch) - batch["target_values"]).mean(axis=(0, 1))
    naive = np.abs(batch["past_values"][:, -1:, [0, 3]] - batch["target_values"]).mean(axis=(0, 1))
    assert (1 - error / naive > least).all()


@pytest.mark.parametrize(
    "model", [{"family": "seasonal", "season": 24}, {"family": "linear", "scaling": "per_key"}, _FOREST], ids=str
)
def test_trained_kept_and_exported_like_every_family(
    easy_dataset: DatasetFolder, tmp_path: Path, model: dict[str, Any]
) -> None:
    spec = easy_spec(model=model)
    summary = train(spec, data=easy_dataset.path, output=tmp_path / "run", quiet=True)
    assert summary.epochs == 0
    assert summary.skill is not None
    assert summary.skill > 0.3
    batch = _batch(easy_dataset)
    inputs = {name: batch[name] for name in input_forms(spec)}
    if spec.model is not None and spec.model.family == "forest":
        assert "out of bag" in (tmp_path / "run" / "report.html").read_text()
        [score] = json.loads((tmp_path / "run" / "run.json").read_text())["fit"]["forests"].values()
        assert 0.5 < score["out_of_bag_explained"] < 1
    kept = stored.load(tmp_path / "run").model.predict_on_batch(inputs)["mean"]
    served = tf.saved_model.load(str(tmp_path / "run" / "export"))
    answer = served.signatures["serving_default"](**{name: tf.constant(part) for name, part in inputs.items()})
    np.testing.assert_allclose(answer["mean"], kept, rtol=1e-5)


def test_ydfs_own_operation_predicts_what_the_plain_ones_do(easy_dataset: DatasetFolder, tmp_path: Path) -> None:
    spec = easy_spec(model=_FOREST | {"op": "ydf"})
    train(spec, data=easy_dataset.path, output=tmp_path / "run", quiet=True)
    served = tf.saved_model.load(str(tmp_path / "run" / "export")).signatures["serving_default"]
    batch = _batch(easy_dataset)
    answer = served(**{name: tf.constant(batch[name]) for name in input_forms(spec)})["mean"]
    plain = _forecast(easy_spec(model=_FOREST), easy_dataset, batch)
    np.testing.assert_allclose(answer, plain, rtol=1e-5)
    functions = served.graph.as_graph_def().library.function
    assert any(node.op.startswith("SimpleML") for function in functions for node in function.node_def)


def test_a_fitted_family_is_not_built_of_nothing(easy_dataset: DatasetFolder) -> None:
    with pytest.raises(ModelError, match="'linear' is built of what fitting found"):
        build_forecaster(easy_spec(model={"family": "linear"}), easy_dataset.statistics)


def test_yardsticks_forecast_batches(easy_dataset: DatasetFolder) -> None:
    batch = _batch(easy_dataset)
    found = yardsticks(easy_spec(), easy_dataset)
    assert set(found) == {"seasonal", "linear"}
    np.testing.assert_allclose(found["seasonal"](batch)[..., 0], _naive(batch, 24, 6), rtol=1e-4)
    linear = easy_spec(model={"family": "linear", "look_back": [26]}, training={"batch_size": 512})
    # Some cells are missing, of which a yardstick makes less than the family does.
    np.testing.assert_allclose(found["linear"](batch), _forecast(linear, easy_dataset, batch), rtol=2e-3)
