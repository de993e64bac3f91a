"""docs/text.md names every field of a spec of texts that is not one of every spec."""

from __future__ import annotations

import re
from pathlib import Path

from schemas.spec import Spec, spec_json_schema
from schemas.text_spec import TextSpec


def fields(schema: dict[str, object]) -> dict[str, set[str]]:
    """The fields of each section by the section's name in the schema."""
    sections = schema["$defs"]
    assert isinstance(sections, dict)
    return {name: set(section["properties"]) for name, section in sections.items() if "properties" in section}


def test_every_field_is_documented_and_no_other() -> None:
    shared = fields(spec_json_schema(Spec))
    own = {name: found for name, found in fields(spec_json_schema(TextSpec)).items() if shared.get(name) != found}
    documented = set(re.findall(r"^\| (?:\*\*)?`(\w+)`", Path("docs/text.md").read_text().split("## Fields")[1], re.M))
    assert documented == set().union(*own.values()) | {"validation", "test"}
