"""What live accuracy costs, and how drift moves: `python -m tests.benchmarks.bench_live_accuracy [--only CELL]`.

Without Kafka, and in seconds of processor time.

    join     records a second, and bytes of memory, by the number of keys: hourly events of one target
             and four covariates, for each a prediction of 24 steps with three quantiles
    season   the demo's year: how far each feature is from January to August, by the weeks that are compared, and when
             the Page-Hinkley test of persistence's errors raises an alarm, as they are and where they double
"""

from __future__ import annotations

import argparse
import csv
import gzip
import time
import tracemalloc
from collections.abc import Callable
from pathlib import Path

import numpy as np
import orjson

from pipelines.kernels.drift import histograms, jensen_shannon
from pipelines.kernels.page_hinkley import PageHinkley
from pipelines.kernels.sketch import Sketch
from schemas.accuracy_spec import ErrorDrift
from schemas.prediction import ModelVersion, Prediction, PredictionWriter
from schemas.spec import Spec, parse_spec
from streaming.accuracy.actuals import ActualsPartition, ClosedSteps
from streaming.accuracy.forecasts import ForecastPartition, ForecastReader
from streaming.accuracy.join import Join
from streaming.checkpoint import Checkpoint
from tests.streaming.test_partition import Log

HOUR_MS = 3_600_000
HORIZON, STEPS = 24, 36
WEATHER = Path("deploy/data/weather.csv.gz")


def stream() -> Spec:
    """Hourly events of five features."""
    roles = {"load": "target", "heat": "past", "wind": "past", "rain": "past", "sun": "past"}
    return parse_spec(
        {
            "stream": {
                "name": "bench",
                "key": "key",
                "time": {"field": "time", "format": "epoch_ms"},
                "features": [{"name": name, "role": role} for name, role in roles.items()],
            },
            "grid": {"step": "1h", "regular": True},
            "window": {"past": 24, "horizon": HORIZON},
        }
    )


def join(keys: int) -> tuple[float, float, float]:
    """Events and predictions a second, and bytes of the join for each prediction that waits."""
    spec = stream()
    writer = PredictionWriter(spec)
    joined = Join(spec)
    place = Checkpoint(0, 0, None, (), spec.window_fingerprint, 1)
    actuals = ActualsPartition(
        spec,
        ClosedSteps(spec),
        number=0,
        block_steps=24,
        take=joined.close,
        forget=joined.forget,
        lowest=joined.lowest_position,
        name="bench[0]",
        partitions=1,
        start_offset=0,
        live_from=0,
    )
    forecasts = ForecastPartition(
        "bench[0]", 0, ForecastReader(spec), take=joined.predict, lowest=lambda _: 0, checkpoint=place
    )
    spent = {"events": 0.0, "predictions": 0.0}

    def timed(name: str, work: Callable[[], object]) -> None:
        began = time.process_time()
        work()
        spent[name] += time.process_time() - began

    tracemalloc.start()
    before, waiting = tracemalloc.get_traced_memory()[0], 0.0
    for step in range(STEPS):
        if step == HORIZON:
            waiting = (tracemalloc.get_traced_memory()[0] - before) / joined.pending
            tracemalloc.stop()  # it slows everything down
            spent = dict.fromkeys(spent, 0.0)
        some = [Log(step * keys + key, orjson.dumps(_event(key, step))) for key in range(keys)]
        made = [Log(step * keys + key, writer.value(_prediction(spec, key, step))) for key in range(keys)]
        timed("events", lambda some=some: actuals.apply(actuals.stage(some, 0)))  # type: ignore[misc]
        timed("predictions", lambda made=made: forecasts.apply(forecasts.stage(made, 0)))  # type: ignore[misc]
        timed("predictions", lambda: joined.matches(caught_up=True))
    count = keys * (STEPS - HORIZON)
    return count / spent["events"], count / spent["predictions"], waiting


def _event(key: int, step: int) -> dict[str, object]:
    values = dict.fromkeys(("load", "heat", "wind", "rain", "sun"), (step * 7 + key) % 31 / 3)
    return {"key": f"key-{key}", "time": step * HOUR_MS, **values}


def _prediction(spec: Spec, key: int, step: int) -> Prediction:
    mean = np.full((HORIZON, 1), step % 31, np.float32)
    return Prediction(
        key=f"key-{key}",
        origin_ms=(step + 1) * HOUR_MS,
        mean=mean,
        last_observed=mean[0],
        last_observed_ms=np.array([step * HOUR_MS]),
        observed_fraction=1.0,
        window_digest="0" * 16,
        model=ModelVersion("bench", 1, spec.window_fingerprint),
        levels=(0.05, 0.5, 0.95),
        quantiles=np.stack([mean - 1, mean, mean + 1], axis=-1),
    )


def season() -> None:
    """Prints how the demo's features lie from its own first eight months, and what the errors of persistence tell."""
    with gzip.open(WEATHER, "rt") as file:
        rows = list(csv.DictReader(file))
    day = np.array([np.datetime64(row["time_hour"].removesuffix("Z"), "D") for row in rows])
    print("| feature | a week: median, greatest | four weeks: median, greatest |\n|---|---|---|")
    for name in ("temp", "dewp", "humid", "pressure", "wind_speed", "visib"):
        value = np.array([float(row[name]) if row[name] not in ("", "NA") else np.nan for row in rows], np.float32)
        seen = ~np.isnan(value)
        baseline = Sketch.of(value[seen & (day < np.datetime64("2013-09-01"))])
        cells = []
        for weeks in (1, 4):
            ends = np.arange(np.datetime64("2013-01-29"), np.datetime64("2013-12-31"), 7)
            parts = [seen & (day < end) & (day >= end - np.timedelta64(7 * weeks, "D")) for end in ends]
            whole = [Sketch.of(value[part]) for part in parts if part.sum() > 200]
            found = [jensen_shannon(*histograms(baseline, sketch)) for sketch in whole]
            cells.append(f"{np.median(found):.2f}, {max(found):.2f}")
        print(f"| `{name}` | {cells[0]} | {cells[1]} |")
    errors = _persistence_errors(rows)
    doubled = [error * (2 if number >= 200 else 1) for number, error in enumerate(errors)]
    print(f"alarms in the year: {_alarms(errors)}; with errors that double on day 200: {_alarms(doubled)[:1]}")


def _persistence_errors(rows: list[dict[str, str]]) -> list[float]:
    """Each day's mean absolute error of persistence of the temperature, 1, 12 and 24 hours ahead."""
    first = np.datetime64("2013-01-01", "h")
    hour = np.array([int((np.datetime64(row["time_hour"].removesuffix("Z"), "h") - first).astype(int)) for row in rows])
    key = np.array([row["origin"] for row in rows])
    value = np.array([float(row["temp"]) if row["temp"] not in ("", "NA") else np.nan for row in rows])
    errors = []
    for name in np.unique(key):
        series = np.full(8_760, np.nan)
        mine = (key == name) & (hour >= 0) & (hour < len(series))
        series[hour[mine]] = value[mine]
        for lag in (1, 12, 24):
            errors.append(np.concatenate((np.full(lag, np.nan), np.abs(series[lag:] - series[:-lag]))))
    days = np.array(errors).reshape(len(errors), -1, 24)
    return [float(np.nanmean(days[:, number])) for number in range(days.shape[1]) if np.isfinite(days[:, number]).any()]


def _alarms(errors: list[float]) -> list[int]:
    limits, test, found, is_open = ErrorDrift(), PageHinkley(), [], False
    for number, error in enumerate(errors):
        test = test.after(error, tolerance=limits.tolerance, threshold=limits.threshold, warm_up=limits.warm_up)
        if not is_open and test.measure > limits.threshold:
            found.append(number)
        is_open = test.measure > limits.threshold * (0.8 if is_open else 1.0)
    return found


def main() -> None:
    """Runs the cells."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--only", choices=("join", "season"))
    only = parser.parse_args().only
    if only != "season":
        print("| keys | events a second | predictions a second | bytes for each that waits |\n|---|---|---|---|")
        for keys in (100, 1_000):
            events, predictions, waiting = join(keys)
            print(f"| {keys:,} | {events:,.0f} | {predictions:,.0f} | {waiting:.0f} |")
    if only != "join":
        season()


if __name__ == "__main__":
    main()
