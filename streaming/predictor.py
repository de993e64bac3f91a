"""From windows to predictions: request batches across keys and partitions, and what the answers mean."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from functools import partial
from itertools import compress
from threading import Event as StopFlag
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from pipelines.kernels.windowing import Windowing, Windows, window_digests
from schemas.class_prediction import ClassPrediction
from schemas.model_spec import HierarchicalModel
from schemas.prediction import ModelVersion, Prediction, Role, WindowPrediction
from schemas.spec import Spec
from streaming.beside import Beside, Panel
from streaming.model_client import Answer, ModelClient, SignatureClient
from streaming.requests import Asks, Requests
from streaming.summaries import FromSummaries, SummaryStore

PORTION_BYTES = 8 * 2**20
"""So much of the windows is cut out of their steps, and asked for, at a time: of long ones there can be gigabytes."""

_About = dict[str, Any]
"""What forecasts and classes of a window have in common, by field."""


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
    as_inputs: Callable[..., dict[str, NDArray[Any]]]

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
            self.as_inputs,
        )

    def head(self, start: int, most: int) -> _Batch:
        """At most so many from `start` on."""
        return self.part(slice(start, start + most))

    def only(self, chosen: NDArray[np.bool_]) -> _Batch:
        """The windows that are chosen."""
        return _Batch(
            list(compress(self.runs, chosen)),
            list(compress(self.keys, chosen)),
            self.origin_step[chosen],
            self.values[chosen],
            self.observed[chosen],
            self.future[chosen],
            self.as_inputs,
        )

    def key_names(self) -> list[str]:
        """Each window's key."""
        return self.keys

    def names(self) -> list[str]:
        """Each window's key and origin."""
        return [f"{key}@{step}" for key, step in zip(self.keys, self.origin_step.tolist(), strict=True)]

    def inputs(self) -> dict[str, NDArray[Any]]:
        """As they go into a request."""
        return self.as_inputs(self.keys, self.origin_step, self.values, self.observed, self.future)

    def plain(self) -> _Batch:
        """The first window with zeros for values, all of them observed: every model takes that."""
        row = self.part(slice(1))
        zeros = {name: np.zeros_like(getattr(row, name)) for name in ("values", "future")}
        return replace(row, observed=np.ones_like(row.observed), **zeros)


class _Run(NamedTuple):
    """Windows of a key, and the place of their run among those that are to be predicted."""

    place: int
    key: str
    windows: Windows


def _portions(runs: Iterable[tuple[str, Windows]], most: int) -> Iterator[list[_Run]]:
    """The runs in portions of `most` windows, the last one may have fewer; runs are cut where they must be."""
    portion: list[_Run] = []
    room = most
    for place, (key, windows) in enumerate(runs):
        while len(windows) >= room:
            portion.append(_Run(place, key, replace(windows, end=windows.end[:room])))
            yield portion
            windows, portion, room = replace(windows, end=windows.end[room:]), [], most
        if len(windows):
            portion.append(_Run(place, key, windows))
            room -= len(windows)
    if portion:
        yield portion


class Predictor:
    """Predicts windows with a model.

    Args:
      spec: the stream.
      windowing: its kernels.
      client: the model.
      patience_s: how long to keep trying while the server is away, in seconds.
      stopping: ends the trying.
      on_answer: is told of each answered request its windows and how long it took, in milliseconds.
      beside: what is asked beside the version that is to answer.
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
        beside: Beside | None = None,
    ) -> None:
        self._windowing, self._client = windowing, client
        how: dict[str, Any] = {"patience_s": patience_s, "stopping": stopping, "on_answer": on_answer}
        asking: Callable[..., Asks[_Batch]] = partial(Requests, spec.serving)
        self._whole = champion = asking(client, **how)
        if isinstance(spec.model, HierarchicalModel) and spec.model.cacheable and isinstance(client, SignatureClient):
            asking = partial(FromSummaries, spec, spec.model, SummaryStore())
            champion = asking(client, **how)
        self._panel = Panel(champion, beside, asking)
        self._fingerprint, self._classes = spec.window_fingerprint, spec.classes
        features = spec.stream.inputs
        self._most = max(PORTION_BYTES // (spec.window.past * len(features) * 5), 1)  # float32 and a mask
        self._targets = [index for index, feature in enumerate(features) if feature.role == "target"]
        self._carried = [index for index, feature in enumerate(features) if feature.calendar is None]
        self._has_future = any(feature.role == "future" for feature in features)
        self._has_static = any(feature.role == "static" for feature in features)
        self._has_first_step = spec.model is not None and spec.model.on_absolute_steps
        self._has_key = spec.model is not None and spec.model.scaling == "per_key"

    def predict(
        self,
        runs: Sequence[tuple[str, Windows]],
        on_refused: Callable[[RefusedWindow], None] | None = None,
        *,
        provisional: bool = False,
    ) -> list[WindowPrediction]:
        """Predicts all windows of some runs, each with its key; a key's predictions of one role are in their order.

        Args:
          runs: keys and windows.
          on_refused: is given each window that the model does not take while it takes others; without it that is an
            error.
          provisional: the predictions have this role, and only the version that is to answer is asked.
        Raises:
          ServingUnavailable: the server stayed away.
          ServingError: it refuses us, or every window.
        """
        refused = None if on_refused is None else self._telling(on_refused)
        predictions: list[WindowPrediction] = []
        for portion in _portions(runs, self._most):
            batch = self._batch(portion)
            if provisional:  # whole: summaries are of steps that do not change any more
                for part, answer in self._whole.ask(batch, refused):
                    predictions += self._predictions(part, answer, "provisional")
            else:
                for part, answer, role in self._panel.ask(batch, refused):
                    predictions += self._predictions(part, answer, role)
        return predictions

    def _telling(self, on_refused: Callable[[RefusedWindow], None]) -> Callable[[_Batch, str], None]:
        def refused(row: _Batch, detail: str) -> None:
            [origin_ms] = self._origin_ms(row).tolist()
            on_refused(RefusedWindow(row.runs[0], row.keys[0], origin_ms, row.inputs(), detail))

        return refused

    def _batch(self, portion: Sequence[_Run]) -> _Batch:
        origin_step = np.concatenate([run.windows.origin_step for run in portion])
        values = np.concatenate([run.windows.past_values() for run in portion])
        return _Batch(
            runs=[run.place for run in portion for _ in range(len(run.windows))],
            keys=[run.key for run in portion for _ in range(len(run.windows))],
            origin_step=origin_step,
            values=values,
            observed=np.concatenate([run.windows.past_observed() for run in portion]),
            future=self._windowing.future_values(origin_step, values),
            as_inputs=self.inputs,
        )

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

    def _predictions(self, batch: _Batch, answer: Answer, role: Role) -> list[WindowPrediction]:
        model = ModelVersion(self._client.model, answer.version, self._fingerprint)
        fractions = batch.observed[:, :, self._carried].mean(axis=(1, 2)).round(6).tolist()
        digests = window_digests(batch.values, batch.observed, batch.future)
        latency_ms = round(answer.latency_ms, 3)
        about = [
            {
                "key": key,
                "origin_ms": origin_ms,
                "observed_fraction": fraction,
                "window_digest": digest,
                "model": model,
                "role": role,
                "latency_ms": latency_ms,
            }
            for key, origin_ms, fraction, digest in zip(
                batch.keys, self._origin_ms(batch).tolist(), fractions, digests, strict=True
            )
        ]
        return self._classes_of(about, answer) if self._classes else self._forecasts_of(about, answer, batch)

    def _forecasts_of(self, about: Sequence[_About], answer: Answer, batch: _Batch) -> list[WindowPrediction]:
        mean, levels = answer.outputs["mean"], answer.levels
        quantiles = answer.outputs.get("quantiles")
        if quantiles is None or quantiles.shape[-1] != len(levels):
            quantiles, levels = np.zeros((*mean.shape, 0), np.float32), ()
        last, last_step = last_observed(batch.values[:, :, self._targets], batch.observed[:, :, self._targets])
        last_ms = self._origin_ms(batch)[:, None] + (last_step - self._windowing.past) * self._windowing.grid.step_ms
        return [
            Prediction(
                **told,
                mean=mean[row],
                last_observed=last[row],
                last_observed_ms=last_ms[row],
                levels=levels,
                quantiles=quantiles[row],
            )
            for row, told in enumerate(about)
        ]

    def _classes_of(self, about: Sequence[_About], answer: Answer) -> list[WindowPrediction]:
        rows = zip(about, answer.outputs["label"], answer.outputs["scores"], strict=True)
        return [
            ClassPrediction(**told, label=label.decode(), classes=self._classes, scores=scores)
            for told, label, scores in rows
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
