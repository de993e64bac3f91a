"""Measures what an epoch of training costs against plain Keras `fit` on arrays in memory.

    python -m tests.benchmarks.bench_training --data FOLDER [--families NAME ...] [--neuralforecast PYTHON]

`FOLDER` holds `ett/ETTh1.csv` (see bench_accuracy). For each family the same model, optimizer and windows are trained
twice, turn by turn in this process:

- tidegauge: as `tidegauge train` does, from the blocks of a dataset, shuffled anew each epoch, with validation;
- keras: `Model.fit` on the gathered windows, shuffled, with `validation_data`; its masks and losses are those of a
  plain script: every cell counts, errors in standardised units.

An epoch's seconds are the median of those after the first, which compiles. The seconds to a validation error are those
until each has reached the worse of the two best, epochs only.

With `--neuralforecast`, the Python of an environment that has it, each family stands beside the one there that is
nearest to it instead: 96 steps ahead by the strict protocol, each from a process of its own, in turn. The seconds are
those of training and of forecasting every test window, without the start, the reading of the file and our ingest. Our
settings are those of `bench_accuracy`, which were chosen on validation.
"""

from __future__ import annotations

import argparse
import json
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import keras
import numpy as np
from keras import ops
from rich.console import Console

from models import layout, stored
from models.evaluation import evaluate_model
from models.forecaster import build_forecaster
from models.forms import input_forms
from models.reader import windows
from models.run import fit
from models.run_folder import open_run
from models.scaling import Constants
from models.train import ForecastTask
from pipelines.ingest import ingest
from schemas.dataset import DatasetFolder
from schemas.spec import Spec, load_spec, parse_spec
from tests.benchmarks.accuracy import ett
from tests.benchmarks.accuracy.cells import Place

SPEC = Path(__file__).parents[2] / "deploy" / "specs" / "etth1.yaml"
FAMILIES: dict[str, dict[str, Any]] = {
    "mlp": {"family": "mlp"},
    "lstm": {"family": "lstm", "units": 64},
    "rnn": {"family": "rnn", "units": 64},
    "cnn": {"family": "cnn"},
    "attention": {"family": "attention", "units": 16},
}

NEAREST = {"linear": "DLinear", "mlp": "NHITS", "attention": "PatchTST", "lstm": "LSTM"}
"""Of our families, what NeuralForecast has."""

Course = list[tuple[float, float]]
"""Seconds and validation error (MSE, standardised) of each epoch."""


def main() -> None:
    """Runs the rounds and prints one JSON document."""
    parser = argparse.ArgumentParser(description="Measure training.")
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--families", nargs="+", choices={**FAMILIES, **NEAREST})
    parser.add_argument("--epochs", type=int, default=4)
    parser.add_argument("--repeat", type=int, default=3)
    parser.add_argument("--neuralforecast", metavar="PYTHON", help="of an environment that has it")
    parser.add_argument("--work", type=Path, default=Path("build/accuracy"), help="where its datasets are kept")
    parser.add_argument("--alone", choices=NEAREST, help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    place = Place(arguments.data, arguments.work)
    if arguments.alone:
        print(json.dumps(_train_and_forecast(arguments.alone, place)))
        return
    if arguments.neuralforecast:
        for family in arguments.families or NEAREST:
            print(json.dumps(_beside_neuralforecast(family, place, arguments.neuralforecast)), flush=True)
        return
    found = {}
    with tempfile.TemporaryDirectory(prefix="bench-training-") as name:
        folder = Path(name)
        for family in arguments.families or FAMILIES:
            spec = _spec(family, arguments.epochs)
            dataset = folder / "dataset"
            if not dataset.exists():
                ingest(spec, inputs=[str(arguments.data / "ett" / "ETTh1.csv")], output=dataset)
            found[family] = _measure(spec, DatasetFolder(dataset), folder / family, arguments.repeat)
            print(family, json.dumps(found[family]), flush=True)
    print(json.dumps(found, indent=2))


def _beside_neuralforecast(family: str, place: Place, python: str) -> dict[str, Any]:
    """What our family and the nearest one there reach, and how long they take."""
    file = ett.csv_of("etth1", place)
    ett.dataset(_strict_spec(family), "etth1", place)
    ours = ["tests.benchmarks.bench_training", "--data", str(place.data), "--work", str(place.work), "--alone", family]
    theirs = ["tests.benchmarks.neuralforecast_models", str(file), NEAREST[family]]
    return {family: _said([sys.executable, "-m", *ours]), NEAREST[family]: _said([python, "-m", *theirs])}


def _said(command: list[str]) -> dict[str, float]:
    lines = subprocess.run(command, capture_output=True, check=True, text=True).stdout.splitlines()
    found: dict[str, float] = json.loads(lines[-1])
    return {name: round(value, 4) for name, value in found.items()}


def _strict_spec(family: str) -> Spec:
    return ett.spec_of("etth1", 96, family, 0)


def _train_and_forecast(family: str, place: Place) -> dict[str, float]:
    """The test error of a family, and the seconds of training it and of forecasting all test windows."""
    spec = _strict_spec(family)
    folder = ett.dataset(spec, "etth1", place)
    with tempfile.TemporaryDirectory(prefix="bench-training-") as name:
        began = time.perf_counter()
        task = ForecastTask(spec, folder.path)
        open_run(Path(name), task.record, resume=False)
        fit(task, Path(name), Console(quiet=True))
        scores = evaluate_model(spec, folder, "test", stored.load(name).model)
        seconds = time.perf_counter() - began
    return {"mse": scores["standardised"]["mse"], "windows": scores["windows"], "seconds": seconds}


def _spec(family: str, epochs: int) -> Spec:
    document = load_spec(SPEC).semantic_document()
    training = {"batch_size": 256, "epochs": epochs, "patience": epochs, "learning_rate": 1e-3}
    return parse_spec(document | {"model": FAMILIES[family], "training": training, "source": _source()})


def _source() -> dict[str, Any]:
    return load_spec(SPEC).source.model_dump(mode="json", exclude_defaults=True)


def _measure(spec: Spec, folder: DatasetFolder, runs: Path, repeat: int) -> dict[str, float]:
    arrays = {split: _gathered(spec, folder, split) for split in ("train", "validation")}
    ours, theirs = [], []
    for number in range(repeat):
        ours.append(_tidegauge(spec, folder, runs / str(number)))
        theirs.append(_keras(spec, folder, arrays))
    epoch = {"tidegauge": _epoch_seconds(ours), "keras": _epoch_seconds(theirs)}
    goals = [max(min(error for _, error in course) for course in pair) for pair in zip(ours, theirs, strict=True)]
    reached = [
        (_seconds_to(mine, goal), _seconds_to(plain, goal))
        for mine, plain, goal in zip(ours, theirs, goals, strict=True)
    ]
    return {
        "tidegauge_epoch_s": round(epoch["tidegauge"], 3),
        "keras_epoch_s": round(epoch["keras"], 3),
        "epoch_ratio": round(epoch["tidegauge"] / epoch["keras"], 3),
        "validation_mse": round(statistics.median(goals), 4),
        "seconds_to_it_ratio": round(statistics.median(mine / plain for mine, plain in reached), 3),
    }


def _tidegauge(spec: Spec, folder: DatasetFolder, run: Path) -> Course:
    run.mkdir(parents=True)
    fit(ForecastTask(spec, folder.path), run, Console(quiet=True))
    records = [json.loads(line) for line in (run / layout.METRICS_FILE).read_text().splitlines()]
    return [(record["seconds"], record["val_loss"]) for record in records]


def _keras(spec: Spec, folder: DatasetFolder, arrays: dict[str, tuple[dict[str, Any], Any]]) -> Course:
    keras.utils.set_random_seed(spec.training.seed)
    model = build_forecaster(spec, folder.statistics)
    deviation = Constants.of(spec, folder.statistics).deviation[-1]

    def loss(actual: Any, mean: Any) -> Any:
        return ops.mean(ops.square((mean - actual) / deviation))

    optimizer = keras.optimizers.Adam(spec.training.learning_rate, global_clipnorm=spec.training.clip_norm)
    model.compile(optimizer=optimizer, loss={"mean": loss})
    course = _Course()
    inputs, actual = arrays["train"]
    model.fit(
        inputs,
        {"mean": actual},
        batch_size=spec.training.batch_size,
        epochs=spec.training.epochs,
        validation_data=(arrays["validation"][0], {"mean": arrays["validation"][1]}),
        callbacks=[course],
        verbose=0,
    )
    return course.epochs


class _Course(keras.callbacks.Callback):
    def __init__(self) -> None:
        super().__init__()
        self.epochs: Course = []
        self._started = 0.0

    def on_epoch_begin(self, epoch: int, logs: Any = None) -> None:
        self._started = time.perf_counter()

    def on_epoch_end(self, epoch: int, logs: Any = None) -> None:
        self.epochs.append((time.perf_counter() - self._started, logs["val_loss"]))


def _gathered(spec: Spec, folder: DatasetFolder, split: str) -> tuple[dict[str, Any], Any]:
    """All windows of a split as arrays: the model's inputs by name, and the targets (window, horizon, target)."""
    batches = list(windows(folder, split, batch_size=1024).as_numpy_iterator())
    names = list(input_forms(spec))
    inputs = {name: np.concatenate([batch[name] for batch in batches]) for name in names}
    return inputs, np.concatenate([batch["target_values"] for batch in batches])


def _epoch_seconds(courses: list[Course]) -> float:
    return statistics.median(seconds for course in courses for seconds, _ in course[1:])


def _seconds_to(course: Course, goal: float) -> float:
    total = 0.0
    for seconds, error in course:
        total += seconds
        if error <= goal:
            break
    return total


if __name__ == "__main__":
    main()
