"""The part of JSON Schema that our AsyncAPI file uses; anything else in a schema is an error."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from datetime import datetime
from typing import Any

_TYPES: dict[str, Callable[[Any], bool]] = {
    "object": lambda value: isinstance(value, dict),
    "array": lambda value: isinstance(value, list),
    "string": lambda value: isinstance(value, str),
    "integer": lambda value: isinstance(value, int) and not isinstance(value, bool),
    "number": lambda value: isinstance(value, int | float) and not isinstance(value, bool),
    "null": lambda value: value is None,
}
_NOTES = {"description", "format", "examples", "title"}


def problems(schema: dict[str, Any], value: Any, path: str = "$") -> Iterator[str]:
    """What is wrong with a value, each with its path."""
    for word, wanted in schema.items():
        if word == "type":
            kinds = wanted if isinstance(wanted, list) else [wanted]
            if not any(_TYPES[kind](value) for kind in kinds):
                yield f"{path}: expected {wanted}, got {value!r}"
        elif word == "const":
            if value != wanted:
                yield f"{path}: expected {wanted!r}, got {value!r}"
        elif word == "enum":
            if value not in wanted:
                yield f"{path}: expected one of {wanted}, got {value!r}"
        elif word == "pattern":
            if isinstance(value, str) and not re.search(wanted, value):
                yield f"{path}: expected {wanted}, got {value!r}"
        elif word in ("minimum", "maximum"):
            bad = isinstance(value, int | float) and (value < wanted if word == "minimum" else value > wanted)
            if bad:
                yield f"{path}: expected {word} {wanted}, got {value}"
        elif word == "minItems":
            if isinstance(value, list) and len(value) < wanted:
                yield f"{path}: expected at least {wanted} items"
        elif word == "items":
            for index, item in enumerate(value if isinstance(value, list) else ()):
                yield from problems(wanted, item, f"{path}[{index}]")
        elif word == "required":
            yield from (f"{path}: no {name}" for name in wanted if isinstance(value, dict) and name not in value)
        elif word == "properties":
            for name, part in wanted.items():
                if isinstance(value, dict) and name in value:
                    yield from problems(part, value[name], f"{path}.{name}")
        elif word == "additionalProperties":
            for name in value if isinstance(value, dict) else ():
                if name not in schema.get("properties", {}):
                    yield from problems(wanted, value[name], f"{path}.{name}")
        elif word not in _NOTES:
            raise ValueError(f"{path}: a schema with {word} is not understood here")
    if schema.get("format") == "date-time" and isinstance(value, str):
        datetime.fromisoformat(value)
