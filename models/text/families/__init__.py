"""The families of networks on tokens by the name that a spec gives them.

A family is a function of its section of the spec and a batch of embedded texts. It returns float (batch, number): what
the head makes logits of. How far a text is padded changes nothing. With `portable` it uses only operations that every
device has; its weights are the same, in the same order, either way. `bigrams` is no network: it is a branch of
`models.text.classifier` by itself.
"""

from __future__ import annotations

from typing import Any, Protocol

from models.text.encoded import EncodedText
from models.text.families import attention, cnn, hierarchical, recurrent


class TextFamily(Protocol):
    """How a family is built into a model."""

    def __call__(self, options: Any, text: EncodedText, *, portable: bool) -> Any:
        """Builds the family's part of the graph."""


TEXT_FAMILIES: dict[str, TextFamily] = {
    "attention": attention.build,
    "cnn": cnn.build,
    "hierarchical": hierarchical.build,
    "lstm": recurrent.build,
    "rnn": recurrent.build,
}
