"""What is particular to single families."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import keras
import numpy as np
import pytest
import tensorflow as tf

from models.export import export
from models.families.lstm import ChronoBias
from models.forecaster import build_forecaster
from schemas.errors import SpecError
from tests.models.conftest import easy_spec
from tests.models.families.test_conformance import FORMS, inputs_of, model_of, outputs_of, spec_of
from tests.models.test_encoding import BATCH, STATISTICS, rich_spec


def test_attention_weights_are_a_signature(tmp_path: Path) -> None:
    """They add up to 1, and are those that the forecast was made with, whatever else is in the batch."""
    spec, model = spec_of("attention", "independent"), model_of("attention", "independent")
    inputs = {name: tf.constant(value) for name, value in inputs_of("independent").items()}
    export(spec, STATISTICS, model.get_weights(), to=tmp_path / "export", lineage={})
    signatures = tf.saved_model.load(str(tmp_path / "export")).signatures
    weights = signatures["attention"](**inputs)
    # 8 steps of the past in patches of 3 that begin every 2, and 6 of the horizon in segments of 3
    assert weights["within"].shape == (BATCH, 2, 2, 2, 4, 4)
    assert weights["across"].shape == (BATCH, 2, 2, 2, 6)
    for part in weights.values():
        assert part.numpy().min() > 0
        np.testing.assert_allclose(part.numpy().sum(axis=-1), 1, rtol=1e-5)
    for row in range(BATCH):
        alone = signatures["attention"](**{name: value[row : row + 1] for name, value in inputs.items()})
        np.testing.assert_allclose(alone["within"][0], weights["within"][row], atol=1e-5)
    for name, output in outputs_of(model, inputs).items():
        np.testing.assert_allclose(signatures["serving_default"](**inputs)[name], output, rtol=1e-5, atol=1e-4)


def test_heads_divide_the_units() -> None:
    with pytest.raises(SpecError, match=r"\$\.model: heads must divide units; 4 does not divide 6"):
        rich_spec(family="attention", units=6)


def test_a_convolution_of_the_past_looks_back_only_and_doubles_its_reach() -> None:
    """Two dilated layers of kernel 3 reach 1 + 2 + 4 = 7 patches back: an older one changes nothing."""
    spec = easy_spec(
        stream={"features": [{"name": "load", "role": "target"}]},
        window={"past": 12, "horizon": 2},
        model={"family": "cnn", "units": 5, "layers": 2, "patch": 1, "stride": 1},
    )
    keras.utils.set_random_seed(1)
    model = build_forecaster(spec, STATISTICS)  # its linear path is 0 yet
    values = np.random.default_rng(0).normal(150, 50, (1, 12, 1)).astype(np.float32)

    def mean(values: Any) -> Any:
        return outputs_of(model, {"past_values": values, "past_observed": np.ones(values.shape, bool)})["mean"]

    for step in range(11):  # the last one is the anchor
        other = values.copy()
        other[:, step] += 20
        assert np.array_equal(mean(other), mean(values)) == (step < 12 - 7), step


@pytest.mark.parametrize("steps", [1, 2, 40])
def test_chrono_biases_spread_memories_over_all_steps(steps: int) -> None:
    keras.utils.set_random_seed(0)
    got = np.asarray(ChronoBias(steps)((4 * 500,), dtype="float32")).reshape(4, 500)
    np.testing.assert_array_equal(got[0], -got[1])
    np.testing.assert_array_equal(got[2:], 0)
    memory = np.exp(got[1])
    assert memory.min() >= 1 - 1e-5
    assert memory.max() <= max(steps - 1, 1) + 1e-4
    if steps == 40:  # evenly from 1 to 39
        np.testing.assert_allclose(np.quantile(memory, [0.25, 0.5, 0.75]), [10.5, 20, 29.5], atol=2.5)


def test_shortcuts_carry_the_gradient_through_a_deep_stack() -> None:
    """How much of the loss the first of twelve layers feels, beside what the last one does."""

    def felt(*, shortcuts: bool) -> float:
        options = {"family": "mlp", "units": 12, "layers": 12, "activation": "sigmoid", "shortcuts": shortcuts}
        keras.utils.set_random_seed(5)
        spec = easy_spec(stream={"features": [{"name": "load", "role": "target"}]}, model=options)
        model = build_forecaster(spec, STATISTICS)
        values = np.random.default_rng(0).normal(150, 50, (64, 26, 1)).astype(np.float32)
        kernels = [layer.kernel for layer in model.layers if hasattr(layer, "kernel")][:13]
        with tf.GradientTape() as tape:
            mean = model({"past_values": values, "past_observed": np.ones(values.shape, bool)})["mean"]
            loss = tf.reduce_sum(tf.square(mean - values[:, :6]))
        first, *_, last = (float(tf.norm(gradient)) for gradient in tape.gradient(loss, kernels))
        return first / last

    assert felt(shortcuts=False) < 1e-6
    assert felt(shortcuts=True) > 0.1


ON_JAX = """
import sys
import keras, numpy as np
assert keras.backend.backend() == "jax"
from models.forecaster import build_forecaster
from tests.models.families.test_conformance import inputs_of, spec_of
from tests.models.test_encoding import STATISTICS

setting, *forms = sys.argv[1:]
for form in forms:
    keras.utils.set_random_seed(0)
    inputs = inputs_of(setting)
    model = build_forecaster(spec_of(form, setting), STATISTICS)
    model.compile(optimizer=keras.optimizers.Adam(0.02), loss={"mean": "mse"})
    wanted = np.random.default_rng(0).normal((3, 150), 1, (4, 6, 2)).astype(np.float32)
    losses = model.fit(inputs, {"mean": wanted}, epochs=8, verbose=0).history["loss"]
    assert losses[-1] < losses[0], (form, losses)
"""


@pytest.mark.parametrize(
    ("setting", "forms"),
    [
        pytest.param("targets only", ["rnn"], id="one"),
        pytest.param("independent", list(FORMS), marks=pytest.mark.slow, id="all"),
    ],
)
def test_the_families_train_on_the_jax_backend(setting: str, forms: list[str]) -> None:
    environment = os.environ | {
        "KERAS_BACKEND": "jax",
        "JAX_PLATFORMS": "cpu",
        "XLA_FLAGS": "--xla_backend_optimization_level=0",  # quick to compile
    }
    subprocess.run([sys.executable, "-c", ON_JAX, setting, *forms], env=environment, check=True, timeout=280)
