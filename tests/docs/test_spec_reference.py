"""docs/spec.md has a section for every part of the spec, with every field and its default, and no other."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml

from schemas.spec import spec_json_schema
from schemas.units import parse_duration_ms

REFERENCE = Path("docs/spec.md")
SCHEMA = spec_json_schema()


def parts(path: str, form: dict[str, Any]) -> Iterator[tuple[str, dict[str, Any]]]:
    """Each object of the spec: its path, and its schema."""
    if "$ref" in form:
        form = SCHEMA["$defs"][form["$ref"].rpartition("/")[2]]
    if "items" in form:
        yield from parts(f"{path}[]", form["items"])
    for choice in (*form.get("anyOf", ()), *form.get("oneOf", ())):
        if mapping := choice.get("discriminator", form.get("discriminator", {})).get("mapping"):
            tag = choice.get("discriminator", form.get("discriminator"))["propertyName"]
            for value, reference in mapping.items():
                yield from parts(f"{path} ({tag}: {value})", {"$ref": reference})
            return
        yield from parts(path, choice)
    if properties := form.get("properties"):
        if path:
            yield path, form
        for name, child in properties.items():
            yield from parts(f"{path}.{name}".lstrip("."), child)


def documented() -> dict[str, dict[str, tuple[bool, str]]]:
    """The fields of each section, whether each is marked as required, and what is said of its default."""
    sections: dict[str, dict[str, tuple[bool, str]]] = {}
    for section in re.split(r"^## ", REFERENCE.read_text(), flags=re.MULTILINE)[1:]:
        heading, _, body = section.partition("\n")
        rows = re.findall(r"^\| (\*\*)?`(\w+)`(?:\*\*)? \|([^|]*)\|", body, flags=re.MULTILINE)
        fields = {name: (bool(bold), default.strip()) for bold, name, default in rows}
        for path in re.split(r", (?![^(]*\))", heading):
            sections[path] = fields
    return sections


def value_of(told: str, default: Any) -> Any:
    """What is said of a default stands for this; a duration is in milliseconds, as the schema has it."""
    value = yaml.safe_load(told.strip("`"))
    return parse_duration_ms(value) if isinstance(value, str) and isinstance(default, int) else value


@pytest.mark.parametrize(("path", "form"), [pytest.param(*part, id=part[0]) for part in parts("", SCHEMA)])
def test_every_field_is_documented(path: str, form: dict[str, Any]) -> None:
    required = set(form.get("required", ()))
    fields = documented()[path]
    assert {name: bold for name, (bold, _) in fields.items()} == {name: name in required for name in form["properties"]}
    for name, child in form["properties"].items():
        default, told = child.get("default"), fields[name][1]
        if name in required:
            assert told == ""
        elif default is not None and (
            told.startswith("`") or (default != "" and isinstance(default, str | int | float))
        ):
            assert value_of(told, default) == default  # of lists and objects a word may be said in place of it


def test_nothing_else_is_documented() -> None:
    known = {path for path, _ in parts("", SCHEMA)}
    assert set(documented()) - known <= {"split", "model"}  # which say what their kinds have in common
