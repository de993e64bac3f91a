"""From documents to predictions: request batches across partitions, and what the answers mean."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from itertools import accumulate, compress
from threading import Event as StopFlag
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from schemas.prediction import ModelVersion, Role
from schemas.text_prediction import TextPrediction
from schemas.text_spec import TextSpec
from streaming.beside import Beside, Panel
from streaming.model_client import Answer, ModelClient
from streaming.requests import Requests
from streaming.text_partition import Document
from streaming.traces import HEADER

REQUEST_BYTES = 256 << 10
"""A request ends before the document with which it would be longer, so that long ones do not outlast its deadline."""


class ClassifierClient(ModelClient, Protocol):
    """Asks one model that classifies texts."""

    def classes(self, version: int) -> tuple[str, ...]:
        """What the scores of a version are of, in their order."""
        ...


@dataclass(frozen=True, slots=True)
class _Texts:
    """Texts that are asked for together, as UTF-8; `documents` are all that there are, `places` those of the texts."""

    documents: Sequence[Document]
    places: Sequence[int]
    texts: list[bytes]

    def __len__(self) -> int:
        return len(self.texts)

    def part(self, rows: slice) -> _Texts:
        """Some of them."""
        return _Texts(self.documents, self.places[rows], self.texts[rows])

    def only(self, chosen: NDArray[np.bool_]) -> _Texts:
        """Those that are chosen."""
        return _Texts(self.documents, list(compress(self.places, chosen)), list(compress(self.texts, chosen)))

    def key_names(self) -> list[str]:
        """Each document's key, or where it is, if it has none."""
        found = (self.documents[place] for place in self.places)
        return [document.origin if document.event.key is None else document.event.key for document in found]

    def names(self) -> list[str]:
        """Where each document is."""
        return [self.documents[place].origin for place in self.places]

    def head(self, start: int, most: int) -> _Texts:
        """At most so many from `start` on, and of `REQUEST_BYTES`."""
        sizes = accumulate(len(text) for text in self.texts[start : start + most])
        fit = sum(size <= REQUEST_BYTES for size in sizes)
        return self.part(slice(start, start + max(fit, 1)))

    def plain(self) -> _Texts:
        """An empty text: every model takes that."""
        return _Texts(self.documents, self.places[:1], [b""])

    def inputs(self) -> dict[str, NDArray[Any]]:
        """As they go into a request."""
        return {"text": np.array(self.texts, np.object_)}


class TextPredictor:
    """Classifies documents with a model; see `streaming.predictor.Predictor` for the arguments."""

    def __init__(
        self,
        spec: TextSpec,
        client: ClassifierClient,
        *,
        patience_s: float = 0.0,
        stopping: StopFlag | None = None,
        on_answer: Callable[[int, float], None] = lambda _documents, _latency_ms: None,
        beside: Beside | None = None,
    ) -> None:
        self._client, self._fingerprint = client, spec.window_fingerprint
        self._classes: dict[int, tuple[str, ...]] = {}
        requests: Requests[_Texts] = Requests(
            spec.serving, client, patience_s=patience_s, stopping=stopping, on_answer=on_answer
        )
        self._panel = Panel(requests, beside, partial(Requests, spec.serving))

    def predict(self, documents: Sequence[Document], on_refused: Callable[[int, str], None]) -> list[TextPrediction]:
        """Classifies all documents; a key's predictions of one role are in their order.

        Args:
          documents: of any partitions.
          on_refused: is given the place of each document that the model does not take while it takes others, and what
            the server said.
        Raises:
          ServingUnavailable: the server stayed away.
          ServingError: it refuses us, or every document.
        """
        texts = _Texts(documents, range(len(documents)), [document.event.text.encode() for document in documents])
        predictions: list[TextPrediction] = []
        for part, answer, role in self._panel.ask(texts, lambda row, detail: on_refused(row.places[0], detail)):
            predictions += self._predictions([documents[place] for place in part.places], answer, role)
        return predictions

    def _predictions(self, documents: Sequence[Document], answer: Answer, role: Role) -> list[TextPrediction]:
        if (classes := self._classes.get(answer.version)) is None:
            classes = self._classes[answer.version] = self._client.classes(answer.version)
        model = ModelVersion(self._client.model, answer.version, self._fingerprint)
        latency_ms = round(answer.latency_ms, 3)
        rows = zip(documents, answer.outputs["label"], answer.outputs["scores"], strict=True)
        return [
            TextPrediction(
                origin=document.origin,
                key=document.event.key,
                record_key=document.record.key if document.event.key is None else document.event.key.encode(),
                record_ms=document.time_ms,
                label=label.decode(),
                classes=classes,
                scores=scores,
                model=model,
                role=role,
                latency_ms=latency_ms,
                traceparent=dict(document.record.headers).get(HEADER),
            )
            for document, label, scores in rows
        ]
