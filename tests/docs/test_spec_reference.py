"""docs/spec.md has a section for every part of the spec, with every field, and no other."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from schemas.spec import spec_json_schema

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


def documented() -> dict[str, dict[str, bool]]:
    """The fields of each section, and whether each is marked as required."""
    sections: dict[str, dict[str, bool]] = {}
    for section in re.split(r"^## ", REFERENCE.read_text(), flags=re.MULTILINE)[1:]:
        heading, _, body = section.partition("\n")
        fields = {name: bool(bold) for bold, name in re.findall(r"^\| (\*\*)?`(\w+)`", body, flags=re.MULTILINE)}
        for path in re.split(r", (?![^(]*\))", heading):
            sections[path] = fields
    return sections


@pytest.mark.parametrize(("path", "form"), [pytest.param(*part, id=part[0]) for part in parts("", SCHEMA)])
def test_every_field_is_documented(path: str, form: dict[str, Any]) -> None:
    required = set(form.get("required", ()))
    assert documented()[path] == {name: name in required for name in form["properties"]}


def test_nothing_else_is_documented() -> None:
    known = {path for path, _ in parts("", SCHEMA)}
    assert set(documented()) - known <= {"split", "model"}  # which say what their kinds have in common
