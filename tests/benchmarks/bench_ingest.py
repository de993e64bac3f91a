"""Measures the ingest against the plain Beam recipe and against the physical floor.

    python -m tests.benchmarks.bench_ingest --rows 1000000 10000000 100000000 --steps 10000 --repeat 3

Each part runs in a process of its own, the parts of one round one after the other, so that a ratio compares runs of
the same minutes. Times leave out imports and, of Beam, the fixed cost of an empty job, which are quoted apart. Memory
is the greatest sum of the resident sets of a process and all its children, looked at every 50 ms.

- floor: a long Parquet table of 7 float32 values, a time and a key, in order of time with the keys mixed, is read by
  pyarrow, sorted stably by key, and its times and values are written in one go.
- ingest: the same table to a dataset of blocks, with the spec of `_spec`.
- baseline: Beam's usual way to windows, on `--baseline-rows` rows: one `tf.train.Example` a window from a DoFn,
  `FloatList(value=window.tolist())`, WriteToTFRecord, one shard. The block layout makes windows of the same size from
  more rows, and so does the window layout, beside the bare rate at which the bytes of its shards can be written.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

WIDTH = 7
STEP_MS = 60_000


def main() -> None:
    """Runs the rounds and prints one JSON document."""
    arguments = _parser().parse_args()
    if arguments.part:
        print(json.dumps(_PARTS[arguments.part](arguments)))
        return
    folder = Path(tempfile.mkdtemp(prefix="bench-ingest-", dir=arguments.folder))
    try:
        results: dict[str, Any] = {"arguments": vars(arguments), "cores": os.cpu_count(), "rounds": []}
        for rows in arguments.rows:
            results["rounds"].append(_measure_rows(rows, arguments, folder))
            _say(json.dumps(results["rounds"][-1]))
        if len(arguments.rows) > 1:
            results["seconds_per_million_rows"] = {
                str(part["rows"]): part["ingest_seconds"] / part["rows"] * 1e6 for part in results["rounds"]
            }
        if arguments.baseline_rows:
            results["baseline"] = _measure_baseline(arguments, folder)
        print(json.dumps(results, indent=2))
    finally:
        shutil.rmtree(folder)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(description="Measure the ingest.")
    parser.add_argument("--rows", type=int, nargs="+", default=[1_000_000, 10_000_000])
    parser.add_argument("--steps", type=int, default=10_000, help="of each key; the others are more keys")
    parser.add_argument("--keys", type=int, help=argparse.SUPPRESS)
    parser.add_argument("--past", type=int, default=336)
    parser.add_argument("--horizon", type=int, default=96)
    parser.add_argument("--repeat", type=int, default=3)
    parser.add_argument(
        "--floor-rows", type=int, default=10_000_000, help="no floor of larger tables: it works in memory"
    )
    parser.add_argument("--baseline-rows", type=int, default=4_000)
    parser.add_argument("--shuffled", action="store_true", help="rows in no order of time either")
    parser.add_argument("--folder", help="where the tables are written; the system's temporary folder by default")
    parser.add_argument("--beam", nargs="*", default=[], help="Beam's options for the ingest, without their dashes")
    parser.add_argument("--part", choices=sorted(_PARTS), help=argparse.SUPPRESS)
    parser.add_argument("--table", help=argparse.SUPPRESS)
    parser.add_argument("--output", help=argparse.SUPPRESS)
    return parser


# --- rounds ---


def _measure_rows(rows: int, arguments: argparse.Namespace, folder: Path) -> dict[str, Any]:
    table, output, keys = folder / f"{rows}.parquet", folder / "output", rows // arguments.steps
    _run("table", arguments, table, output, rows=rows, keys=keys)
    parts = ["ingest", *(["floor"] if rows <= arguments.floor_rows else [])]
    found: dict[str, list[dict[str, Any]]] = {part: [] for part in parts}
    for _ in range(arguments.repeat):
        for part in parts:
            found[part].append(_run(part, arguments, table, output, rows=rows, keys=keys))
            _remove(output)
    table.unlink()
    ingest = found["ingest"]
    result = {
        "rows": rows,
        "keys": keys,
        "ingest_seconds": statistics.median(run["seconds"] for run in ingest),
        "ingest_all_seconds": [round(run["seconds"], 3) for run in ingest],
        "ingest_peak_bytes": max(run["peak_bytes"] for run in ingest),
        "start_up_seconds": statistics.median(run["start_up_seconds"] for run in ingest),
        "windows": ingest[0]["windows"],
        "bytes_over_raw": ingest[0]["bytes"] / ingest[0]["raw_bytes"],
    }
    if "floor" in found:
        floor = statistics.median(run["seconds"] for run in found["floor"])
        result |= {"floor_seconds": floor, "ingest_over_floor": result["ingest_seconds"] / floor}
    return result


def _measure_baseline(arguments: argparse.Namespace, folder: Path) -> dict[str, Any]:
    small, middle, large = (folder / f"{name}.parquet" for name in ("small", "middle", "large"))
    output = folder / "output"
    # The same windows a second at either size, so the block layout may show its rate on more of them.
    some, many = arguments.baseline_rows * 25, arguments.baseline_rows * 500
    _run("table", arguments, small, output, rows=arguments.baseline_rows, keys=1)
    _run("table", arguments, middle, output, rows=some, keys=10)
    _run("table", arguments, large, output, rows=many, keys=100)
    rates: dict[str, list[float]] = {"baseline": [], "ingest": [], "window_layout": [], "bare_write": []}
    for _ in range(arguments.repeat):
        for part, table, rows, keys in (
            ("baseline", small, arguments.baseline_rows, 1),
            ("ingest", large, many, 100),
            ("window_layout", middle, some, 10),
        ):
            run = _run(part, arguments, table, output, rows=rows, keys=keys)
            rates[part].append(run["windows"] / run["seconds"])
            if "bare_seconds" in run:
                rates["bare_write"].append(run["windows"] / run["bare_seconds"])
            _remove(output)
    baseline, ingest, windows, bare = (statistics.median(rates[name]) for name in rates)
    return {
        "window": f"{arguments.past}+{arguments.horizon} steps of {WIDTH} float32",
        "baseline_windows_per_second": baseline,
        "block_windows_per_second": ingest,
        "block_over_baseline": ingest / baseline,
        "window_layout_windows_per_second": windows,
        "window_layout_over_baseline": windows / baseline,
        "bare_write_windows_per_second": bare,
        "window_layout_over_bare_write": windows / bare,
    }


def _run(
    part: str, arguments: argparse.Namespace, table: Path, output: Path, *, rows: int, keys: int
) -> dict[str, Any]:
    import psutil

    options: list[object] = ["--part", part, "--rows", rows, "--table", table, "--output", output]
    options += ["--keys", keys, "--past", arguments.past, "--horizon", arguments.horizon]
    options += ["--shuffled"] if arguments.shuffled else []
    options += ["--beam", *arguments.beam] if arguments.beam else []
    process = subprocess.Popen(
        [sys.executable, "-m", "tests.benchmarks.bench_ingest", *map(str, options)], stdout=subprocess.PIPE
    )
    peak, watched = 0, psutil.Process(process.pid)
    while process.poll() is None:
        try:
            tree = [watched, *watched.children(recursive=True)]
            peak = max(peak, sum(one.memory_info().rss for one in tree))
        except psutil.Error:
            pass
        time.sleep(0.05)
    assert process.stdout is not None
    text = process.stdout.read()
    if process.returncode:
        raise SystemExit(f"the part '{part}' failed")
    return json.loads(text) | {"peak_bytes": peak}


def _remove(path: Path) -> None:
    if path.is_dir():
        shutil.rmtree(path)
    else:
        path.unlink(missing_ok=True)


def _say(text: str) -> None:
    print(text, file=sys.stderr, flush=True)


# --- parts, each in a process of its own ---


def _table(arguments: argparse.Namespace) -> dict[str, Any]:
    """Writes the long table: all keys of a step, in random order, then the next step; with --shuffled in no order."""
    import numpy as np
    import pyarrow as pa
    import pyarrow.parquet as pq

    [rows] = arguments.rows
    rng = np.random.default_rng(7)
    names = pa.array([f"sensor-{number:06d}" for number in range(arguments.keys)])
    steps = rows // arguments.keys
    schema = pa.schema(
        [("key", pa.dictionary(pa.int32(), pa.string())), ("time", pa.int64())]
        + [(f"v{index}", pa.float32()) for index in range(WIDTH)]
    )
    group = max(1, 1_000_000 // arguments.keys)
    order = rng.permutation(steps) if arguments.shuffled else np.arange(steps)
    with pq.ParquetWriter(arguments.table, schema, use_dictionary=["key"], compression="snappy") as writer:
        for first in range(0, steps, group):
            of_group = order[first : first + group]
            codes = np.argsort(rng.random((len(of_group), arguments.keys)), axis=1).astype(np.int32).reshape(-1)
            values = rng.standard_normal((len(codes), WIDTH), np.float32)
            columns = [
                pa.DictionaryArray.from_arrays(pa.array(codes), names),
                pa.array(np.repeat(of_group, arguments.keys) * STEP_MS),
                *(pa.array(np.ascontiguousarray(values[:, index])) for index in range(WIDTH)),
            ]
            writer.write_batch(pa.record_batch(columns, schema=schema))
    return {}


def _floor(arguments: argparse.Namespace) -> dict[str, Any]:
    import numpy as np
    import pyarrow.parquet as pq

    began = time.perf_counter()
    table = pq.read_table(arguments.table, read_dictionary=["key"])
    codes = table["key"].unify_dictionaries().combine_chunks().indices.to_numpy()
    order = np.argsort(codes.astype(np.min_scalar_type(int(codes.max()))), kind="stable")
    values = np.empty((len(codes), WIDTH), np.float32)
    for index in range(WIDTH):
        values[:, index] = table[f"v{index}"].to_numpy()
    with open(arguments.output, "wb") as file:
        table["time"].to_numpy()[order].tofile(file)
        values[order].tofile(file)
    return {"seconds": time.perf_counter() - began}


def _window_layout(arguments: argparse.Namespace) -> dict[str, Any]:
    found = _ingest(arguments, layout="window")
    buffer, left = os.urandom(8 << 20), found["bytes"]
    bare = Path(arguments.output, "bare")
    began = time.perf_counter()
    with bare.open("wb") as file:
        while left > 0:
            left -= file.write(buffer[: min(left, len(buffer))])
    found["bare_seconds"] = time.perf_counter() - began
    return found


def _ingest(arguments: argparse.Namespace, layout: str = "block") -> dict[str, Any]:
    from pipelines.ingest import ingest

    [rows] = arguments.rows
    spec = _spec(rows // arguments.keys, arguments.past, arguments.horizon, layout)
    beam_args = [f"--{option}" for option in arguments.beam]
    start_up = _timed(lambda: _empty_job(beam_args))
    began = time.perf_counter()
    manifest = ingest(spec, inputs=[arguments.table], output=arguments.output, beam_args=beam_args)
    seconds = time.perf_counter() - began - start_up
    folder = Path(arguments.output)
    return {
        "seconds": seconds,
        "start_up_seconds": start_up,
        "windows": sum(split.windows for split in manifest.splits.values()),
        "bytes": sum(path.stat().st_size for path in folder.glob("*.tfrecord")),
        "raw_bytes": rows * WIDTH * 4,
    }


def _spec(steps: int, past: int, horizon: int, layout: str) -> Any:
    from schemas.spec import parse_spec
    from schemas.units import ms_to_iso

    cuts = [ms_to_iso(int(steps * share) * STEP_MS) for share in (0, 0.6, 0.8, 1)]
    features = [{"name": f"v{index}", "role": "past" if index else "target"} for index in range(WIDTH)]
    return parse_spec(
        {
            "stream": {
                "name": "bench",
                "key": "key",
                "time": {"field": "time", "format": "epoch_ms"},
                "features": features,
            },
            "grid": {"step": "1min", "regular": True},
            "window": {"past": past, "horizon": horizon, "min_observed": past},
            "split": {"by": "dates", "train": cuts[:2], "validation": cuts[1:3], "test": cuts[2:]},
            "dataset": {"shards": 4, "layout": layout},
        }
    )


def _empty_job(beam_args: list[str]) -> None:
    import apache_beam as beam

    from pipelines.beam_job import run_pipeline

    run_pipeline(lambda pipeline: pipeline | beam.Create([0]) | beam.GroupBy(lambda value: value), beam_args)


def _timed(work: Callable[[], None]) -> float:
    began = time.perf_counter()
    work()
    return time.perf_counter() - began


def _baseline(arguments: argparse.Namespace) -> dict[str, Any]:
    """The plain recipe: rows by key, sorted, a proto a window, Beam's own sink."""
    import apache_beam as beam
    import numpy as np
    import pyarrow.parquet as pq
    from apache_beam.runners.portability.fn_api_runner import FnApiRunner
    from tensorflow.core.example.example_pb2 import Example
    from tensorflow.core.example.feature_pb2 import Feature, Features, FloatList

    length = arguments.past + arguments.horizon

    class ToExamples(beam.DoFn):  # type: ignore[misc]
        def process(self, element: tuple[str, Any]) -> Iterator[bytes]:
            _, series = element
            for window in np.lib.stride_tricks.sliding_window_view(series, length, axis=0):
                floats = FloatList(value=window.T.reshape(-1).tolist())
                yield Example(features=Features(feature={"values": Feature(float_list=floats)})).SerializeToString()

    start_up = _timed(lambda: _empty_job([]))
    began = time.perf_counter()
    table = pq.read_table(arguments.table)
    series = np.stack([table[f"v{index}"].to_numpy() for index in range(WIDTH)], axis=1)
    with beam.Pipeline(runner=FnApiRunner()) as pipeline:
        _ = (
            pipeline
            | beam.Create([("sensor", series)])
            | beam.ParDo(ToExamples())
            | beam.io.WriteToTFRecord(arguments.output, num_shards=1)
        )
    seconds = time.perf_counter() - began - start_up
    for path in Path(arguments.output).parent.glob(f"{Path(arguments.output).name}-*"):
        path.unlink()
    return {"seconds": seconds, "windows": len(series) - length + 1}


_PARTS = {
    "table": _table,
    "floor": _floor,
    "ingest": _ingest,
    "window_layout": _window_layout,
    "baseline": _baseline,
}

if __name__ == "__main__":
    main()
