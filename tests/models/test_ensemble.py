"""An ensemble forecasts the weighted mean of its members, and is a run and a SavedModel like any other."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tensorflow as tf

from models import layout, stored
from models.ensemble import ensemble
from models.forecaster import build_forecaster
from models.forms import input_forms
from models.reader import windows
from models.registry import push
from models.stacking import mixture_weights, stacking_weights
from models.train import RunSummary, train
from schemas.dataset import DatasetFolder
from schemas.errors import ModelError
from schemas.spec import parse_spec
from tests.models.conftest import Trained, easy_series, easy_spec
from tests.models.datasets import lay_dataset


@pytest.fixture(scope="module")
def linear(easy_dataset: DatasetFolder, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run of a fitted family, which has a state."""
    run = tmp_path_factory.mktemp("linear") / "run"
    document = easy_spec().semantic_document() | {"model": {"family": "linear"}}
    train(parse_spec(document), data=easy_dataset.path, output=run, quiet=True)
    return run


def test_the_weighted_mean_of_the_members_whole_and_served(trained: Trained, linear: Path, tmp_path: Path) -> None:
    run = tmp_path / "ensemble"
    summary = ensemble([trained.run, linear], data=trained.dataset.path, output=run, weights="validation")
    kept = stored.load(run)
    record = json.loads((run / layout.RUN_FILE).read_text())
    shares = [member["weight"] for member in record["members"]]
    assert sum(shares) == pytest.approx(1)
    assert min(shares) >= 0
    assert [member["family"] for member in record["members"]] == ["lstm", "linear"]

    batch = next(windows(trained.dataset, "test", batch_size=16).as_numpy_iterator())
    inputs = {name: batch[name] for name in input_forms(kept.spec)}
    assert "key" in inputs  # one member scales by key

    def mean_of(model: Any, names: Any) -> Any:
        return model.predict_on_batch({name: batch[name] for name in names})["mean"]

    members = [stored.load(path) for path in (trained.run, linear)]
    means = [mean_of(member.model, input_forms(member.spec)) for member in members]
    expected = sum(share * mean for share, mean in zip(shares, means, strict=True))
    np.testing.assert_allclose(mean_of(kept.model, inputs), expected, rtol=1e-5)

    served = tf.saved_model.load(str(run / layout.EXPORT_FOLDER)).signatures["serving_default"]
    outputs = served(**{name: tf.constant(value) for name, value in inputs.items()})
    np.testing.assert_allclose(outputs["mean"], expected, rtol=1e-4, atol=1e-3)
    assert push(run, to=tmp_path / "models", name="easy") == 1

    assert isinstance(summary, RunSummary)
    assert summary.family == "ensemble"
    assert summary.skill is not None
    with pytest.raises(ModelError, match="got an ensemble; take its members instead"):
        ensemble([run, run], data=trained.dataset.path, output=tmp_path / "nested")


def test_quantiles_are_averaged_by_level(easy_dataset: DatasetFolder) -> None:
    levels = [0.1, 0.5, 0.9]
    members = [{"family": "lstm", "quantiles": levels}, {"family": "mlp", "quantiles": levels, "scaling": "window"}]
    section = {"family": "ensemble", "members": members, "weights": [0.25, 0.75], "quantiles": levels}
    spec = parse_spec(easy_spec().semantic_document() | {"model": section})
    model = build_forecaster(spec, easy_dataset.statistics)
    batch = next(windows(easy_dataset, "test", batch_size=16).as_numpy_iterator())
    inputs = {name: batch[name] for name in input_forms(spec)}
    left, right = (model.get_layer(f"member_{number}").predict_on_batch(inputs) for number in range(2))
    found = model.predict_on_batch(inputs)
    for name in ("mean", "quantiles"):
        np.testing.assert_allclose(found[name], 0.25 * left[name] + 0.75 * right[name], rtol=1e-5)
    assert (np.diff(found["quantiles"], axis=-1) > 0).all()


def test_stacking_weights_are_the_best_of_a_grid() -> None:
    rng = np.random.default_rng(0)
    errors = rng.normal(size=(3, 500)) * np.array([[1.0], [1.2], [3.0]]) + rng.normal(size=500)
    products = errors @ errors.T / 500
    found = stacking_weights(products)
    grid = [(a, b, 1 - a - b) for a in np.linspace(0, 1, 101) for b in np.linspace(0, 1 - a, 101)]
    best = min(grid, key=lambda weights: float(np.array(weights) @ products @ np.array(weights)))
    assert found @ products @ found <= np.array(best) @ products @ np.array(best) + 1e-9
    assert found.sum() == pytest.approx(1)
    np.testing.assert_allclose(found, best, atol=0.02)
    np.testing.assert_allclose(stacking_weights(np.diag([1.0, 0.0])), [0, 1], atol=1e-6)


def test_mixture_weights_are_the_best_of_a_grid() -> None:
    rng = np.random.default_rng(0)
    likelihoods = rng.beta([[4.0], [3.0], [0.5]], 2.0, size=(3, 400))
    found = mixture_weights(likelihoods)
    grid = [np.array((a, b, 1 - a - b)) for a in np.linspace(0, 1, 101) for b in np.linspace(0, 1 - a, 101)]
    best = max(grid, key=lambda weights: float(np.log(np.maximum(weights @ likelihoods, 1e-300)).mean()))
    assert np.log(found @ likelihoods).mean() >= np.log(best @ likelihoods).mean() - 1e-9
    assert found.sum() == pytest.approx(1)
    np.testing.assert_allclose(found, best, atol=0.02)


def test_what_makes_no_ensemble(trained: Trained, linear: Path, tmp_path: Path) -> None:
    data = trained.dataset.path
    with pytest.raises(ModelError, match="expected two runs or more"):
        ensemble([trained.run], data=data, output=tmp_path / "run")
    with pytest.raises(ModelError, match="expected the folder of a complete run"):
        ensemble([trained.run, tmp_path], data=data, output=tmp_path / "run")
    other = lay_dataset(tmp_path / "other", easy_spec(), easy_series(keys=("west",)))
    with pytest.raises(ModelError, match="got one of another dataset"):
        ensemble([trained.run, linear], data=other.path, output=tmp_path / "run")
    section = {"family": "ensemble", "members": [{"family": "lstm"}], "weights": [1.0]}
    spec = parse_spec(easy_spec().semantic_document() | {"model": section})
    with pytest.raises(ModelError, match="made of trained runs, by `tidegauge ensemble`"):
        train(spec, data=data, output=tmp_path / "run", quiet=True)
