"""Measures how fast the neural families train on a GPU, through Keras's JAX backend.

    python -m tests.benchmarks.bench_gpu [--families rnn cnn] [--seconds 5]

Windows of 512 steps of seven targets, 96 steps ahead, each target by itself, in batches of 256; the whole model, with
scaling and masks, is one compiled step. Reported are windows a second, in float32 and in bfloat16, the median over
rounds of 16 steps after two rounds that do not count. JAX must be installed for the GPU (`pip install "jax[cuda13]"`);
where it sees none, the script says so and measures nothing.
"""

from __future__ import annotations

import argparse
import os
import statistics
import time
from typing import Any

import numpy as np

SECTIONS: dict[str, dict[str, Any]] = {
    "mlp": {"units": 128},
    "rnn": {"units": 128},
    "lstm": {"units": 128},
    "attention": {"units": 64},
    "cnn": {"units": 64},
    "cnn wide": {"units": 64, "kind": "wide", "layers": 1},
}
TARGETS, PAST, HORIZON, BATCH, STEPS = 7, 512, 96, 256, 16


def main() -> None:
    """Prints a table of windows a second."""
    parser = argparse.ArgumentParser(description="Measure training on a GPU.")
    parser.add_argument("--families", nargs="+", choices=list(SECTIONS), default=list(SECTIONS))
    parser.add_argument("--seconds", type=float, default=5.0, help="how long to measure each")
    arguments = parser.parse_args()
    os.environ["KERAS_BACKEND"] = "jax"  # before Keras is first imported
    import jax

    device = jax.devices()[0]
    if device.platform not in ("gpu", "cuda", "rocm"):
        print(f"no GPU: JAX {jax.__version__} sees {device.device_kind} only, so there is nothing to measure")
        return
    print(
        f"{device.device_kind}, JAX {jax.__version__}; windows of {PAST} x {TARGETS}, {HORIZON} ahead, batch {BATCH}\n"
    )
    print("| family | parameters | float32, windows/s | bfloat16, windows/s |")
    print("|---|---|---|---|")
    for name in arguments.families:
        parameters, plain = measure(name, "float32", arguments.seconds)
        _, mixed = measure(name, "mixed_bfloat16", arguments.seconds)
        print(f"| {name} | {parameters:,} | {plain:,.0f} | {mixed:,.0f} |", flush=True)


def measure(name: str, precision: str, seconds: float) -> tuple[int, float]:
    """The parameters of a family's model, and the windows that it trains on in a second."""
    import keras

    from models.forecaster import build_forecaster
    from schemas.dataset import Moments, Statistics
    from schemas.spec import parse_spec

    names = [f"target_{number}" for number in range(TARGETS)]
    spec = parse_spec(
        {
            "stream": {
                "name": "gpu",
                "key": "key",
                "time": {"field": "time"},
                "features": [{"name": target, "role": "target"} for target in names],
            },
            "grid": {"step": "1h"},
            "window": {"past": PAST, "horizon": HORIZON},
            "model": {"family": name.split()[0], "channels": "independent", "dropout": 0.1, **SECTIONS[name]},
        }
    )
    moments = Moments(count=1, mean=0, std=1, min=-1, max=1)
    keras.config.set_dtype_policy(precision)
    model = build_forecaster(spec, Statistics(features=dict.fromkeys(names, moments), keys={}))
    model.compile(optimizer="adam", loss={"mean": "mse"}, jit_compile=True)
    rng = np.random.default_rng(0)
    past = rng.normal(size=(BATCH * STEPS, PAST, TARGETS)).astype(np.float32)
    inputs = {"past_values": past, "past_observed": np.ones(past.shape, bool)}
    wanted = {"mean": rng.normal(size=(BATCH * STEPS, HORIZON, TARGETS)).astype(np.float32)}

    def round_seconds() -> float:
        began = time.perf_counter()
        model.fit(inputs, wanted, batch_size=BATCH, epochs=1, shuffle=False, verbose=0)
        return time.perf_counter() - began

    for _ in range(2):
        round_seconds()
    rounds: list[float] = []
    while sum(rounds) < seconds or len(rounds) < 3:
        rounds.append(round_seconds())
    return model.count_params(), BATCH * STEPS / statistics.median(rounds)


if __name__ == "__main__":
    main()
