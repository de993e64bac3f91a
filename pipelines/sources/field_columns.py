"""Columns as the numbers of features: whole numbers, categories, and what a table says of the key.

Each reads what `schemas.event.Field` reads of single values; a row that a column is not sure of is left to it.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from schemas.event import MAX_WHOLE, Field, parse_array

Floats = NDArray[np.floating]
Float64 = NDArray[np.float64]
Bool = NDArray[np.bool_]

_LISTS = (pa.types.is_list, pa.types.is_large_list, pa.types.is_fixed_size_list)
_TEXTS = (pa.types.is_string, pa.types.is_large_string, pa.types.is_integer, pa.types.is_boolean)
"""What is, or is written as, a category's text."""


def field_numbers(
    field: Field, column: pa.Array, numbers: Callable[[pa.Array], tuple[Floats, Bool]]
) -> tuple[Floats, Bool]:
    """The numbers of a feature.

    Args:
      field: the feature's field, without a table.
      column: (row,); of a category texts, whole numbers or booleans; of a place in an array that place of each.
      numbers: reads a column of plain numbers.
    Returns:
      Numbers (row,), NaN where missing, and which rows are sure.
    """
    if field.categories is not None:
        return _indices(field, column)
    values, sure = numbers(column)
    if field.whole:
        with np.errstate(invalid="ignore"):
            sure = sure & (np.isnan(values) | ((np.floor(values) == values) & (np.abs(values) <= MAX_WHOLE)))
    return values, sure


def array_numbers(
    length: int, column: pa.Array, missing: Sequence[str], numbers: Callable[[pa.Array], tuple[Floats, Bool]]
) -> tuple[Floats, Bool]:
    """The numbers of a column of arrays.

    Args:
      length: how many each has.
      column: (row,): lists, or texts of JSON arrays.
      missing: the spellings of a missing one.
      numbers: reads a column of plain numbers.
    Returns:
      Numbers (row, place), NaN where missing, and which rows are sure.
    """
    values, sure = np.full((len(column), length), np.nan), np.zeros(len(column), np.bool_)
    if pa.types.is_string(column.type) or pa.types.is_large_string(column.type):
        parsed = [None if text is None or text in missing else parse_array(text) for text in column.to_pylist()]
        column = pa.array([one if one is None or _is_array(one) else [] for one in parsed], pa.list_(pa.float64()))
    elif pa.types.is_null(column.type):
        return values, ~sure
    elif not any(is_list(column.type) for is_list in _LISTS):
        return values, sure
    sure[:] = column.is_null().to_numpy(zero_copy_only=False)
    fits = pc.equal(pc.list_value_length(column), length).fill_null(False)
    cells, fine = numbers(column.filter(fits).flatten())
    rows = np.flatnonzero(fits.to_numpy(zero_copy_only=False))
    values[rows], sure[rows] = cells.reshape(-1, length), fine.reshape(-1, length).all(axis=1)
    return values, sure


def _is_array(value: Any) -> bool:
    return isinstance(value, list) and {float, int, type(None)}.issuperset(map(type, value))


def table_numbers(field: Field, keys: pa.DictionaryArray) -> Float64:
    """What a field's table says of each key: float64 (row,), NaN of a key that it has not."""
    table = field.table or {}
    by_code = np.array([table.get(key, np.nan) for key in keys.dictionary.to_pylist()] or [np.nan])
    found: Float64 = by_code[keys.indices.fill_null(0).to_numpy(zero_copy_only=False)]
    return found


def _indices(field: Field, column: pa.Array) -> tuple[Float64, Bool]:
    if pa.types.is_null(column.type):
        return np.full(len(column), np.nan), np.ones(len(column), np.bool_)
    if not any(is_text(column.type) for is_text in _TEXTS):
        return np.zeros(len(column)), np.zeros(len(column), np.bool_)
    texts = column.cast(pa.string())
    vocabulary = pa.array(list(field.categories or ()), pa.string())
    index = pc.index_in(texts, value_set=vocabulary).fill_null(len(vocabulary)).to_numpy(zero_copy_only=False)
    missing = pc.is_in(texts, value_set=pa.array([None, *field.missing], pa.string())).to_numpy(zero_copy_only=False)
    return np.where(missing, np.nan, index), np.ones(len(column), np.bool_)
