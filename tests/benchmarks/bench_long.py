"""What the families make of long dependencies, and what a long past costs.

    python -m tests.benchmarks.bench_long            # all cells that have no result yet
    python -m tests.benchmarks.bench_long needle     # those of one kind
    python -m tests.benchmarks.bench_long cost --again

- needle: one step among tens of thousands is marked, and the model must say which of 8 levels its value has.
  Hierarchical attention and mean pooling, over the same embedded steps, are trained alike on up to 16,384 steps, and
  asked about 500 fresh sequences of 16,384, 32,768 and 65,536 steps with the weights as they are.
- cost: seconds of a forecast and of a training step of the family `hierarchical` with 4 windows of 16,384, 32,768 and
  65,536 steps, in turns in one process; and the peak of memory in a process of its own for each length, beside what it
  was before the model was built.
- append: seconds of a forecast from 65,536 steps, whole, and from kept summaries after one more event.
- adding: the sum of two marked values among 600 steps (Hochreiter & Schmidhuber, 1997) by each recurrent family step by
  step and by convolutions, with gradients clipped to a norm of 1 and as they are. Convolutions are read as for a
  forecast (`dilated`: at the last step, `wide`: at all) and as for a class (`pooled`: means over spans). A guess of the
  mean has a mean squared error of 0.167.

A result is a line of JSON in `tests/benchmarks/results/long.jsonl`, with seed, seconds and command. Each cell is
trained from the seed on data made from it, and none sees a sequence twice.
"""

from __future__ import annotations

import argparse
import json
import os
import re
import statistics
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import keras
import numpy as np
import tensorflow as tf
from keras import layers, ops
from numpy.typing import NDArray

from models.families import FAMILIES, hierarchical
from models.forecaster import build_forecaster
from models.layers.chunks import ChunkLevel, PatchStem, UpperLevels
from models.scaling import Constants
from models.window import EncodedWindow
from pipelines.kernels.long_context import Summaries
from schemas.dataset import Moments, Statistics
from schemas.model_spec import HierarchicalModel
from schemas.spec import Spec, parse_spec

Float32 = NDArray[np.float32]
Result = dict[str, Any]

RESULTS = Path(__file__).parent / "results" / "long.jsonl"
SEED = 0
LENGTHS = (16_384, 32_768, 65_536)


@dataclass(frozen=True, slots=True)
class Cell:
    """One measurement: a name, and what gives its result."""

    name: str
    run: Callable[[], Result]


def main() -> None:
    """Runs the cells that are asked for."""
    parser = argparse.ArgumentParser(description="Measure long dependencies and long pasts.")
    parser.add_argument("cells", nargs="*", help="beginnings of cells' names; all of them when left out")
    parser.add_argument("--again", action="store_true", help="also the cells that have a result")
    parser.add_argument("--peak", help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.peak:
        print(json.dumps(_peak(*(int(number) for number in arguments.peak.split(",")))))
        return
    there = set() if arguments.again else {json.loads(line)["cell"] for line in _lines()}
    for cell in CELLS:
        asked = not arguments.cells or any(cell.name.startswith(name) for name in arguments.cells)
        if not asked or cell.name in there:
            continue
        keras.utils.set_random_seed(SEED)
        began = time.perf_counter()
        result = {"cell": cell.name, **cell.run(), "seed": SEED, "seconds": round(time.perf_counter() - began, 1)}
        line = json.dumps(result | {"command": f"python -m tests.benchmarks.bench_long {cell.name}"})
        kept = [other for other in _lines() if json.loads(other)["cell"] != cell.name]
        RESULTS.parent.mkdir(exist_ok=True)
        RESULTS.write_text("\n".join([*kept, line]) + "\n", encoding="utf-8")
        print(line, flush=True)


def _lines() -> list[str]:
    return RESULTS.read_text(encoding="utf-8").splitlines() if RESULTS.exists() else []


# --- needle in a haystack ---

WIDTH, CHUNK, HEADS, NEEDLE_LEVELS = 32, 41, 2, 8  # 41 ** 3 tokens are more than the longest sequence has
STAGES = ((16, 160, 64), (82, 60, 32), (2048, 60, 8), (16_384, 25, 4))
"""Length, steps and batch: the sequences grow, so that the first ones cost little."""
ASKED = 500


def _needle(name: str) -> Result:
    rng = np.random.default_rng(SEED)
    weights = None
    for length, steps, batch in STAGES:
        model = NEEDLE_MODELS[name](length)
        if weights is not None:
            model.set_weights(weights)
        model.compile(
            keras.optimizers.Adam(3e-3 if length < 1000 else 1e-3, global_clipnorm=1.0),
            keras.losses.SparseCategoricalCrossentropy(from_logits=True),
        )
        loss = np.mean([model.train_on_batch(*_haystacks(rng, batch, length)) for _ in range(steps)][-20:])
        print(f"needle {name}: {length} steps long, loss {loss:.4f}", file=sys.stderr, flush=True)
        weights = model.get_weights()
    accuracy = {}
    for length in LENGTHS:
        model = NEEDLE_MODELS[name](length)
        model.set_weights(weights)
        right = 0
        for _ in range(ASKED // 4):
            haystacks, needle = _haystacks(rng, 4, length)
            right += int((model.predict_on_batch(haystacks).argmax(axis=1) == needle).sum())
        accuracy[str(length)] = right / ASKED
        print(f"needle {name}: {length} steps, accuracy {accuracy[str(length)]}", file=sys.stderr, flush=True)
    return {"accuracy": accuracy, "sequences": ASKED, "chance": 1 / NEEDLE_LEVELS, "trained_on": STAGES}


def _haystacks(rng: np.random.Generator, count: int, length: int) -> tuple[Float32, NDArray[np.int64]]:
    """Values of `NEEDLE_LEVELS` levels with one marked step, float32 (count, length, 2); and the level there."""
    level = rng.integers(0, NEEDLE_LEVELS, (count, length))
    at = rng.integers(0, length, count)
    row = np.arange(count)
    steps = np.zeros((count, length, 2), np.float32)
    steps[..., 0] = (level - level.mean()) / level.std()
    steps[row, at, 1] = 1
    return steps, level[row, at]


def _hierarchical_needle(length: int) -> Any:
    steps = keras.Input((length, 2))
    tokens, present = PatchStem(WIDTH, 1)(steps, ops.ones_like(steps[..., 0], dtype="bool"))
    vectors, there, _ = ChunkLevel(CHUNK, HEADS, 1)(tokens, present)
    state, _ = UpperLevels(2, CHUNK, HEADS, 1)(vectors, there)
    return keras.Model(steps, layers.Dense(NEEDLE_LEVELS)(state))


def _mean_needle(length: int) -> Any:
    """Each step through a net as wide as the encoder's, then the mean of all."""
    steps = keras.Input((length, 2))
    tokens, _ = PatchStem(WIDTH, 1)(steps, ops.ones_like(steps[..., 0], dtype="bool"))
    tokens = layers.Dense(WIDTH)(layers.Dense(2 * WIDTH, activation="gelu")(tokens))
    return keras.Model(steps, layers.Dense(NEEDLE_LEVELS)(ops.mean(tokens, axis=1)))


NEEDLE_MODELS: dict[str, Callable[[int], Any]] = {"hierarchical": _hierarchical_needle, "mean": _mean_needle}


# --- what a long past costs ---

BATCH = 4
STATISTICS = Statistics(features={"value": Moments(count=9, mean=0, std=1, min=-3, max=3)}, keys={})


def _forecaster(length: int, patch: int, *, cacheable: bool = False) -> tuple[Spec, Any]:
    document = {
        "stream": {
            "name": "long",
            "key": "key",
            "time": {"field": "time", "format": "epoch_ms"},
            "features": [{"name": "value", "role": "target"}],
        },
        "grid": {"step": "1s", "regular": True},
        "window": {"past": length, "horizon": 24},
        "model": {"family": "hierarchical", "patch": patch, "cacheable": cacheable},
    }
    spec = parse_spec(document)
    return spec, build_forecaster(spec, STATISTICS)


def _windows(length: int, count: int) -> dict[str, Any]:
    values = np.random.default_rng(SEED).normal(size=(count, length, 1)).astype(np.float32)
    return {"past_values": tf.constant(values), "past_observed": tf.ones(values.shape, tf.bool)}


def _seconds(action: Callable[[], Any]) -> tuple[float, float]:
    """Of the clock and of all processors."""
    clock, processors = time.perf_counter(), time.process_time()
    action()
    return time.perf_counter() - clock, time.process_time() - processors


def _steps_of(length: int, patch: int) -> dict[str, Callable[[], Any]]:
    """A forecast and a training step of a new model."""
    _, model = _forecaster(length, patch)
    model.compile(keras.optimizers.Adam(1e-3, global_clipnorm=1.0), "mse")
    inputs, label = _windows(length, BATCH), np.zeros((BATCH, 24, 1), np.float32)
    return {
        "forecast": lambda: model.predict_on_batch(inputs),
        "training_step": lambda: model.train_on_batch(inputs, {"mean": label}),
    }


def _cost_seconds(patch: int) -> Result:
    rounds = 5
    steps = {length: _steps_of(length, patch) for length in LENGTHS}
    for actions in steps.values():
        for action in actions.values():
            action()  # traces
    found: dict[str, dict[int, list[tuple[float, float]]]] = {}
    for _ in range(rounds):
        for length, actions in steps.items():
            for name, action in actions.items():
                found.setdefault(name, {}).setdefault(length, []).append(_seconds(action))
    result: Result = {"batch": BATCH, "patch": patch, "rounds": rounds}
    for name, by_length in found.items():
        for unit, which in (("seconds", 0), ("processor_seconds", 1)):
            median = {length: statistics.median(pair[which] for pair in pairs) for length, pairs in by_length.items()}
            result[f"{name}_{unit}"] = {str(length): round(value, 3) for length, value in median.items()}
            result[f"{name}_{unit}_64k_over_16k"] = round(median[LENGTHS[-1]] / median[LENGTHS[0]], 2)
    return result


def _cost_memory(patch: int) -> Result:
    by_length = {}
    for length in LENGTHS:
        command = [sys.executable, "-m", "tests.benchmarks.bench_long", "--peak", f"{length},{patch}"]
        done = subprocess.run(command, capture_output=True, check=True, text=True, env=os.environ)
        by_length[str(length)] = json.loads(done.stdout.splitlines()[-1])
    return {"batch": BATCH, "patch": patch, "peak_mb": by_length}


def _peak(length: int, patch: int) -> Result:
    """Peaks of resident memory in MB: before the model was built, of forecasts, and of training steps."""
    found = {"before": _resident_mb()}  # with TensorFlow loaded
    for name, action in _steps_of(length, patch).items():
        for _ in range(2):
            action()
        found[name] = _resident_mb()
    return found


def _resident_mb() -> int:
    # Not getrusage: what that tells a new process begins with the peak of the one that started it.
    (peak,) = re.findall(r"VmHWM:\s+(\d+) kB", Path("/proc/self/status").read_text(encoding="utf-8"))
    return int(peak) // 1024


class _Appending:
    """A series that grows by an event at a time, forecast from the whole window and from kept summaries."""

    def __init__(self, length: int, events: int) -> None:
        self._spec, model = _forecaster(length, 8, cacheable=True)
        assert isinstance(self._spec.model, HierarchicalModel)
        signatures = hierarchical.signatures(self._spec, Constants.of(self._spec, STATISTICS), model)
        self._whole = tf.function(model)
        self._encode = tf.function(signatures["encode_chunk"], reduce_retracing=True)
        self._predict = tf.function(signatures["predict_from_summaries"])
        self._layout, self._recent = hierarchical.layout_of(self._spec.model, length), self._spec.model.recent
        self._kept = Summaries.none()
        self._values = np.random.default_rng(SEED).normal(size=(length + events, 1)).astype(np.float32)
        self._observed = np.ones(self._values.shape, bool)

    def from_whole(self, event: int) -> Float32:
        """The forecast after an event, by the whole window."""
        window = slice(event, event + self._layout.past)
        past = {"past_values": self._values[None, window], "past_observed": self._observed[None, window]}
        outputs = self._whole(_tensors(past | {"first_step": np.array([event])}))
        mean: Float32 = outputs["mean"].numpy()
        return mean

    def from_kept(self, event: int) -> Float32:
        """The same, by the summaries that are kept from the window before."""
        window = slice(event, event + self._layout.past)
        values, observed, origin = self._values[None, window], self._observed[None, window], np.array([window.stop])
        missing = self._kept.missing(self._layout, origin)
        cut = self._layout.cut(missing, origin, values, observed)
        made = self._encode(_tensors({"chunk_values": cut[0], "chunk_observed": cut[1]}))
        summary, present = made["summary"].numpy(), made["present"].numpy()
        summaries, there, self._kept = self._kept.join(self._layout, origin, missing, summary, present)
        slots = {"summaries": summaries, "present": there}
        recent = {"past_values": values[:, -self._recent :], "past_observed": observed[:, -self._recent :]}
        mean: Float32 = self._predict(_tensors(slots | recent))["mean"].numpy()
        return mean


def _tensors(arrays: dict[str, NDArray[Any]]) -> dict[str, Any]:
    return {name: tf.constant(array) for name, array in arrays.items()}


def _append() -> Result:
    length, events, traced = LENGTHS[-1], 18, 3
    series = _Appending(length, events)
    found: dict[str, list[tuple[float, float]]] = {"whole": [], "appended": []}
    for event in range(events):
        for name, forecast in (("whole", series.from_whole), ("appended", series.from_kept)):
            seconds = _seconds(partial(forecast, event))
            if event >= traced:  # before, functions are traced and the cache is filled
                found[name].append(seconds)
    difference = float(np.abs(series.from_whole(events - 1) - series.from_kept(events - 1)).max())
    result: Result = {"steps": length, "events": events - traced, "difference_at_last": difference}
    for unit, which in (("seconds", 0), ("processor_seconds", 1)):
        median = {name: statistics.median(pair[which] for pair in pairs) for name, pairs in found.items()}
        result |= {f"{name}_{unit}": round(value, 4) for name, value in median.items()}
        result[f"{unit}_whole_over_appended"] = round(median["whole"] / median["appended"], 1)
    return result


# --- the adding problem ---

ADDING_STEPS = 600
ADDING_RATES = {"cnn-dilated": 2e-3, "cnn-wide": 2e-3, "cnn-pooled": 5e-3}
"""Of Adam; 1e-2 for the others."""
GOAL = 1e-2
ADDING_MODELS: dict[str, dict[str, Any]] = {
    "simple": {"family": "rnn", "cell": "simple", "segment": 1, "units": 32},
    "gru": {"family": "rnn", "cell": "gru", "segment": 1, "units": 32},
    "lstm": {"family": "lstm", "segment": 1, "units": 32},
    "lstm-chrono": {"family": "lstm", "segment": 1, "units": 32, "forget": "chrono"},
    "cnn-dilated": {"family": "cnn", "kind": "dilated", "patch": 1, "stride": 1, "layers": 9, "units": 32},
    "cnn-wide": {"family": "cnn", "kind": "wide", "patch": 1, "stride": 1, "layers": 2, "units": 32},
    "cnn-pooled": {"family": "cnn", "kind": "dilated", "patch": 1, "stride": 1, "layers": 2, "units": 32},
}
READ_AS_FOR_A_CLASS = ("cnn-pooled",)
CLIPS: dict[str, float | None] = {"clipped": 1.0, "unclipped": None}


def _adding(name: str, clip: str, *, most: int = 1000, batch: int = 64) -> Result:
    """Trains until half the goal is reached on 1,000 fresh sequences, or for as many steps as there may be."""
    rng = np.random.default_rng(SEED)
    options = parse_spec(_adding_document(ADDING_MODELS[name])).model
    assert options is not None
    steps = keras.Input((ADDING_STEPS, 2))
    window = EncodedWindow(
        past=steps,
        target=steps[:, -1:, :1],  # of the linear path, which cannot solve it, no more than one step
        future=None,
        static=None,
        present=ops.ones_like(steps[..., 0], dtype="bool"),
        first_step=None,
        channel=None,
        channels=1,
        horizon=1,
        width=1,
        classified=name in READ_AS_FOR_A_CLASS,
    )
    output = FAMILIES[options.family].build(options, window, portable=True)
    model = keras.Model(steps, ops.reshape(output, (-1, 1)))
    # Compiled as a whole: a recurrence over single steps is otherwise spent on starting its small operations.
    model.compile(
        keras.optimizers.Adam(ADDING_RATES.get(name, 1e-2), global_clipnorm=CLIPS[clip]), "mse", jit_compile=True
    )
    validation = _adding_data(np.random.default_rng(SEED + 1), 1000)
    errors: dict[str, float] = {}
    for step in range(1, most + 1):
        model.train_on_batch(*_adding_data(rng, batch))
        if step % 100 == 0:
            error = float(np.mean(np.square(model.predict(validation[0], batch_size=250, verbose=0) - validation[1])))
            errors[str(step)] = round(error, 6)
            print(f"adding {name} {clip}: {step} steps, mse {error:.5f}", file=sys.stderr, flush=True)
            if not error >= GOAL / 2:  # or no number any more
                break
    last = next(reversed(errors.values()))
    return {
        "steps": step,
        "batch": batch,
        "mse": last,
        "below_goal": last < GOAL,
        "goal": GOAL,
        "weights": model.count_params(),
        "mse_by_step": errors,
    }


def _adding_document(model: dict[str, Any]) -> dict[str, Any]:
    return {
        "stream": {
            "name": "adding",
            "key": "key",
            "time": {"field": "time", "format": "epoch_ms"},
            "features": [{"name": "value", "role": "target"}],
        },
        "grid": {"step": "1s", "regular": True},
        "window": {"past": ADDING_STEPS, "horizon": 1},
        "model": model,
    }


def _adding_data(rng: np.random.Generator, count: int) -> tuple[Float32, Float32]:
    """Numbers in [0, 1), two of them marked, one in each half, float32 (count, step, 2); and their sums (count, 1)."""
    row, half = np.arange(count), ADDING_STEPS // 2
    marked = (rng.integers(0, half, count), rng.integers(half, ADDING_STEPS, count))
    steps = np.zeros((count, ADDING_STEPS, 2), np.float32)
    steps[..., 0] = rng.random((count, ADDING_STEPS), np.float32)
    for at in marked:
        steps[row, at, 1] = 1
    total: Float32 = (steps[..., 0] * steps[..., 1]).sum(axis=1, keepdims=True)
    return steps, total


CELLS = (
    *(Cell(f"needle/{name}", partial(_needle, name)) for name in NEEDLE_MODELS),
    *(Cell(f"cost/seconds/patch-{patch}", partial(_cost_seconds, patch)) for patch in (8, 1)),
    *(Cell(f"cost/memory/patch-{patch}", partial(_cost_memory, patch)) for patch in (8, 1)),
    Cell("append", _append),
    *(Cell(f"adding/{name}/{clip}", partial(_adding, name, clip)) for clip in CLIPS for name in ADDING_MODELS),
)


if __name__ == "__main__":
    main()
