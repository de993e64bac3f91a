"""What is trained."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field

from schemas.section import Count, Section


class LstmModel(Section):
    """Stacked LSTM over segments of the past with a direct head for all horizon steps."""

    family: Literal["lstm"]
    units: Count = 64
    layers: Count = 1
    segment: Count = 24
    """Steps that make one token of the recurrence; 1 takes every step by itself."""
    dropout: Annotated[float, Field(ge=0, lt=1)] = 0.0
    scaling: Literal["shared", "per_key", "window"] = "shared"
    """Whose mean and deviation normalise a value: the train split's, the key's own in it, or the window's own."""
