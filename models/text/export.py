"""Exports a text classifier as a SavedModel that takes raw text: it tokenises within the graph.

Signatures, all with a free batch dimension:

| name | takes | gives |
|---|---|---|
| `serving_default` | `text` string (batch,), UTF-8 | `label` string (batch,), `scores` float32 (batch, class) |
| `serving_examples` | `examples` string (batch,): serialised `tf.Example`s with the feature `text`, bytes | the same |
| `describe` | `probe` int32 (batch,), any numbers | `window_fingerprint` and `spec_json`, string (batch,); `classes` |

`classes` string (batch, class) says what the scores are of, in their order. Scores add up to 1.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from typing import Any

import numpy as np
import tensorflow as tf

from models.classes import LOGITS
from models.saved_model import DEFAULT_SIGNATURE, EXAMPLES_SIGNATURE, traced, tracked, write_saved_model
from models.text.graph import TextGraph
from models.text.stored import TextClassifier

_WARMUP_TEXTS = ("", "One sentence, to warm up.", "Et encore: été, ﬁn, ﾊﾟ!")  # each takes another way through the graph
_WARMUP_BATCHES = (1, 32)


def export_classifier(classifier: TextClassifier, *, to: str | os.PathLike[str], lineage: Mapping[str, Any]) -> None:
    """Writes a SavedModel, whole or not at all.

    Args:
      classifier: with a model that was built `portable`.
      to: the folder to write; it must not exist.
      lineage: JSON values for the export's record: what it was made of, and how good it is.
    """
    graph = TextGraph(classifier.spec.text, classifier.state.vocabulary)
    classes = tf.constant(classifier.state.classes)

    def predict(text: tf.Tensor) -> dict[str, tf.Tensor]:
        ids = graph.padded(text)["ids"]
        logits = classifier.model(classifier.inputs(ids), training=False)[LOGITS]
        return {"label": tf.gather(classes, tf.argmax(logits, axis=1)), "scores": tf.nn.softmax(logits)}

    def predict_examples(examples: tf.Tensor) -> dict[str, tf.Tensor]:
        return predict(tf.io.parse_example(examples, {"text": tf.io.FixedLenFeature((), tf.string)})["text"])

    resources = [graph] if classifier.ngrams is None else [graph, classifier.ngrams]
    write_saved_model(
        classifier.spec,
        tracked(classifier.model.variables, resources),
        {
            DEFAULT_SIGNATURE: traced(predict, text=((), "string")),
            EXAMPLES_SIGNATURE: traced(predict_examples, examples=((), "string")),
        },
        to=to,
        warmup=[
            {"text": np.resize(np.array([text.encode() for text in _WARMUP_TEXTS], object), batch)}
            for batch in _WARMUP_BATCHES
        ],
        record={"classes": list(classifier.state.classes), **lineage},
        described={"classes": classifier.state.classes},
    )
