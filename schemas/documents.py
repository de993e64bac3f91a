"""Spec documents: read from YAML, checked against a kind of spec, hashed.

Every mistake is a line with its path, `$.window.horizon: expected ..., got ...`, and all of them come at once.
"""

from __future__ import annotations

import hashlib
import json
import os
import re
from collections.abc import Mapping
from difflib import get_close_matches
from pathlib import Path
from typing import Any, TypeVar

import yaml
from pydantic import BaseModel, ValidationError

from schemas.errors import SpecError
from schemas.section import Section

S = TypeVar("S", bound=Section)

_ENVIRONMENT_PREFIX = "TIDEGAUGE_"
_SETTINGS = ("source", "checks", "dataset", "kafka", "serving", "accuracy", "retrain", "paths")


class _StrictLoader(yaml.SafeLoader):
    """YAML's safe loader, which refuses a key that is there twice and reads `1e-3` as the number it is."""

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Any, Any]:
        seen: set[str] = set()
        for key, _ in node.value:
            if isinstance(key, yaml.ScalarNode) and key.value in seen:
                problem = f"the field '{key.value}' is there twice"
                raise yaml.constructor.ConstructorError(None, None, problem, key.start_mark)
            seen.add(key.value if isinstance(key, yaml.ScalarNode) else "")
        mapping: dict[Any, Any] = super().construct_mapping(node, deep)
        return mapping


_StrictLoader.add_implicit_resolver(
    "tag:yaml.org,2002:float", re.compile(r"[-+]?\d+(\.\d*)?[eE][-+]?\d+"), list("-+0123456789")
)


def read_document(path: str | os.PathLike[str], environment: Mapping[str, str] | None = None) -> dict[str, Any]:
    """The document in a spec file, as it is but for the settings that environment variables override.

    Raises:
      SpecError: the file cannot be read, or holds no document.
    """
    try:
        document = yaml.load(Path(path).read_text(encoding="utf-8"), Loader=_StrictLoader)  # noqa: S506
    except OSError as exc:
        raise SpecError(f"{path}: expected a spec file, got {exc.strerror}") from exc
    except (yaml.YAMLError, UnicodeDecodeError) as exc:
        raise SpecError(f"{path}: expected YAML, got {' '.join(str(exc).split())}") from exc
    if not isinstance(document, dict):
        raise SpecError(f"{path}: expected sections such as 'stream:' and 'window:', got {type(document).__name__}")
    _override_settings(document, os.environ if environment is None else environment)
    return document


def parse_as(kind: type[S], document: Mapping[str, Any], *, where: str) -> S:
    """Validates a document as a section or a whole spec.

    Raises:
      SpecError: one line for each problem.
    """
    try:
        return kind.model_validate(_tuples(document))
    except ValidationError as exc:
        lines = [_problem(error, document, kind) for error in exc.errors(include_url=False)]
        raise SpecError("\n".join(f"{where}: {line}" for line in lines)) from exc


def canonical(section: BaseModel) -> dict[str, Any]:
    """Canonical form: a field at its default is left out, so a new optional field changes no old fingerprint."""
    return section.model_dump(mode="python", exclude_defaults=True)


def fingerprint_of(form: Mapping[str, Any]) -> str:
    """Hash of a canonical form: 32 hexadecimal digits."""
    text = json.dumps(form, sort_keys=True, separators=(",", ":"), ensure_ascii=True)
    return hashlib.blake2b(text.encode(), digest_size=16).hexdigest()


def _override_settings(document: dict[str, Any], environment: Mapping[str, str]) -> None:
    for variable, text in environment.items():
        section, _, field = variable.removeprefix(_ENVIRONMENT_PREFIX).lower().partition("__")
        if variable.startswith(_ENVIRONMENT_PREFIX) and section in _SETTINGS and field:
            document[section] = (document.get(section) or {}) | {field: yaml.safe_load(text)}


def _tuples(value: Any) -> Any:
    # Strict mode takes only tuples for tuple fields; YAML and JSON have only lists.
    if isinstance(value, dict):
        return {name: _tuples(part) for name, part in value.items()}
    return tuple(_tuples(part) for part in value) if isinstance(value, list) else value


def _problem(error: Any, document: Any, kind: type[BaseModel]) -> str:
    path, value = "$", document
    for part in error["loc"]:
        if isinstance(value, dict) and part in value:
            path, value = f"{path}.{part}", value[part]
        elif isinstance(value, list) and isinstance(part, int) and part < len(value):
            path, value = f"{path}[{part}]", value[part]
        elif error["type"] == "missing" and part == error["loc"][-1]:
            path = f"{path}.{part}"
        # Any other part is the tag of a union, which the document does not have.
    if error["type"] == "missing":
        return f"{path}: expected a value, got none"
    if error["type"] == "extra_forbidden":
        close = get_close_matches(str(error["loc"][-1]), sorted(_field_names(kind)), n=1)
        return f"{path}: unknown field" + (f"; did you mean '{close[0]}'?" if close else "")
    message = error["msg"].removeprefix("Value error, ").replace("Input should be", "expected")
    # What stands in place of a secret's whereabouts may be the secret.
    hidden = isinstance(value, dict) or "security" in error["loc"]
    return f"{path}: {message[0].lower()}{message[1:]}" + ("" if hidden else f", got {value!r}")


def _field_names(model: type[BaseModel]) -> set[str]:
    definitions = model.model_json_schema().get("$defs", {}).values()
    return set(model.model_fields) | {name for part in definitions for name in part.get("properties", {})}
