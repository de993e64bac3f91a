"""Classes of windows or texts: their shares and the model's confidence in the order of arrival, and the newest ones."""

from __future__ import annotations

from collections import Counter, OrderedDict, deque
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

BIN = 50
"""So many predictions are a point of the charts, ..."""
BINS = 120
"""... of which so many are kept."""
NEWEST = 15
MOST_LABELS = 8
"""As many as there are colours; further ones are added up."""
TEXTS = 500
TEXT_CHARACTERS = 200


@dataclass(slots=True)
class _Bin:
    """Some predictions, one after the other."""

    labels: Counter[str] = field(default_factory=Counter)
    confidence: float = 0.0
    count: int = 0


class ClassView:
    """The classes that are predicted."""

    def __init__(self) -> None:
        self._count = 0
        self._bins: deque[_Bin] = deque(maxlen=BINS)
        self._newest: deque[dict[str, Any]] = deque(maxlen=NEWEST)
        self._texts: OrderedDict[str, str] = OrderedDict()

    def text(self, origin: str, text: str) -> None:
        """Takes the beginning of a document, which its prediction may be about."""
        self._texts[origin] = text[:TEXT_CHARACTERS]
        if len(self._texts) > TEXTS:
            self._texts.popitem(last=False)

    def classify(self, prediction: Mapping[str, Any]) -> None:
        """Takes a prediction, as its record says it.

        Raises:
          KeyError, TypeError, ValueError: it is of another form.
        """
        label, scores, model = prediction["label"], prediction["scores"], prediction["model"]
        confidence = float(scores[label])
        place = {name: prediction[name] for name in ("key", "origin", "origin_ms", "time_ms") if name in prediction}
        said = {"label": label, "confidence": confidence, "version": model["version"], "role": prediction["role"]}
        if self._count % BIN == 0:
            self._bins.append(_Bin())
        self._count += 1
        newest = self._bins[-1]
        newest.labels[label] += 1
        newest.confidence += confidence
        newest.count += 1
        self._newest.append(place | said)

    def document(self) -> dict[str, Any]:
        """What is shown: `shares` has for each label its share of each bin, `upto` where a bin ends, counted."""
        totals = sum((bin_.labels for bin_ in self._bins), Counter[str]())
        labels = [label for label, _ in totals.most_common(MOST_LABELS)]
        first = self._count - sum(bin_.count for bin_ in self._bins)
        upto = [first := first + bin_.count for bin_ in self._bins]
        return {
            "labels": [
                {
                    "label": label,
                    "count": totals[label],
                    "shares": [bin_.labels[label] / bin_.count for bin_ in self._bins],
                }
                for label in labels
            ],
            "others": [1 - sum(bin_.labels[label] for label in labels) / bin_.count for bin_ in self._bins]
            if len(totals) > len(labels)
            else None,
            "upto": upto,
            "confidence": [bin_.confidence / bin_.count for bin_ in self._bins],
            "newest": [self._with_text(one) for one in reversed(self._newest)],
        }

    def _with_text(self, one: Mapping[str, Any]) -> dict[str, Any]:
        text = self._texts.get(one.get("origin", ""))
        return dict(one) if text is None else {**one, "text": text}
