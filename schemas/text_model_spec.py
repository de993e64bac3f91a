"""What classifies texts."""

from __future__ import annotations

from functools import cached_property
from typing import Annotated, Any, Literal, Self

from pydantic import Field, TypeAdapter, model_validator

from schemas.section import Count, Section, Share

Dropout = Annotated[float, Field(ge=0, lt=1)]
Positive = Annotated[float, Field(gt=0)]


class Bigrams(Section):
    """Which uni- and bigrams of the train split count, and how strongly they may speak (Wang and Manning, 2012).

    The features are whether a token, or a pair of successive tokens, is in the document. Each is scaled by its
    naive-Bayes log-count ratio, and a logistic regression is fitted to them that a penalty holds near naive Bayes.
    """

    min_count: Count = 1
    """A bigram that is in fewer documents does not count."""
    size: Count = 200_000
    """At most so many bigrams: the most frequent."""
    smoothing: Positive = 1.0
    """Added to every count."""
    prior: Annotated[float, Field(ge=0)] = 0.1
    """The weight of every ratio that the penalty draws to."""
    penalties: Annotated[tuple[Positive, ...], Field(min_length=1)] = (1.0, 3.0, 10.0, 30.0)
    """Of weights away from the prior; the validation split chooses one."""


class BigramsModel(Bigrams):
    """The yardstick: a logistic regression on uni- and bigrams, without any descent."""

    family: Literal["bigrams"]


class NeuralTextModel(Section):
    """What all networks on tokens share."""

    embedding: Count = 128
    """Numbers that stand for a token."""
    dropout: Dropout = 0.5
    """Share of activations that training leaves out before the head."""
    embedding_dropout: Dropout = 0.0
    """Share of each token's numbers that training leaves out."""
    bigrams: Bigrams | None = None
    """A branch of uni- and bigrams whose logits are added to the network's."""


class TextCnnModel(NeuralTextModel):
    """Convolutions of several widths over the tokens, each at its greatest (Kim, 2014)."""

    family: Literal["cnn"]
    widths: Annotated[tuple[Count, ...], Field(min_length=1)] = (3, 4, 5)
    """Tokens that a convolution sees."""
    filters: Count = 100
    """Of each width."""


class RecurrentTextModel(NeuralTextModel):
    """What `rnn` and `lstm` share: layers that read the tokens one after the other."""

    units: Count = 64
    """Width of each layer, in each direction."""
    layers: Count = 1
    bidirectional: bool = True
    pooling: Literal["max", "attention"] = "max"
    """How the tokens' states become the document's: the greatest of each number, or their weighted mean."""


class TextRnnModel(RecurrentTextModel):
    """Gated recurrent units (Cho et al., 2014)."""

    family: Literal["rnn"]


class TextLstmModel(RecurrentTextModel):
    """Long short-term memory (Hochreiter and Schmidhuber, 1997)."""

    family: Literal["lstm"]


class TextAttentionModel(NeuralTextModel):
    """A Transformer encoder (Vaswani et al., 2017) over at most `text.length` tokens."""

    family: Literal["attention"]
    layers: Count = 1
    heads: Count = 4
    """They share the embedding's numbers, which must be a multiple of them."""

    @model_validator(mode="after")
    def _heads_fit(self) -> Self:
        if self.embedding % self.heads:
            raise ValueError(f"embedding ({self.embedding}) must be a multiple of heads ({self.heads})")
        return self


class TextHierarchicalModel(NeuralTextModel):
    """Attention over the words of each row, and over the rows (Yang et al., 2016); for long documents.

    The spec must have `text.rows`: sentences or chunks.
    """

    family: Literal["hierarchical"]
    units: Count = 50
    """Width of the recurrent layers over words and over rows, in each direction."""


SingleTextModel = Annotated[
    BigramsModel | TextCnnModel | TextRnnModel | TextLstmModel | TextAttentionModel | TextHierarchicalModel,
    Field(discriminator="family"),
]
"""A model that is no ensemble: one section for each family."""

_SINGLE: TypeAdapter[SingleTextModel] = TypeAdapter(SingleTextModel)


class TextEnsembleModel(Section):
    """Several models as one, the weighted mean of their scores; `tidegauge ensemble` makes one."""

    family: Literal["ensemble"]
    members: Annotated[tuple[dict[str, Any], ...], Field(min_length=1)]
    """The model section of each."""
    weights: tuple[Share, ...]
    """Of each, together 1."""

    @model_validator(mode="after")
    def _is_whole(self) -> Self:
        if len(self.weights) != len(self.sections) or abs(sum(self.weights) - 1) > 1e-6:
            raise ValueError(f"expected a weight for each of the {len(self.members)} members, together 1")
        return self

    @cached_property
    def sections(self) -> tuple[SingleTextModel, ...]:
        """The members."""
        return tuple(_SINGLE.validate_python(member) for member in self.members)


TextModel = Annotated[SingleTextModel | TextEnsembleModel, Field(discriminator="family")]
