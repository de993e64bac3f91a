"""A trained text classifier as it is kept in its run's folder, and made again from it."""

from __future__ import annotations

import json
import os
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import tensorflow as tf
from numpy.typing import NDArray

from models import layout
from models.classes import LOGITS
from models.text.classifier import IDS, NGRAMS, Sizes, bigrams_of, build_classifier
from models.text.ngrams import NgramGraph
from schemas.errors import ModelError
from schemas.text_spec import TextSpec, parse_text_spec, token_count


@dataclass(frozen=True, slots=True)
class TextState:
    """What the data decides of a model beside its weights.

    `vocabulary`: the tokens with ids of their own; `classes`: their names; `bigrams` int64 (bigram,): the keys of those
    that count (models.text.ngrams), none where the model has no such branch.
    """

    vocabulary: tuple[str, ...]
    classes: tuple[str, ...]
    bigrams: NDArray[np.int64]

    def tokens(self, spec: TextSpec) -> int:
        """How many ids there are."""
        return token_count(spec.text, len(self.vocabulary))

    def build(self, spec: TextSpec, *, portable: bool = False) -> Any:
        """The Keras model of `models.text.classifier`, untrained."""
        tokens = self.tokens(spec)
        return build_classifier(spec, Sizes(tokens, tokens + len(self.bigrams), len(self.classes)), portable=portable)


class TextClassifier:
    """A model with what is before it: from ids to logits.

    Args:
      spec: with a model.
      state: what the data decides.
      model: as `TextState.build` gives it.
    """

    def __init__(self, spec: TextSpec, state: TextState, model: Any) -> None:
        self.spec, self.state, self.model = spec, state, model
        self.ngrams = None if bigrams_of(spec) is None else NgramGraph(state.tokens(spec), state.bigrams)
        # Traced once for batches of any shape.
        of_ids = tf.TensorSpec((None,) * (2 if spec.text.rows is None else 3), tf.int32)
        self._graph = tf.function(
            lambda ids: model(self.inputs(ids), training=False)[LOGITS], input_signature=(of_ids,), autograph=False
        )

    def inputs(self, ids: Any) -> dict[str, Any]:
        """What the model takes, of ids int32 (batch, token) or (batch, row, token): a function of tensors."""
        found = {IDS: ids} | ({} if self.ngrams is None else {NGRAMS: self.ngrams(ids)})
        return {name: found[name] for name in self.model.input}

    def logits(self, ids: Any) -> NDArray[np.float32]:
        """float32 (batch, class)."""
        found: NDArray[np.float32] = self._graph(ids).numpy()
        return found


def save(run: Path, state: TextState, model: Any) -> None:
    """Keeps a trained model in its run's folder, where `run.json` has its spec already."""
    document = {"vocabulary": state.vocabulary, "classes": state.classes}
    (run / layout.TEXT_STATE_FILE).write_text(json.dumps(document) + "\n", encoding="utf-8")
    np.save(run / layout.BIGRAMS_FILE, state.bigrams)
    # By a rename, so that weights are there whole or not at all.
    unfinished = run / f".unfinished-{layout.WEIGHTS_FILE}"
    model.save_weights(unfinished)
    unfinished.rename(run / layout.WEIGHTS_FILE)


def load(run: str | os.PathLike[str], *, portable: bool = False) -> TextClassifier:
    """The trained model of a run.

    Args:
      run: its folder.
      portable: see `models.text.classifier.build_classifier`.
    Raises:
      ModelError: the folder holds no trained model of texts.
    """
    folder = Path(run)
    try:
        spec = parse_text_spec(json.loads((folder / layout.RUN_FILE).read_bytes())["spec"], where=str(folder))
        document = json.loads((folder / layout.TEXT_STATE_FILE).read_bytes())
        bigrams = np.load(folder / layout.BIGRAMS_FILE)
        state = TextState(tuple(document["vocabulary"]), tuple(document["classes"]), bigrams)
        model = state.build(spec, portable=portable)
        model.load_weights(folder / layout.WEIGHTS_FILE)
    except (OSError, ValueError, KeyError, TypeError) as exc:
        raise ModelError(f"{folder}: expected the folder of a complete run, with its model: {exc}") from exc
    return TextClassifier(spec, state, model)
