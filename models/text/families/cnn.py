"""Convolutions of several widths, each at its greatest over the text (Kim, 2014)."""

from __future__ import annotations

from typing import Any

from keras import layers, ops

from models.text.encoded import EncodedText
from schemas.text_model_spec import TextCnnModel


def build(options: TextCnnModel, text: EncodedText, *, portable: bool) -> Any:  # noqa: ARG001
    """Builds the family; see `models.text.families`."""
    present = ops.expand_dims(text.present, -1)
    greatest = []
    for width in options.widths:
        found = layers.Conv1D(options.filters, width, padding="same", activation="relu")(text.tokens)
        # Never negative, so what is not present is not the greatest.
        greatest.append(ops.max(ops.where(present, found, 0.0), axis=1))
    return ops.concatenate(greatest, axis=-1)
