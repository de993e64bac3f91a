"""Measures how fast training gets its windows, and what reading them costs a cheap model's epoch.

    python -m tests.benchmarks.bench_reading --repeat 5

- reading: windows a second of a dataset of blocks, in order and shuffled, of the window layout, and of a numpy strided
  view in memory, a gather a batch; one whole pass each.
- epoch: one epoch of a one-layer linear model (past to horizon, the same weights for each feature) from blocks, and the
  same from the same windows as arrays in memory (`Model.fit(x, y)`).

The parts of a round run one after the other in this process, so a ratio compares runs of the same minutes.
"""

from __future__ import annotations

import argparse
import json
import statistics
import sys
import tempfile
import time
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

import keras
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from numpy.lib.stride_tricks import sliding_window_view

from models.reader import windows
from pipelines.ingest import ingest
from schemas.dataset import ALL_ORIGINS, DatasetFolder
from schemas.spec import Spec, parse_spec

WIDTH = 7
BATCH = 256


def main() -> None:
    """Runs the rounds and prints one JSON document."""
    parser = argparse.ArgumentParser(description="Measure the reader.")
    parser.add_argument("--windows", type=int, default=120_000, help="of the block layout")
    parser.add_argument("--plain-windows", type=int, default=12_000, help="of the window layout")
    parser.add_argument("--epoch-windows", type=int, default=24_000)
    parser.add_argument("--keys", type=int, default=8)
    parser.add_argument("--past", type=int, default=336)
    parser.add_argument("--horizon", type=int, default=96)
    parser.add_argument("--repeat", type=int, default=5)
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="bench-reading-") as folder:
        print(json.dumps(_measure(arguments, Path(folder)), indent=2))


def _measure(arguments: argparse.Namespace, folder: Path) -> dict[str, Any]:
    blocks = _dataset(folder / "blocks", arguments, arguments.windows, "block")
    plain = _dataset(folder / "plain", arguments, arguments.plain_windows, "window")
    some = _dataset(folder / "epoch", arguments, arguments.epoch_windows, "block")
    matrix = np.random.default_rng(0).normal(size=(arguments.windows, WIDTH)).astype(np.float32)
    parts: dict[str, Callable[[], float]] = {
        "blocks_in_order": lambda: _pass(windows(blocks, ALL_ORIGINS, batch_size=BATCH)),
        "blocks_shuffled": lambda: _pass(windows(blocks, ALL_ORIGINS, batch_size=BATCH, shuffle_seed=1)),
        "window_layout_shuffled": lambda: _pass(windows(plain, ALL_ORIGINS, batch_size=BATCH, shuffle_seed=1)),
        "numpy_in_memory": lambda: _pass(_gathered(matrix, arguments)),
    }
    arrays = _arrays(some)
    epoch: dict[str, Callable[[], float]] = {
        "blocks": _epochs(lambda: _pairs(some), arguments),
        "arrays": _epochs(lambda: arrays, arguments),
    }
    rates: dict[str, list[float]] = {name: [] for name in parts}
    seconds: dict[str, list[float]] = {name: [] for name in epoch}
    for round_ in range(arguments.repeat):
        for name, part in parts.items():
            rates[name].append(part())
        for name, part in epoch.items():
            seconds[name].append(part())
        print(f"round {round_ + 1}: {_last(rates)} {_last(seconds)}", file=sys.stderr)
    median = {name: statistics.median(found) for name, found in seconds.items()}
    return {
        "window": f"{arguments.past}+{arguments.horizon} steps of {WIDTH} float32",
        "windows_per_second": {name: round(statistics.median(found)) for name, found in rates.items()},
        "epoch_windows": some.split(ALL_ORIGINS).windows,
        "epoch_seconds": median,
        "epoch_blocks_over_arrays": median["blocks"] / median["arrays"],
        "epoch_blocks_over_arrays_by_round": [
            round(left / right, 3) for left, right in zip(seconds["blocks"], seconds["arrays"], strict=True)
        ],
    }


def _last(found: dict[str, list[float]]) -> dict[str, float]:
    return {name: round(values[-1], 3) for name, values in found.items()}


# --- data ---


def _spec(arguments: argparse.Namespace, layout: str) -> Spec:
    return parse_spec(
        {
            "stream": {
                "name": "bench",
                "key": "key",
                "time": {"field": "time", "format": "epoch_ms"},
                "features": [{"name": f"f{index}", "role": "target"} for index in range(WIDTH)],
            },
            "grid": {"step": "1min", "regular": True},
            "window": {"past": arguments.past, "horizon": arguments.horizon},
            "dataset": {"layout": layout},
        }
    )


def _dataset(folder: Path, arguments: argparse.Namespace, count: int, layout: str) -> DatasetFolder:
    folder.mkdir()
    steps = count // arguments.keys + arguments.past - 1  # a window at every step that has its past
    time_ms = np.arange(steps, dtype=np.int64) * 60_000
    columns = {f"f{index}": np.random.default_rng(index).normal(size=steps * arguments.keys) for index in range(WIDTH)}
    table = pa.table(
        {
            "key": np.repeat([f"key-{number}" for number in range(arguments.keys)], steps),
            "time": np.tile(time_ms, arguments.keys),
            **{name: column.astype(np.float32) for name, column in columns.items()},
        }
    )
    pq.write_table(table, folder / "events.parquet")
    ingest(
        _spec(arguments, layout),
        inputs=[str(folder / "events.parquet")],
        output=str(folder / "dataset"),
        all_origins=True,
    )
    return DatasetFolder(folder / "dataset")


# --- reading ---


def _pass(batches: Iterable[dict[str, Any]]) -> float:
    """Windows a second of one whole pass."""
    count, start = 0, time.perf_counter()
    for batch in batches:
        count += len(batch["past_values"])
    return count / (time.perf_counter() - start)


def _gathered(matrix: np.ndarray[Any, Any], arguments: argparse.Namespace) -> Iterable[dict[str, Any]]:
    views = sliding_window_view(matrix, arguments.past + arguments.horizon, axis=0).transpose(0, 2, 1)
    order = np.random.default_rng(0).permutation(len(views))
    for first in range(0, len(order), BATCH):
        yield {"past_values": views[order[first : first + BATCH]]}


# --- epochs ---


def _pairs(folder: DatasetFolder) -> Any:
    batches = windows(folder, ALL_ORIGINS, batch_size=BATCH, shuffle_seed=1)
    return (batches.map(lambda batch: (batch["past_values"], batch["target_values"])),)


def _arrays(folder: DatasetFolder) -> tuple[np.ndarray[Any, Any], np.ndarray[Any, Any]]:
    found = list(windows(folder, ALL_ORIGINS, batch_size=4096).as_numpy_iterator())
    past, target = (np.concatenate([batch[name] for batch in found]) for name in ("past_values", "target_values"))
    return past, target


def _epochs(data: Callable[[], tuple[Any, ...]], arguments: argparse.Namespace) -> Callable[[], float]:
    """One epoch, in seconds; the model and its graph are made, and run once, beforehand."""
    steps_last = keras.layers.Permute((2, 1))
    inputs = keras.Input((arguments.past, WIDTH))
    outputs = keras.layers.Permute((2, 1))(keras.layers.Dense(arguments.horizon)(steps_last(inputs)))
    model = keras.Model(inputs, outputs)
    model.compile("adam", "mse", jit_compile=False)
    parts = data()
    batch: dict[str, Any] = {"shuffle": False} if len(parts) == 1 else {"batch_size": BATCH}  # blocks come shuffled
    model.fit(*parts, verbose=0, **batch)

    def run() -> float:
        start = time.perf_counter()
        model.fit(*parts, verbose=0, **batch)
        return time.perf_counter() - start

    return run


if __name__ == "__main__":
    main()
