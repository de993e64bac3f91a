"""What is trained, and how."""

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


class Training(Section):
    """How the model is fitted."""

    loss: Literal["mse", "mae", "huber"] = "mse"
    learning_rate: Annotated[float, Field(gt=0)] = 1e-3
    clip_norm: Annotated[float, Field(gt=0)] = 1.0
    batch_size: Count = 256
    epochs: Count = 30
    patience: Count = 4
    """Epochs without a better validation loss before training stops and the best weights come back."""
    seed: int = 0
