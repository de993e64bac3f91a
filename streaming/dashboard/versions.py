"""Which versions of the model answer, since when, and how fast: from the predictions alone."""

from __future__ import annotations

from collections import deque
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

MOST_VERSIONS = 24
LATENCIES = 1_000
"""The latency is of so many of the newest predictions."""


@dataclass(slots=True)
class _Answers:
    """The predictions of one version in one role; the times are of records: origins, or of documents their own."""

    first_ms: int
    last_ms: int
    count: int = 0


class VersionView:
    """The versions of one stream's model."""

    def __init__(self) -> None:
        self._answers: dict[tuple[int, str], _Answers] = {}
        self._latency_ms: deque[float] = deque(maxlen=LATENCIES)

    def add(self, prediction: Mapping[str, Any], record_ms: int) -> None:
        """Takes a prediction, as its record says it, and the record's time.

        Raises:
          KeyError, TypeError, ValueError: it is of another form.
        """
        place = int(prediction["model"]["version"]), str(prediction["role"])
        answers = self._answers.setdefault(place, _Answers(record_ms, record_ms))
        answers.first_ms, answers.last_ms = min(answers.first_ms, record_ms), max(answers.last_ms, record_ms)
        answers.count += 1
        if prediction.get("latency_ms") is not None:
            self._latency_ms.append(float(prediction["latency_ms"]))
        for old in sorted(self._answers)[:-MOST_VERSIONS]:
            del self._answers[old]

    def __len__(self) -> int:
        return len(self._answers)

    def latency_ms(self) -> tuple[float, float] | None:
        """The median and the 99th percentile of the newest requests to the model server; None where there are none."""
        if not self._latency_ms:
            return None
        median, high = np.percentile(self._latency_ms, (50, 99))
        return float(median), float(high)

    def document(self) -> list[dict[str, Any]]:
        """The versions in their roles, the newest first."""
        return [
            {"version": version, "role": role, "first_ms": answers.first_ms, "last_ms": answers.last_ms}
            | {"predictions": answers.count}
            for (version, role), answers in sorted(self._answers.items(), reverse=True)
        ]
