"""What an accuracy benchmark is made of: cells that are run one by one, each once."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any


@dataclass(frozen=True, slots=True)
class Place:
    """Where a cell finds what it needs: `data` are the published files, `work` is kept from cell to cell."""

    data: Path
    work: Path


@dataclass(frozen=True, slots=True)
class Cell:
    """One thing to measure.

    `name` is a path such as `etth1/96/rnn`. `fingerprint` changes with whatever the outcome depends on besides the data
    and the code: a cell that is there with it and the seed is not run again. `run` gives JSON values.
    """

    name: str
    seed: int
    fingerprint: str
    run: Callable[[Place], dict[str, Any]]


@dataclass(frozen=True, slots=True)
class Benchmark:
    """Cells that are shown in one table.

    `cells` are those of a seed; `table` gives lines of Markdown of results, each what a cell's `run` gave and `cell`,
    `seed`, `seconds`.
    """

    cells: Callable[[int], Sequence[Cell]]
    table: Callable[[Sequence[Mapping[str, Any]]], list[str]]
