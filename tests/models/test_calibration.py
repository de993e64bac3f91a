"""Conformal calibration: the offsets by their definition, what they do to coverage, and the graph that applies them."""

from __future__ import annotations

import math
from pathlib import Path

import numpy as np
import pytest
import tensorflow as tf
from hypothesis import given
from hypothesis import strategies as st

from models.answers import answer_of
from models.calibration import Calibration, calibrate, calibrated, conformal_offsets, needs_calibration
from models.evaluation import evaluate_forecasts
from models.export import export
from models.forecaster import build_forecaster
from schemas.dataset import DatasetFolder
from tests.models.conftest import easy_spec
from tests.models.test_forecaster import STATISTICS, inputs_of

LEVELS = (0.05, 0.25, 0.5, 0.75, 0.9, 0.95)  # 0.9 has no mirror


@given(st.integers(1, 60), st.integers(0, 2**31))
def test_offsets_are_ranked_scores(windows: int, seed: int) -> None:
    rng = np.random.default_rng(seed)
    actual = rng.normal(size=(windows, 2, 2)).astype(np.float32)
    actual[rng.random(actual.shape) < 0.2] = np.nan
    quantiles = np.sort(rng.normal(size=(windows, 2, 2, len(LEVELS))), axis=-1).astype(np.float32)
    spread = rng.uniform(0.5, 3, (windows, 2)).astype(np.float32)
    got = conformal_offsets(actual, quantiles, spread, LEVELS)
    for step in range(2):
        for target in range(2):
            for coverage, low, high in ((0.5, 1, 3), (0.9, 0, 5)):
                scores = sorted(
                    max(quantiles[w, step, target, low] - y, y - quantiles[w, step, target, high]) / spread[w, target]
                    for w in range(windows)
                    if not math.isnan(y := actual[w, step, target])
                )
                rank = min(math.ceil((len(scores) + 1) * coverage - 1e-9), len(scores))
                expected = scores[rank - 1] if scores else 0.0
                assert got[step, target, high] == pytest.approx(expected)
                assert got[step, target, low] == pytest.approx(-expected)
            assert got[step, target, 2] == got[step, target, 4] == 0


def test_calibrated_intervals_cover_what_they_say_on_fresh_draws() -> None:
    rng = np.random.default_rng(0)
    levels = (0.1, 0.5, 0.9)
    draws = rng.standard_t(3, size=(2, 4000, 1, 1)).astype(np.float32)
    for wrong in (0.3, 3.0):  # intervals that are far too narrow, and far too wide
        quantiles = np.tile(np.array([-wrong, 0, wrong], np.float32), (4000, 1, 1, 1))
        offsets = conformal_offsets(draws[0], quantiles, np.ones((4000, 1), np.float32), levels)
        moved = quantiles + offsets
        covered = (moved[..., 0] <= draws[1]) & (draws[1] <= moved[..., 2])
        assert covered.mean() == pytest.approx(0.8, abs=0.02)


@pytest.mark.parametrize("scaling", ["shared", "per_key", "window"])
def test_a_calibrated_model_keeps_its_mean_and_has_rising_quantiles(scaling: str) -> None:
    spec = easy_spec(model={"scaling": scaling}, uncertainty={"intervals": [0.5, 0.9]})
    model, inputs = build_forecaster(spec, STATISTICS), inputs_of(spec)
    rng = np.random.default_rng(1)
    calibration = Calibration(spec.quantile_levels, rng.normal(size=(6, 1, 4)).astype(np.float32))
    whole = calibrated(spec, STATISTICS, model, calibration)
    assert [variable.path for variable in whole.weights] == [variable.path for variable in model.weights]
    outputs = whole.predict_on_batch(inputs)
    mean = model.predict_on_batch(inputs)["mean"]
    np.testing.assert_array_equal(outputs["mean"], mean)
    assert outputs["quantiles"].shape == (*mean.shape, 4)
    assert outputs["quantiles"].dtype == np.float32
    assert (np.diff(outputs["quantiles"], axis=-1) >= 0).all()
    if scaling == "shared":  # the level that is nearest to the median is moved and nothing else
        away = (outputs["quantiles"] - mean[..., None])[..., 1]
        unit = STATISTICS.features["load"].std
        np.testing.assert_allclose(away, np.broadcast_to(calibration.offsets[..., 1] * unit, away.shape), rtol=1e-3)


def test_calibration_on_a_dataset_covers_its_validation_split(easy_dataset: DatasetFolder) -> None:
    spec = easy_spec(uncertainty={"intervals": [0.5, 0.9]})
    assert needs_calibration(spec)
    model = build_forecaster(spec, easy_dataset.statistics)
    found = calibrate(spec, easy_dataset.statistics, easy_dataset, model)
    assert found.levels == (0.05, 0.25, 0.75, 0.95)
    whole = calibrated(spec, easy_dataset.statistics, model, found)
    load = evaluate_forecasts(spec, easy_dataset, "validation", answer_of(whole)).document["targets"]["load"]
    for coverage in (0.5, 0.9):
        assert coverage <= load["coverage"][f"{coverage:g}"] <= coverage + 0.01


@pytest.mark.parametrize("scaling", ["per_key", "window"])
def test_an_exported_model_gives_the_calibrated_quantiles(scaling: str, tmp_path: Path) -> None:
    spec = easy_spec(model={"scaling": scaling}, uncertainty={"intervals": [0.5, 0.9]})
    model, inputs = build_forecaster(spec, STATISTICS), inputs_of(spec)
    calibration = Calibration(spec.quantile_levels, np.random.default_rng(2).normal(size=(6, 1, 4)).astype(np.float32))
    weights = model.get_weights()
    export(spec, STATISTICS, weights, to=tmp_path / "export", lineage={}, calibration=calibration)
    predict = tf.saved_model.load(str(tmp_path / "export")).signatures["serving_default"]
    got = predict(**{name: tf.constant(value) for name, value in inputs.items()})
    expected = calibrated(spec, STATISTICS, model, calibration).predict_on_batch(inputs)
    assert set(got) == {"mean", "quantiles"}
    for name, value in expected.items():
        np.testing.assert_allclose(got[name], value, rtol=1e-5, atol=1e-5)
