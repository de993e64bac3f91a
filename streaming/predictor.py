"""From windows to predictions: request batches across keys and partitions, and what the answers mean."""

from __future__ import annotations

import logging
import random
import time
from collections.abc import Mapping, Sequence
from threading import Event as StopFlag
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from pipelines.kernels.windowing import Windowing, Windows, window_digests
from schemas.errors import ServingUnavailable
from schemas.prediction import ModelVersion, Prediction
from schemas.spec import Spec

logger = logging.getLogger(__name__)

MAX_BACKOFF_S = 5.0


class Client(Protocol):
    """What a predictor needs of `ServingClient`."""

    model: str

    def predict(self, inputs: Mapping[str, NDArray[Any]]) -> tuple[dict[str, NDArray[Any]], int]:
        """The outputs by name, and the version that made them."""
        ...


class Predictor:
    """Predicts windows with a served model.

    Args:
      spec: the stream.
      windowing: its kernels.
      client: the model.
      patience_s: how long to keep trying while the server is away, in seconds.
      stopping: ends the trying.
    """

    def __init__(
        self,
        spec: Spec,
        windowing: Windowing,
        client: Client,
        *,
        patience_s: float = 0.0,
        stopping: StopFlag | None = None,
    ) -> None:
        self._windowing, self._client = windowing, client
        self._patience_s, self._stopping = patience_s, stopping or StopFlag()
        self._max_batch = spec.serving.max_batch
        self._fingerprint = spec.window_fingerprint
        features = spec.stream.features
        self._targets = [index for index, feature in enumerate(features) if feature.role == "target"]
        self._carried = [index for index, feature in enumerate(features) if feature.calendar is None]
        self._has_future = any(feature.role == "future" for feature in features)
        self._has_static = any(feature.role == "static" for feature in features)
        self._has_key = spec.model is not None and spec.model.scaling == "per_key"

    def predict(self, runs: Sequence[tuple[str, Windows]]) -> list[Prediction]:
        """Predicts all windows of some runs, each with its key.

        Raises:
          ServingUnavailable: the server stayed away.
          ServingError: it refuses the request.
        """
        if not runs:
            return []
        keys = [key for key, windows in runs for _ in range(len(windows))]
        origin_step = np.concatenate([windows.origin_step for _, windows in runs])
        values = np.concatenate([windows.past_values() for _, windows in runs])
        observed = np.concatenate([windows.past_observed() for _, windows in runs])
        future = self._windowing.future_values(origin_step, values)
        predictions: list[Prediction] = []
        for start in range(0, len(keys), self._max_batch):
            rows = slice(start, start + self._max_batch)
            predictions += self._predict_batch(
                keys[rows], origin_step[rows], values[rows], observed[rows], future[rows]
            )
        return predictions

    def inputs(
        self,
        keys: Sequence[str],
        values: NDArray[np.float32],
        observed: NDArray[np.bool_],
        future: NDArray[np.float32],
    ) -> dict[str, NDArray[Any]]:
        """The model's inputs by name, as they go into a request; axes are (window, time, feature)."""
        inputs: dict[str, NDArray[Any]] = {"past_values": values, "past_observed": observed}
        if self._has_future:
            inputs["future_values"] = future
        if self._has_static:
            inputs["static_values"] = self._windowing.static_values(values, observed)
        if self._has_key:
            inputs["key"] = np.array([key.encode() for key in keys], dtype=object)
        return inputs

    def _predict_batch(
        self,
        keys: Sequence[str],
        origin_step: NDArray[np.int64],
        values: NDArray[np.float32],
        observed: NDArray[np.bool_],
        future: NDArray[np.float32],
    ) -> list[Prediction]:
        outputs, version = self._ask(self.inputs(keys, values, observed, future))
        model = ModelVersion(self._client.model, version, self._fingerprint)
        last, last_step = last_observed(values[:, :, self._targets], observed[:, :, self._targets])
        grid = self._windowing.grid
        origin_ms = origin_step * grid.step_ms + grid.offset_ms
        last_ms = origin_ms[:, None] + (last_step - self._windowing.past) * grid.step_ms
        fractions = observed[:, :, self._carried].mean(axis=(1, 2)).round(6).tolist()
        digests = window_digests(values, observed, future)
        return [
            Prediction(
                key=key,
                origin_ms=int(origin_ms[row]),
                mean=outputs["mean"][row],
                last_observed=last[row],
                last_observed_ms=last_ms[row],
                observed_fraction=fractions[row],
                window_digest=digests[row],
                model=model,
            )
            for row, key in enumerate(keys)
        ]

    def _ask(self, inputs: dict[str, NDArray[Any]]) -> tuple[dict[str, NDArray[Any]], int]:
        give_up = time.monotonic() + self._patience_s
        backoff_s = 0.05
        while True:
            try:
                return self._client.predict(inputs)
            except ServingUnavailable as exc:
                if time.monotonic() >= give_up or self._stopping.is_set():
                    raise
                logger.warning("%s; trying again", exc)
            self._stopping.wait(backoff_s * random.uniform(0.5, 1.0))  # noqa: S311 (jitter)
            backoff_s = min(2 * backoff_s, MAX_BACKOFF_S)


def last_observed(
    values: NDArray[np.float32], observed: NDArray[np.bool_]
) -> tuple[NDArray[np.float32], NDArray[np.int64]]:
    """Each window's last really observed values.

    Args:
      values: float32 (window, time, feature).
      observed: bool, the same shape; each window and feature has an observed step.
    Returns:
      The values float32 (window, feature) and their steps int64 (window, feature), counted from the window's first.
    """
    length = observed.shape[1]
    step = length - 1 - np.argmax(observed[:, ::-1], axis=1)
    return np.take_along_axis(values, step[:, None], axis=1)[:, 0], step
