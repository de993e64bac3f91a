"""Hierarchical attention (Yang et al., 2016): words make rows, rows make the document; for long documents."""

from __future__ import annotations

from typing import Any

import keras
from keras import layers, ops

from models.layers.attention_pool import AttentionPool
from models.text.encoded import EncodedText
from schemas.text_model_spec import TextHierarchicalModel


def build(options: TextHierarchicalModel, text: EncodedText, *, portable: bool) -> Any:
    """Builds the family; see `models.text.families`."""

    def read(tokens: Any, present: Any) -> Any:
        layer = layers.GRU(options.units, return_sequences=True, use_cudnn=False if portable else "auto")
        return AttentionPool()(layers.Bidirectional(layer)(tokens, mask=present), present)[0]

    fold = FoldRows()
    rows = read(fold(text.tokens), fold(text.present))
    return read(UnfoldRows()(rows, text.present), ops.any(text.present, axis=-1))


class FoldRows(keras.layers.Layer):  # type: ignore[misc]
    """(batch, row, token, ...) -> (batch * row, token, ...)."""

    def call(self, parts: Any) -> Any:
        """Folds; of what is known of the shape only the last axis need be."""
        return ops.reshape(parts, (-1, ops.shape(parts)[2], *parts.shape[3:]))


class UnfoldRows(keras.layers.Layer):  # type: ignore[misc]
    """(batch * row, width) -> (batch, row, width), as many rows as `like` (batch, row, ...) has."""

    def __init__(self, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.supports_masking = True  # a mask that Keras hands on is that of the tokens, and not for the rows

    def compute_mask(self, *_: Any) -> None:
        """None: which rows there are, the caller says."""

    def call(self, rows: Any, like: Any) -> Any:
        """Unfolds."""
        return ops.reshape(rows, (-1, ops.shape(like)[1], rows.shape[-1]))
