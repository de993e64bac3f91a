"""Where a tuner looks: for fields of a spec, by their paths, the values that they may take.

    model.family: [lstm, mlp]
    model.units: [32, 64, 128]
    model.dropout: {low: 0.0, high: 0.5}
    training.learning_rate: {low: 1e-4, high: 1e-2, log: true}
    training.schedule: [{by: constant}, {by: cosine, warmup: 1.0}]

A list is a choice, of any values. A range of whole numbers is drawn in whole numbers, both ends included.
"""

from __future__ import annotations

import math
import os
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Self

import numpy as np
from pydantic import model_validator

from schemas.documents import parse_as, read_document
from schemas.errors import SpecError
from schemas.section import Section

_SECTIONS = ("model", "training")


class Range(Section):
    """Numbers from `low` to `high`, evenly or evenly in the logarithm."""

    low: int | float
    high: int | float
    log: bool = False

    @model_validator(mode="after")
    def _is_a_range(self) -> Self:
        if self.low >= self.high:
            raise ValueError(f"expected low below high, got {self.low} and {self.high}")
        if self.log and self.low <= 0:
            raise ValueError(f"a logarithmic range begins above 0, got {self.low}")
        return self

    def draw(self, rng: np.random.Generator) -> int | float:
        """One of its numbers."""
        whole = isinstance(self.low, int) and isinstance(self.high, int)
        low, high = (self.low - 0.5, self.high + 0.5) if whole else (self.low, self.high)
        number = math.exp(rng.uniform(math.log(low), math.log(high))) if self.log else rng.uniform(low, high)
        return min(max(round(number), int(self.low)), int(self.high)) if whole else float(number)


@dataclass(frozen=True, slots=True)
class SearchSpace:
    """The values that each field may take, by its path."""

    fields: Mapping[str, tuple[Any, ...] | Range]

    def draw(self, rng: np.random.Generator) -> dict[str, Any]:
        """A value for each field."""
        return {
            path: values.draw(rng) if isinstance(values, Range) else values[int(rng.integers(len(values)))]
            for path, values in self.fields.items()
        }


def load_search_space(path: str | os.PathLike[str]) -> SearchSpace:
    """Reads a file.

    Raises:
      SpecError: it cannot be read, or a field or its values are wrong.
    """
    fields: dict[str, tuple[Any, ...] | Range] = {}
    for name, values in read_document(path, {}).items():
        where = f"{path}: {name}"
        if str(name).partition(".")[0] not in _SECTIONS:
            raise SpecError(f"{where}: expected a path in {' or '.join(_SECTIONS)}; the windows are the dataset's")
        if isinstance(values, list) and values:
            fields[name] = tuple(values)
        elif isinstance(values, dict):
            fields[name] = parse_as(Range, values, where=where)
        else:
            raise SpecError(
                f"{where}: expected a list of values or a range such as {{low: 1, high: 4}}, got {values!r}"
            )
    # A section as a whole first, so that its fields are then set in it.
    return SearchSpace(dict(sorted(fields.items(), key=lambda item: item[0].count("."))))


def with_values(document: Mapping[str, Any], values: Mapping[str, Any]) -> dict[str, Any]:
    """A spec document with fields set by their paths.

    Raises:
      SpecError: a path leads through what is no section.
    """
    changed = dict(document)
    for path, value in values.items():
        *sections, field = path.split(".")
        inner = changed
        for section in sections:
            found = inner.get(section) or {}
            if not isinstance(found, Mapping):
                raise SpecError(f"{path}: expected a section '{section}', got {found!r}")
            inner[section] = dict(found)
            inner = inner[section]
        inner[field] = value
    return changed
