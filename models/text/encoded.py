"""What a family sees of a batch of texts."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True, slots=True)
class EncodedText:
    """Embedded tokens, symbolic while a model is built.

    `tokens` float (batch, token, width), 0 where there is none; `present` bool (batch, token), True where there is one.
    With rows they are (batch, row, token, width) and (batch, row, token). There is at least one token, present or not,
    and behind the last of each text or row there is one that is not present. `length`: no text has more tokens.
    """

    tokens: Any
    present: Any
    length: int
