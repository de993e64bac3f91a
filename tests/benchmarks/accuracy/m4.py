"""M4, hourly: 414 series, 48 hours ahead, by the competition's own rules.

DATA/m4 holds `Hourly-train.csv` and `Hourly-test.csv` (plain, or gzip with `.gz`), as the repository
`Mcompetitions/M4-methods` on GitHub has them: a row a series, ragged, empty at the right.

The files have no times, so they are made up: hours, in which every series' train values end at the same moment. Then
they go the way of every stream, as events through the ingest. The last 48 hours of what the competition gave are the
validation split, one window a series, by which epochs and intervals are chosen; the 48 hours after them are the test
split, one window a series too.

sMAPE, MASE (scaled by each whole train series) and Naive2 are the competition's. The protocol is checked first: the
seasonal naive forecast and Naive2 must have their published scores. The cell `m4/ensemble` of seed s is the mean of the
quantiles of all models of the seeds 2 s and 2 s + 1.
"""

from __future__ import annotations

import csv
import gzip
import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from models import stored
from models.calibration import conformal_offsets
from models.forms import input_forms
from models.reader import windows
from models.train import train
from pipelines.ingest import ingest
from pipelines.kernels.metrics import interval_score, owa, seasonal_scale, symmetric_errors
from pipelines.kernels.naive2 import naive2
from schemas.dataset import DatasetFolder
from schemas.spec import Spec, parse_spec
from schemas.units import iso_to_ms, ms_to_iso
from tests.benchmarks.accuracy.cells import Benchmark, Cell, Place

Float64 = NDArray[np.float64]

HORIZON, SEASON, SERIES = 48, 24, 414
COVERAGE = 0.95
LEVELS = (0.025, 0.25, 0.5, 0.75, 0.975)
ORIGIN = "2017-01-01"
"""The made-up moment at which every train series ends."""
HOUR_MS = 3_600_000
PUBLISHED = {"smape": 13.912, "mase": 1.193, "smape_naive2": 18.383, "mase_naive2": 2.395}
"""Of the seasonal naive forecast and Naive2."""

MODELS: dict[str, dict[str, Any]] = {
    "mlp": {"family": "mlp", "units": 384, "layers": 2, "dropout": 0.1, "anchor": "none"},
    "mlp-plain": {"family": "mlp", "units": 384, "layers": 2, "dropout": 0.1, "shortcuts": False, "anchor": "none"},
}
PAST = 336


@dataclass(frozen=True, slots=True)
class M4:
    """The competition's series by their names, in the order of its files."""

    train: dict[str, Float64]
    test: dict[str, Float64]

    @classmethod
    def read(cls, folder: Path) -> M4:
        """Reads the files."""
        return cls(_read(folder, "Hourly-train.csv"), _read(folder, "Hourly-test.csv"))

    def scores(self, forecasts: Mapping[str, Float64]) -> dict[str, float]:
        """The competition's scores of forecasts float64 (horizon,) of all series: means over the series."""
        smape = np.mean([symmetric_errors(self.test[key], forecasts[key]).mean() for key in self.test])
        mase = np.mean([np.abs(self.test[key] - forecasts[key]).mean() / self.scale(key) for key in self.test])
        return {"smape": float(smape), "mase": float(mase)}

    def interval_scores(self, lower: Mapping[str, Float64], upper: Mapping[str, Float64]) -> dict[str, float]:
        """Coverage, and the mean scaled interval score, of intervals of `COVERAGE`."""
        inside, score = [], []
        for key, actual in self.test.items():
            inside.append(((lower[key] <= actual) & (actual <= upper[key])).mean())
            score.append(interval_score(actual, lower[key], upper[key], COVERAGE).mean() / self.scale(key))
        return {"coverage": float(np.mean(inside)), "msis": float(np.mean(score))}

    def scale(self, key: str) -> float:
        """The mean absolute seasonal difference of a train series."""
        return seasonal_scale(np.arange(len(self.train[key])), self.train[key], SEASON)


def cells(seed: int) -> list[Cell]:
    """One for each model, and one for all of them together."""
    members = {name: [(name, seed)] for name in MODELS}
    members["ensemble"] = [(name, number) for name in MODELS for number in (2 * seed, 2 * seed + 1)]
    return [
        Cell(
            f"m4/{name}",
            seed,
            hashlib.blake2b("".join(member_spec(*of).fingerprint for of in mine).encode(), digest_size=8).hexdigest(),
            partial(run, mine),
        )
        for name, mine in members.items()
    ]


def run(members: Sequence[tuple[str, int]], place: Place) -> dict[str, Any]:
    """Trains the members (a model's name and a seed each) that are not there yet; the scores of their mean."""
    m4 = M4.read(place.data / "m4")
    simple = check_protocol(m4)
    kept = place.work / "m4" / base_spec({"family": "mlp"}, {}).window_fingerprint
    folder = make_dataset(m4, kept)
    found = []
    for name, seed in members:
        spec = member_spec(name, seed)
        output = kept / f"{name}-{seed}-{spec.fingerprint}"
        train(spec, data=folder.path, output=output, resume=True)
        found.append(forecasts(spec, folder, output))
    together = {
        part: {key: np.mean([member[part][key] for member in found], axis=0) for key in found[0][part]}
        for part in found[0]
    }
    return {"windows": len(m4.test), **_row(m4, simple, together)}


def table(results: Sequence[Mapping[str, Any]]) -> list[str]:
    """A row for each cell: the competition's scores, and those of intervals of 95 %."""
    lines = [
        "| cell | seed | windows | sMAPE | MASE | OWA | in 95 % | MSIS | s |",
        "|---|---|---|---|---|---|---|---|---|",
    ]
    for one in sorted(results, key=lambda result: (result["cell"], result["seed"])):
        scores = " | ".join(f"{one[name]:.3f}" for name in ("smape", "mase", "owa", "coverage", "msis"))
        lines.append(f"| {one['cell']} | {one['seed']} | {one['windows']} | {scores} | {one['seconds']:.0f} |")
    return lines


BENCHMARK = Benchmark(cells, table)


def check_protocol(m4: M4) -> dict[str, float]:
    """The scores of the seasonal naive forecast and of Naive2, which must be the published ones."""
    repeated = {key: np.tile(series[-SEASON:], HORIZON // SEASON) for key, series in m4.train.items()}
    simple = {key: naive2(series[None], HORIZON, SEASON)[0] for key, series in m4.train.items()}
    found = m4.scores(repeated) | {f"{name}_naive2": score for name, score in m4.scores(simple).items()}
    for name, published in PUBLISHED.items():
        if abs(found[name] - published) > 6e-4:
            raise SystemExit(f"expected {name} {published}, as published, got {found[name]:.4f}: these are other data")
    return found | {"owa": owa(found["smape"], found["mase"], found["smape_naive2"], found["mase_naive2"])}


def member_spec(name: str, seed: int) -> Spec:
    """The spec of a member of the ensemble."""
    return base_spec(
        {"quantiles": list(LEVELS), "scaling": "window"} | MODELS[name],
        {
            "seed": seed,
            "epochs": 16,
            "patience": None,
            "batch_size": 512,
            "windows_per_epoch": 51_200,
            "learning_rate": 1e-3,
            "schedule": {"by": "cosine"},
        },
    )


def base_spec(model: Mapping[str, Any], training: Mapping[str, Any]) -> Spec:
    """The stream, windows and splits of the competition."""
    origin = iso_to_ms(ORIGIN)
    held_out, end = (ms_to_iso(origin + hours * HOUR_MS) for hours in (-HORIZON, HORIZON))
    return parse_spec(
        {
            "stream": {
                "name": "m4-hourly",
                "key": "series",
                "time": {"field": "time"},
                "features": [{"name": "value", "role": "target"}],
            },
            "grid": {"step": "1h", "regular": True},
            "window": {"past": PAST, "horizon": HORIZON, "min_observed": PAST},
            "split": {
                "by": "dates",
                "train": ["2016-01-01", held_out],
                "validation": [held_out, ORIGIN],
                "test": [ORIGIN, end],
            },
            "model": dict(model),
            "training": dict(training),
            "uncertainty": {"calibrate": False},  # the ensemble is, as a whole
        }
    )


def make_dataset(m4: M4, output: Path) -> DatasetFolder:
    """Writes the series as events with made-up times, and ingests them."""
    path = output / "dataset"
    if not path.is_dir():
        output.mkdir(parents=True, exist_ok=True)
        events = output / "events.csv"
        origin = iso_to_ms(ORIGIN)
        with events.open("w", newline="") as file:
            rows = csv.writer(file)
            rows.writerow(("series", "time", "value"))
            for key, before in m4.train.items():
                values = np.concatenate((before, m4.test[key]))
                for number, value in enumerate(values.tolist(), start=-len(before)):
                    rows.writerow((key, ms_to_iso(origin + number * HOUR_MS), repr(value)))
        ingest(base_spec({"family": "mlp"}, {}), inputs=[str(events)], output=str(path))
    folder = DatasetFolder(path)
    for split in ("validation", "test"):
        if folder.split(split).windows_by_key != dict.fromkeys(sorted(m4.test), 1):
            raise SystemExit(f"expected one window of each series in '{split}', got others")
    return folder


def forecasts(spec: Spec, folder: DatasetFolder, run: Path) -> dict[str, dict[str, Float64]]:
    """A member's quantiles by series, float64 (horizon, level), of the validation and the test split.

    `spread` has what calibration is measured in, (1, 1), and `actual` the validation split's values (horizon,).
    """
    model, names = stored.load(run).model, list(input_forms(spec))
    found: dict[str, dict[str, Float64]] = {"validation": {}, "test": {}, "spread": {}, "actual": {}}
    for split in ("validation", "test"):
        for batch in windows(folder, split, batch_size=512).as_numpy_iterator():
            quantiles = model.predict_on_batch({name: batch[name] for name in names})["quantiles"]
            for row, raw in enumerate(batch["key"]):
                key = raw.decode()
                found[split][key] = quantiles[row, :, 0].astype(np.float64)
                if split == "validation":
                    found["actual"][key] = batch["target_values"][row, :, 0].astype(np.float64)
                    found["spread"][key] = np.array([[folder.statistics.keys[key]["value"].std]])
    return found


def _row(m4: M4, simple: Mapping[str, float], member: Mapping[str, Mapping[str, Float64]]) -> dict[str, float]:
    """The scores of a member or an ensemble on the test split, its intervals calibrated on the validation split."""
    keys = list(m4.test)
    actual = np.stack([member["actual"][key] for key in keys])[..., None].astype(np.float32)
    quantiles = np.stack([member["validation"][key] for key in keys])[:, :, None].astype(np.float32)
    spread = np.concatenate([member["spread"][key] for key in keys]).astype(np.float32)
    offsets = conformal_offsets(actual, quantiles, spread, LEVELS)[:, 0]
    moved = {key: member["test"][key] + offsets * member["spread"][key] for key in keys}
    scores = m4.scores({key: member["test"][key][:, LEVELS.index(0.5)] for key in keys})
    validation = np.abs(quantiles[..., LEVELS.index(0.5)] - actual)[..., 0].mean(axis=1)
    return {
        "validation_mase": float(np.mean([error / m4.scale(key) for error, key in zip(validation, keys, strict=True)])),
        **scores,
        "owa": owa(scores["smape"], scores["mase"], simple["smape_naive2"], simple["mase_naive2"]),
        **m4.interval_scores({key: moved[key][:, 0] for key in keys}, {key: moved[key][:, -1] for key in keys}),
    }


def _read(folder: Path, name: str) -> dict[str, Float64]:
    plain = folder / name
    raw = plain.read_bytes() if plain.is_file() else gzip.decompress((folder / f"{name}.gz").read_bytes())
    rows = list(csv.reader(raw.decode().splitlines()))[1:]
    return {row[0]: np.array([float(cell) for cell in row[1:] if cell.strip()]) for row in rows}
