"""From windows to predictions: request batches across keys and partitions, and what the answers mean."""

from __future__ import annotations

import logging
import random
import time
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from threading import Event as StopFlag
from typing import Any

import numpy as np
from numpy.typing import NDArray

from pipelines.kernels.windowing import Windowing, Windows, window_digests
from schemas.errors import ServingError, ServingRefused, ServingTooLarge, ServingUnavailable
from schemas.prediction import ModelVersion, Prediction
from schemas.spec import Spec
from streaming.model_client import Answer, ModelClient, Waiting

logger = logging.getLogger(__name__)

FIRST_BACKOFF_S = 0.05
MAX_BACKOFF_S = 5.0


@dataclass(frozen=True, slots=True)
class RefusedWindow:
    """A window that the model does not take; `run` is the place of its run among those that were to be predicted."""

    run: int
    key: str
    origin_ms: int
    inputs: dict[str, NDArray[Any]]
    detail: str


@dataclass(frozen=True, slots=True)
class _Batch:
    """Windows that are predicted together, row by row; arrays have the axes (window, time, feature)."""

    runs: list[int]
    keys: list[str]
    origin_step: NDArray[np.int64]
    values: NDArray[np.float32]
    observed: NDArray[np.bool_]
    future: NDArray[np.float32]

    def __len__(self) -> int:
        return len(self.keys)

    def part(self, rows: slice) -> _Batch:
        """Some of the windows."""
        return _Batch(
            self.runs[rows],
            self.keys[rows],
            self.origin_step[rows],
            self.values[rows],
            self.observed[rows],
            self.future[rows],
        )

    def plain(self) -> _Batch:
        """The first window with zeros for values, all of them observed: every model takes that."""
        row = self.part(slice(1))
        zeros = {name: np.zeros_like(getattr(row, name)) for name in ("values", "future")}
        return replace(row, observed=np.ones_like(row.observed), **zeros)


class Predictor:
    """Predicts windows with a model.

    Several requests are under way at once; what they give is put back in order. A batch that is too large for the
    server is halved, and so are all that follow. One that the model refuses is halved until the window that it refuses
    stands alone.

    Args:
      spec: the stream.
      windowing: its kernels.
      client: the model.
      patience_s: how long to keep trying while the server is away, in seconds.
      stopping: ends the trying.
      on_answer: is told of each answered request its windows and how long it took, in milliseconds.
    """

    def __init__(
        self,
        spec: Spec,
        windowing: Windowing,
        client: ModelClient,
        *,
        patience_s: float = 0.0,
        stopping: StopFlag | None = None,
        on_answer: Callable[[int, float], None] = lambda _windows, _latency_ms: None,
    ) -> None:
        self._windowing, self._client = windowing, client
        self._patience_s, self._stopping = patience_s, stopping or StopFlag()
        self._on_answer = on_answer
        self._max_batch, self._max_in_flight = spec.serving.max_batch, spec.serving.max_in_flight
        self._fingerprint = spec.window_fingerprint
        features = spec.stream.features
        self._targets = [index for index, feature in enumerate(features) if feature.role == "target"]
        self._carried = [index for index, feature in enumerate(features) if feature.calendar is None]
        self._has_future = any(feature.role == "future" for feature in features)
        self._has_static = any(feature.role == "static" for feature in features)
        self._has_first_step = spec.model is not None and spec.model.on_absolute_steps
        self._has_key = spec.model is not None and spec.model.scaling == "per_key"

    def predict(
        self, runs: Sequence[tuple[str, Windows]], on_refused: Callable[[RefusedWindow], None] | None = None
    ) -> list[Prediction]:
        """Predicts all windows of some runs, each with its key, in their order.

        Args:
          runs: keys and windows.
          on_refused: is given each window that the model does not take while it takes others; without it that is an
            error.
        Raises:
          ServingUnavailable: the server stayed away.
          ServingError: it refuses us, or every window.
        """
        if not runs:
            return []
        batch = self._batch(runs)
        predictions: list[Prediction] = []
        under_way: deque[tuple[_Batch, Waiting]] = deque()
        start = 0
        while under_way or start < len(batch):
            while start < len(batch) and len(under_way) < self._max_in_flight:
                part = batch.part(slice(start, start + self._max_batch))
                under_way.append((part, self._client.ask(self._inputs(part))))
                start += len(part)
            for part, answer in self._settle(*under_way.popleft(), on_refused):
                predictions += self._predictions(part, answer)
        return predictions

    def _batch(self, runs: Sequence[tuple[str, Windows]]) -> _Batch:
        origin_step = np.concatenate([windows.origin_step for _, windows in runs])
        values = np.concatenate([windows.past_values() for _, windows in runs])
        return _Batch(
            runs=[run for run, (_, windows) in enumerate(runs) for _ in range(len(windows))],
            keys=[key for key, windows in runs for _ in range(len(windows))],
            origin_step=origin_step,
            values=values,
            observed=np.concatenate([windows.past_observed() for _, windows in runs]),
            future=self._windowing.future_values(origin_step, values),
        )

    def _settle(
        self, batch: _Batch, waiting: Waiting, on_refused: Callable[[RefusedWindow], None] | None
    ) -> Iterator[tuple[_Batch, Answer]]:
        """The answers to a batch, in order: one, or several where it had to be cut."""
        try:
            answer = self._patiently(batch, waiting)
        except ServingRefused as refusal:
            if isinstance(refusal, ServingTooLarge):
                self._max_batch = max(1, len(batch) // 2)
            if len(batch) == 1:
                yield from self._settle_alone(batch, refusal, on_refused)
                return
            middle = len(batch) // 2
            for part in (batch.part(slice(middle)), batch.part(slice(middle, None))):
                yield from self._settle(part, self._client.ask(self._inputs(part)), on_refused)
        else:
            self._on_answer(len(batch), answer.latency_ms)
            yield batch, answer

    def _settle_alone(
        self, window: _Batch, refusal: ServingRefused, on_refused: Callable[[RefusedWindow], None] | None
    ) -> Iterator[tuple[_Batch, Answer]]:
        """Makes sure that it is the window: the model takes one of zeros, and refuses this one again."""
        if on_refused is None:
            raise refusal
        plain, inputs = window.plain(), self._inputs(window)
        try:
            self._patiently(plain, self._client.ask(self._inputs(plain)))
        except ServingRefused as exc:
            raise ServingError(f"the model takes no window, not even one of zeros: {exc}") from refusal
        try:
            yield window, self._patiently(window, self._client.ask(inputs))
        except ServingRefused as exc:
            [origin_ms] = self._origin_ms(window).tolist()
            on_refused(RefusedWindow(window.runs[0], window.keys[0], origin_ms, inputs, str(exc)))

    def _patiently(self, batch: _Batch, waiting: Waiting) -> Answer:
        """Waits for an answer; asks again, less and less often, while the server is away."""
        give_up = time.monotonic() + self._patience_s
        backoff_s = FIRST_BACKOFF_S
        while True:
            try:
                return waiting()
            except ServingUnavailable as exc:
                if time.monotonic() >= give_up or self._stopping.is_set():
                    raise
                logger.info("%s; trying again", exc)
            self._stopping.wait(backoff_s * random.uniform(0.5, 1.0))  # noqa: S311 (jitter)
            backoff_s = min(2 * backoff_s, MAX_BACKOFF_S)
            waiting = self._client.ask(self._inputs(batch))

    def _inputs(self, batch: _Batch) -> dict[str, NDArray[Any]]:
        return self.inputs(batch.keys, batch.origin_step, batch.values, batch.observed, batch.future)

    def _origin_ms(self, batch: _Batch) -> NDArray[np.int64]:
        grid = self._windowing.grid
        return batch.origin_step * grid.step_ms + grid.offset_ms

    def inputs(
        self,
        keys: Sequence[str],
        origin_step: NDArray[np.int64],
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
        if self._has_first_step:
            inputs["first_step"] = origin_step - self._windowing.past
        if self._has_key:
            inputs["key"] = np.array([key.encode() for key in keys], dtype=object)
        return inputs

    def _predictions(self, batch: _Batch, answer: Answer) -> list[Prediction]:
        values, observed = batch.values, batch.observed
        model = ModelVersion(self._client.model, answer.version, self._fingerprint)
        quantiles, levels = answer.outputs.get("quantiles"), answer.levels
        if quantiles is None or quantiles.shape[-1] != len(levels):
            quantiles, levels = np.zeros((*answer.outputs["mean"].shape, 0), np.float32), ()
        last, last_step = last_observed(values[:, :, self._targets], observed[:, :, self._targets])
        origin_ms = self._origin_ms(batch)
        last_ms = origin_ms[:, None] + (last_step - self._windowing.past) * self._windowing.grid.step_ms
        fractions = observed[:, :, self._carried].mean(axis=(1, 2)).round(6).tolist()
        digests = window_digests(values, observed, batch.future)
        mean, latency_ms = answer.outputs["mean"], round(answer.latency_ms, 3)
        return [
            Prediction(
                key=key,
                origin_ms=int(origin_ms[row]),
                mean=mean[row],
                last_observed=last[row],
                last_observed_ms=last_ms[row],
                observed_fraction=fractions[row],
                window_digest=digests[row],
                model=model,
                levels=levels,
                quantiles=quantiles[row],
                latency_ms=latency_ms,
            )
            for row, key in enumerate(batch.keys)
        ]


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
