"""A text classifier as a Keras model: from ids to logits, and what is beside the network of the spec's family."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import keras
from keras import layers, ops

from models.classes import LOGITS
from models.mixture import mixed_logits, outputs_of
from models.text.encoded import EncodedText
from models.text.families import TEXT_FAMILIES
from models.text.naive_bayes import NgramWeights
from schemas.errors import ModelError
from schemas.text_model_spec import Bigrams, BigramsModel, TextEnsembleModel
from schemas.text_spec import TextSpec

IDS = "ids"
NGRAMS = "ngrams"

NGRAM_BRANCH = "ngram_branch"
"""The layer's name."""

_EMBEDDING_RANGE = 0.25
_NGRAM_DROPOUT = 0.5
"""Share of a document's n-grams that training leaves out beside a network, so that the network has something to say."""


@dataclass(frozen=True, slots=True)
class Sizes:
    """What the data decides of a model's shape: how many ids, n-grams and classes there are."""

    tokens: int
    ngrams: int
    classes: int


class NgramBranch(keras.layers.Layer):  # type: ignore[misc]
    """Adds up the logits of a document's n-grams: indices int32 (batch, index) -> (batch, class).

    Args:
      ngrams: how many there are; index 0 is none.
      classes: how many logits each has.
      dropout: share of a document's n-grams that training leaves out.
    """

    def __init__(self, ngrams: int, classes: int, dropout: float = 0.0, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.shape, self.rate = (ngrams, classes), dropout

    def build(self, _: tuple[int | None, ...]) -> None:
        """Makes the weights."""
        self.table = self.add_weight(self.shape, "zeros", name="table")
        self.bias = self.add_weight(self.shape[1:], "zeros", name="bias")
        self.dropout = layers.Dropout(self.rate)

    def call(self, indices: Any, training: bool = False) -> Any:
        """The logits."""
        present = self.dropout(ops.cast(indices != 0, self.compute_dtype), training=training)
        found = ops.take(ops.cast(self.table, self.compute_dtype), indices, axis=0)
        return ops.sum(found * ops.expand_dims(present, -1), axis=1) + self.bias

    def take_over(self, weights: NgramWeights) -> None:
        """Starts from what `models.text.naive_bayes` has fitted."""
        self.table.assign(weights.table)
        self.bias.assign(weights.bias)


def bigrams_of(spec: TextSpec) -> Bigrams | None:
    """The options of the uni- and bigrams that a spec's model has, as a branch or by itself; of an ensemble all do."""
    model = spec.model
    for section in model.sections if isinstance(model, TextEnsembleModel) else (model,):
        found = section if section is None or isinstance(section, BigramsModel) else section.bigrams
        if found is not None:
            return found
    return None


def build_classifier(spec: TextSpec, sizes: Sizes, *, portable: bool = False) -> Any:
    """Builds a spec's model.

    Args:
      spec: with a model.
      sizes: of the data.
      portable: for a device that is not known yet; the weights are the same, in the same order, either way.
    Returns:
      A Keras model. Inputs by name: `ids` int32 (batch, token), or (batch, row, token) where the spec has rows, padded
      with 0; and where it has bigrams `ngrams` int32 (batch, index), as `models.text.ngrams` gives them. Output:
      `logits` float32 (batch, class).
    Raises:
      ModelError: the spec has no model.
    """
    options, bigrams = spec.model, bigrams_of(spec)
    if options is None:
        raise ModelError("$.model: expected a model to train, got none")
    if isinstance(options, TextEnsembleModel):
        return _build_ensemble(spec, options, sizes, portable=portable)
    inputs, logits = {}, []
    if bigrams is not None:
        inputs[NGRAMS] = keras.Input((None,), dtype="int32", name=NGRAMS)
        dropout = 0.0 if isinstance(options, BigramsModel) else _NGRAM_DROPOUT
        logits.append(NgramBranch(sizes.ngrams, sizes.classes, dropout, name=NGRAM_BRANCH)(inputs[NGRAMS]))
    if not isinstance(options, BigramsModel):
        rank = 1 if spec.text.rows is None else 2
        inputs[IDS] = keras.Input((None,) * rank, dtype="int32", name=IDS)
        # One more of each axis: so there is always one, and the texts' ends are seen in the same way in any batch.
        ids = ops.pad(inputs[IDS], ((0, 0), *((0, 1),) * rank))
        present = ids != 0
        initializer = keras.initializers.RandomUniform(-_EMBEDDING_RANGE, _EMBEDDING_RANGE)
        tokens = layers.Embedding(sizes.tokens, options.embedding, initializer)(ids)
        tokens = layers.Dropout(options.embedding_dropout)(tokens)
        tokens = ops.where(ops.expand_dims(present, -1), tokens, 0.0)
        encoded = EncodedText(tokens, present, spec.text.length)
        found = TEXT_FAMILIES[options.family](options, encoded, portable=portable)
        logits.append(layers.Dense(sizes.classes)(layers.Dropout(options.dropout)(found)))
    total = logits[0] if len(logits) == 1 else layers.Add()(logits)
    return keras.Model(inputs, {LOGITS: ops.cast(total, "float32")})


def _build_ensemble(spec: TextSpec, options: TextEnsembleModel, sizes: Sizes, *, portable: bool) -> Any:
    """The members beside each other, and the weighted mean of their shares."""
    members = [
        build_classifier(spec.model_copy(update={"model": section}), sizes, portable=portable)
        for section in options.sections
    ]
    shapes = {name: tensor.shape[1:] for member in members for name, tensor in member.input.items()}
    inputs = {name: keras.Input(shape, dtype="int32", name=name) for name, shape in shapes.items()}
    found = outputs_of(members, inputs)
    return keras.Model(inputs, {LOGITS: mixed_logits(options.weights, [each[LOGITS] for each in found])})
