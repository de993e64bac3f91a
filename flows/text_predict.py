"""Predict for texts: what the served model says of a few documents."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np

from schemas.errors import InputError
from schemas.text_spec import TextSpec
from streaming.model_client import Answer
from streaming.serving_client import ServingClient


@dataclass(frozen=True, slots=True)
class TextPrediction:
    """The class of a document, and the score of every class; scores add up to 1."""

    text: str
    label: str
    scores: dict[str, float]


@dataclass(frozen=True, slots=True)
class TextPredictions:
    """What one version of a model said of some documents."""

    model: str
    version: int
    predictions: tuple[TextPrediction, ...]

    def document(self) -> dict[str, Any]:
        """As JSON values."""
        return asdict(self)

    def lines(self) -> list[str]:
        """In words: a line for each document, with the scores of its likeliest classes."""
        found = []
        for prediction in self.predictions:
            best = sorted(prediction.scores.items(), key=lambda item: -item[1])[:3]
            scores = ", ".join(f"{name} {score:.3f}" for name, score in best)
            text = " ".join(prediction.text.split())
            found.append(f"{prediction.label}  ({scores})  {text[:60]}{'…' if len(text) > 60 else ''}")
        return [*found, f"model {self.model} version {self.version}"]


def predict_texts(spec: TextSpec, texts: Sequence[str]) -> TextPredictions:
    """Asks the served model.

    Args:
      spec: the stream; its `serving` section says where the model is.
      texts: documents.
    Raises:
      InputError: there is none.
      ServingError: the server has not the model, or refuses.
    """
    if not texts:
        raise InputError("expected a text (--text, or a line of standard input for each), got none")
    with ServingClient(spec) as client:
        client.wait_until_available(0)
        answers = [client.ask(text_inputs(part))() for part in batches(texts, spec.serving.max_batch)]
        classes = client.classes(answers[-1].version)
    found = [
        TextPrediction(text, label.decode(), dict(zip(classes, map(float, scores), strict=True)))
        for part, answer in zip(batches(texts, spec.serving.max_batch), answers, strict=True)
        for text, label, scores in zip(part, *_outputs(answer), strict=True)
    ]
    return TextPredictions(spec.model_name, answers[-1].version, tuple(found))


def text_inputs(texts: Sequence[str]) -> dict[str, Any]:
    """The model's input for some documents."""
    return {"text": np.array([text.encode() for text in texts], np.object_)}


def _outputs(answer: Answer) -> tuple[Any, Any]:
    return answer.outputs["label"], answer.outputs["scores"]


def batches(texts: Sequence[str], size: int) -> list[Sequence[str]]:
    """The texts in parts of at most `size`."""
    return [texts[start : start + size] for start in range(0, len(texts), size)]
