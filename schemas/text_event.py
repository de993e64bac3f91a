"""Documents as JSON: the members that the spec names, and why something is no document."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, NamedTuple

import orjson

from schemas.event import BadEvent
from schemas.text_spec import TextSpec

MAX_DOCUMENT_BYTES = 1 << 20
"""A live event may be so large. To classify a much greater one takes longer than a request may, again and again."""


class TextEvent(NamedTuple):
    """A live document; `key` is None where the spec names none, or the event has none."""

    text: str
    key: str | None


class TextEventReader:
    """Reads the live documents of one stream. Whatever else they hold, a label too, is left alone."""

    def __init__(self, spec: TextSpec) -> None:
        self._text, self._key = spec.stream.text, spec.stream.key

    def read_json(self, payload: bytes | None) -> TextEvent:
        """Reads a document from the bytes of a JSON object.

        Raises:
          BadEvent: it is none, for the reason `decode`, `size`, `missing` or `type`.
        """
        if payload is None:
            raise BadEvent("decode", "expected a JSON object, got a null value (a tombstone)")
        if len(payload) > MAX_DOCUMENT_BYTES:
            raise BadEvent("size", f"expected at most {MAX_DOCUMENT_BYTES} bytes, got {len(payload)}")
        fields = json_object(payload)
        text = text_member(fields, self._text, empty=True)
        known = self._key is not None and fields.get(self._key) is not None
        return TextEvent(text, text_member(fields, self._key, empty=True) if known and self._key else None)


def json_object(record: bytes) -> Mapping[str, Any]:
    """The members of a JSON object.

    Raises:
      BadEvent: the bytes are none.
    """
    try:
        document = orjson.loads(record)
    except orjson.JSONDecodeError as exc:
        raise BadEvent("decode", f"expected a JSON object: {exc}") from exc
    if not isinstance(document, dict):
        raise BadEvent("decode", f"expected a JSON object, got {type(document).__name__}")
    return document


def text_member(fields: Mapping[str, Any], name: str, *, empty: bool = False) -> str:
    """A member that is a text, or an integer, which is taken as its digits.

    Args:
      fields: all members.
      name: the member's.
      empty: whether it may be empty.
    Raises:
      BadEvent: it is missing, or something else.
    """
    value = fields.get(name)
    if isinstance(value, int) and not isinstance(value, bool):
        return str(value)
    if value is None or (value == "" and not empty):
        raise BadEvent("missing", f"{name}: expected a text, got none")
    if not isinstance(value, str):
        raise BadEvent("type", f"{name}: expected a text, got {type(value).__name__}")
    return value
