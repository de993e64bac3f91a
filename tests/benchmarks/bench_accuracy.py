"""Measures the accuracy of the models on published data, cell by cell.

    python -m tests.benchmarks.bench_accuracy --data DATA [--only PATTERN] [--seeds 0 1 2]

DATA holds the published files, in folders that each benchmark describes (`tests/benchmarks/accuracy/`). A cell is one
series, horizon and model with a seed; it goes through the product's own ingest, training and evaluation. Its outcome is
appended to the results as a line of JSON, and a cell that is there with the same settings is not run again, so a run
that was stopped goes on where it was. `--only` takes shell patterns of cells' names, such as `etth1/96/*`. At the end
the tables of all results are printed in Markdown.
"""

from __future__ import annotations

import argparse
import json
import sys
import time
from collections.abc import Mapping, Sequence
from fnmatch import fnmatch
from pathlib import Path
from typing import Any

from tests.benchmarks.accuracy import ett, m4, text
from tests.benchmarks.accuracy.cells import Benchmark, Cell, Place

BENCHMARKS: dict[str, Benchmark] = {"ett": ett.BENCHMARK, "m4": m4.BENCHMARK, "text": text.BENCHMARK}
RESULTS = Path(__file__).parent / "results" / "accuracy.jsonl"


def main() -> None:
    """Runs the cells that are not there yet, and prints the tables."""
    parser = argparse.ArgumentParser(description="Measure the accuracy of the models on published data.")
    parser.add_argument("--data", type=Path, required=True, help="the folder of the published files")
    parser.add_argument("--only", nargs="+", default=["*"], metavar="PATTERN", help="cells by name, as 'etth1/96/*'")
    parser.add_argument("--seeds", nargs="+", type=int, default=[0, 1, 2])
    parser.add_argument("--results", type=Path, default=RESULTS, help="lines of JSON, read and appended to")
    parser.add_argument("--work", type=Path, default=Path("build/accuracy"), help="where datasets and runs are kept")
    arguments = parser.parse_args()
    place = Place(arguments.data, arguments.work)
    results = read(arguments.results)
    for benchmark in BENCHMARKS.values():
        # Seed by seed, so that what there is early is whole.
        for cell in (cell for seed in arguments.seeds for cell in benchmark.cells(seed)):
            if any(fnmatch(cell.name, pattern) for pattern in arguments.only) and not there(cell, results):
                results.append(measure(cell, place))
                arguments.results.parent.mkdir(parents=True, exist_ok=True)
                with arguments.results.open("a", encoding="utf-8") as file:
                    file.write(json.dumps(results[-1]) + "\n")
    for name, benchmark in BENCHMARKS.items():
        current = {(cell.name, cell.fingerprint) for seed in arguments.seeds for cell in benchmark.cells(seed)}
        mine = [result for result in results if (result["cell"], result["fingerprint"]) in current]
        if mine:
            print(f"\n## {name}\n", *benchmark.table(mine), sep="\n")


def measure(cell: Cell, place: Place) -> dict[str, Any]:
    """The result of a cell."""
    began = time.perf_counter()
    outcome = cell.run(place)
    result = {
        "cell": cell.name,
        "seed": cell.seed,
        "fingerprint": cell.fingerprint,
        "seconds": round(time.perf_counter() - began, 1),
        "command": f"python -m tests.benchmarks.bench_accuracy --data DATA --only '{cell.name}' --seeds {cell.seed}",
        **outcome,
    }
    print(json.dumps(result), file=sys.stderr, flush=True)
    return result


def read(path: Path) -> list[dict[str, Any]]:
    """The results that there are."""
    if not path.is_file():
        return []
    return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines() if line]


def there(cell: Cell, results: Sequence[Mapping[str, Any]]) -> bool:
    """Whether a cell has been run with the settings that it has."""
    mine = (cell.name, cell.seed, cell.fingerprint)
    return any((result["cell"], result["seed"], result["fingerprint"]) == mine for result in results)


if __name__ == "__main__":
    main()
