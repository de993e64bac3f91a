"""ETT: electricity transformers, by the strict protocol.

`DATA/ett/ETTh1.csv` and `ETTm1.csv` (or `.csv.gz`) are those of https://github.com/zhouhaoyi/ETDataset (`ETT-small`, CC
BY-ND 4.0). Seven series are forecast for 96, 192, 336 and 720 steps. Strict means: the published months, values
standardised by the train rows, stride 1, every test window counted (2880 - horizon + 1 of the hourly series; dropping
the last batch, as much published code does, makes errors smaller), look-back and settings chosen on validation only.
"""

from __future__ import annotations

import gzip
import json
import shutil
import statistics
from collections import defaultdict
from collections.abc import Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import yaml

from models import layout, stored
from models.ensemble import ensemble
from models.forms import input_forms
from models.objective import add_deviation
from models.reader import windows
from models.scaling import Constants
from models.train import train
from pipelines.ingest import ingest
from schemas.dataset import DatasetFolder
from schemas.documents import fingerprint_of
from schemas.spec import Spec, parse_spec
from tests.benchmarks.accuracy.cells import Benchmark, Cell, Place

HORIZONS = (96, 192, 336, 720)
STEPS = {"etth1": ("ETTh1", "1h", 1), "ettm1": ("ETTm1", "15min", 4)}
"""Of each benchmark: its file, its step and its steps an hour."""
PROTOCOL = "strict: published split, standardised by train rows, stride 1, every test window, chosen on validation"

_SLOW: dict[str, Any] = {"learning_rate": 1e-3, "schedule": {"by": "cosine"}, "epochs": 6, "patience": None}
_FAST: dict[str, Any] = _SLOW | {"learning_rate": 2e-3, "epochs": 5}
SETTINGS: dict[str, tuple[int, dict[str, Any], dict[str, Any]]] = {
    "linear": (512, {"family": "linear", "look_back": [336, 512]}, {}),
    "mlp": (512, {"family": "mlp", "units": 64, "layers": 2, "dropout": 0.5}, _FAST),
    "rnn": (512, {"family": "rnn", "units": 64, "segment": 24, "dropout": 0.5}, _SLOW),
    "lstm": (512, {"family": "lstm", "units": 48, "segment": 24, "dropout": 0.5}, _FAST),
    "attention": (
        512,
        {
            "family": "attention",
            "units": 16,
            "layers": 1,
            "feed_forward": 32,
            "patch": 24,
            "stride": 24,
            "dropout": 0.3,
        },
        _FAST,
    ),
    "cnn": (512, {"family": "cnn", "units": 32, "layers": 3, "patch": 24, "stride": 24, "dropout": 0.3}, _FAST),
}
"""Of each model: the past, its section of the spec and that of its training."""
ENSEMBLE, MEMBERS = "ensemble", ("linear", "rnn", "lstm", "attention", "cnn")
"""Those of them, weighted on the validation split."""


def spec_of(series: str, horizon: int, model: str, seed: int) -> Spec:
    """The spec of a cell: that of the project's example with these settings."""
    document = yaml.safe_load(Path("deploy/specs/etth1.yaml").read_text(encoding="utf-8"))
    past, section, training = SETTINGS[model]
    name, step, _ = STEPS[series]
    document["stream"]["name"] = series
    document["source"]["columns"]["series"] = name
    document["grid"]["step"] = step
    document["window"] = {"past": past, "horizon": horizon, "min_observed": past, "min_observed_target": horizon}
    document["model"] = {"channels": "independent"} | section
    document["training"] = training | {"seed": seed}
    return parse_spec(document)


def run(series: str, horizon: int, model: str, seed: int, place: Place) -> dict[str, Any]:
    """Trains a model, or makes the ensemble of all, and measures it on both splits."""
    members = [spec_of(series, horizon, name, seed) for name in (MEMBERS if model == ENSEMBLE else [model])]
    spec, folder = members[0], dataset(members[0], series, place)
    expected = 2880 * STEPS[series][2] - horizon + 1
    if folder.split("test").windows != expected:
        raise SystemExit(f"expected {expected} test windows, got {folder.split('test').windows}: these are other data")
    runs = [place.work / "runs" / f"{series}-{horizon}-{seed}-{member.fingerprint}" for member in members]
    summaries = [
        train(member, data=folder.path, output=output, resume=True, quiet=True)
        for member, output in zip(members, runs, strict=True)
    ]
    output = runs[0]
    if model == ENSEMBLE:
        output = output.with_name(f"{series}-{horizon}-{seed}-{fingerprint_of_cell(series, horizon, model, seed)}")
        shutil.rmtree(output, ignore_errors=True)
        ensemble(runs, data=folder.path, output=output, weights="validation")
    tested = json.loads((output / layout.EVALUATION_FILE).read_text(encoding="utf-8"))
    return {
        "protocol": PROTOCOL,
        "past": spec.window.past,
        "epochs": sum(summary.epochs for summary in summaries),
        "training_seconds": sum(summary.seconds for summary in summaries),
        "validation": validate(spec, folder, stored.load(output).model),
        "test": {name: tested["standardised"][name] for name in ("mse", "mae")} | {"windows": tested["windows"]},
    }


def fingerprint_of_cell(series: str, horizon: int, model: str, seed: int) -> str:
    """That of the spec, or of all members' specs."""
    if model != ENSEMBLE:
        return spec_of(series, horizon, model, seed).fingerprint
    return fingerprint_of({name: fingerprint_of_cell(series, horizon, name, seed) for name in MEMBERS})


def validate(spec: Spec, folder: DatasetFolder, model: Any) -> dict[str, Any]:
    """A model's errors on the validation split, standardised."""
    names, squares, sizes, cells, count = list(input_forms(spec)), 0.0, 0.0, 0, 0
    cut = windows(folder, "validation", batch_size=256).map(add_deviation(spec, Constants.of(spec, folder.statistics)))
    for batch in cut.as_numpy_iterator():
        mean = model.predict_on_batch({name: batch[name] for name in names})["mean"]
        error = ((mean - batch["target_values"]) / batch["target_deviation"][:, None])[batch["target_observed"]]
        squares, sizes = squares + float(np.square(error, dtype=np.float64).sum()), sizes + float(np.abs(error).sum())
        cells, count = cells + error.size, count + len(mean)
    return {"mse": squares / cells, "mae": sizes / cells, "windows": count}


def dataset(spec: Spec, series: str, place: Place) -> DatasetFolder:
    """The dataset of a spec's windows, made where it is not there yet."""
    folder = place.work / "datasets" / spec.window_fingerprint
    if not (folder / "COMPLETED").is_file():
        ingest(spec, inputs=[str(csv_of(series, place))], output=str(folder))
    return DatasetFolder(folder)


def csv_of(series: str, place: Place) -> Path:
    """The published file, unpacked where it is not."""
    plain = place.data / "ett" / f"{STEPS[series][0]}.csv"
    if not plain.is_file():
        packed, plain = plain.with_suffix(".csv.gz"), place.work / plain.name
        place.work.mkdir(parents=True, exist_ok=True)
        with gzip.open(packed) as source, plain.open("wb") as target:
            shutil.copyfileobj(source, target)
    return plain


def cells(seed: int) -> list[Cell]:
    """Every series, horizon and model."""
    found = []
    for series in STEPS:
        for horizon in HORIZONS:
            for model in (*SETTINGS, ENSEMBLE):
                fingerprint = fingerprint_of_cell(series, horizon, model, seed)
                task = partial(run, series, horizon, model, seed)
                found.append(Cell(f"{series}/{horizon}/{model}", seed, fingerprint, task))
    return found


def table(results: Sequence[Mapping[str, Any]]) -> list[str]:
    """Test MSE by horizon, the mean over the seeds with its deviation, and the average where all four are there."""
    errors: dict[tuple[str, str], dict[int, list[Mapping[str, Any]]]] = defaultdict(lambda: defaultdict(list))
    for result in results:
        series, horizon, model = result["cell"].split("/")
        errors[series, model][int(horizon)].append(result)
    lines = [
        "| series | model | past | 96 | 192 | 336 | 720 | average | validation | seeds | seconds a cell |",
        "|---|---|---|---|---|---|---|---|---|---|---|",
    ]
    for (series, model), by_horizon in sorted(errors.items()):
        every = [result for found in by_horizon.values() for result in found]
        cells = [_spread([result["test"]["mse"] for result in by_horizon.get(horizon, ())]) for horizon in HORIZONS]

        def average(split: str, by_horizon: Mapping[int, Sequence[Mapping[str, Any]]] = by_horizon) -> str:
            means = [statistics.mean(result[split]["mse"] for result in found) for found in by_horizon.values()]
            return f"{statistics.mean(means):.3f}" if len(means) == len(HORIZONS) else ""

        counts = sorted({len(found) for found in by_horizon.values()})
        seconds = statistics.median(result["seconds"] for result in every)
        columns = [series, model, str(every[0]["past"]), *cells, average("test"), average("validation")]
        lines.append(f"| {' | '.join(columns)} | {', '.join(map(str, counts))} | {seconds:.0f} |")
    return lines


def _spread(values: Sequence[float]) -> str:
    if not values:
        return ""
    return f"{statistics.mean(values):.3f}" + (f" ± {statistics.stdev(values):.3f}" if len(values) > 1 else "")


BENCHMARK = Benchmark(cells, table)
