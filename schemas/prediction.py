"""Predictions: the records of the predictions topic. Those of classes are in `schemas.class_prediction`.

One record for each (key, origin, model, role). Its Kafka key is the stream's key and its record time the origin, so
that a predictions topic reads like the input topic does. Consumers must read with `isolation_level=read_committed`,
which is not Kafka's default, to see each prediction once.

The value, as JSON:

    {"schema_version": 1, "stream": "nyc-weather", "key": "EWR", "origin_ms": 1380000000000, "step_ms": 3600000,
     "targets": [{"name": "temp", "unit": "degF", "mean": [61.2, ...],
                  "quantiles": {"0.05": [57.9, ...], "0.95": [64.8, ...]},
                  "last_observed": 60.1, "last_observed_ms": 1379996400000}],
     "observed_fraction": 0.93, "window_digest": "7420dc900d16df8e",
     "model": {"name": "nyc-weather", "version": 3, "window_fingerprint": "8545bd..."}, "role": "champion",
     "latency_ms": 18.204}

`mean[i]` is the forecast for the step that starts at origin_ms + i * step_ms. `quantiles` has the values that the
target is expected to stay below with the probabilities that name them; it is left out where the model has none.
`last_observed_ms` is the start of the step in which the target was last really observed within the window;
`observed_fraction` the share of the window's measured cells that were; `latency_ms` how long the model server took for
the request of which the window was part, or null. A reader must ignore members that it does not know; a new one never
changes the meaning of an old one.
"""

from __future__ import annotations

import hashlib
from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from functools import lru_cache
from itertools import groupby
from operator import attrgetter
from typing import Any, Generic, Literal, TypeVar

import numpy as np
import orjson
from numpy.typing import NDArray

from schemas.spec import Spec
from schemas.units import ms_to_iso

SCHEMA_VERSION = 1
EVENT_TYPE = "tidegauge.prediction.v1"

Role = Literal["champion", "canary", "shadow", "provisional"]


@dataclass(frozen=True, slots=True)
class ModelVersion:
    """The model that answered."""

    name: str
    version: int
    window_fingerprint: str


@dataclass(frozen=True, slots=True, kw_only=True)
class WindowPrediction:
    """What a model says of one window, be it a forecast or a class.

    `latency_ms` is how long the request took that it came with; `traceparent` the trace context of the event that
    closed the window.
    """

    key: str
    origin_ms: int
    observed_fraction: float
    window_digest: str
    model: ModelVersion
    role: Role = "champion"
    latency_ms: float | None = None
    traceparent: bytes | None = None

    @property
    def record_key(self) -> bytes:
        """The key of its record."""
        return self.key.encode()

    @property
    def record_ms(self) -> int:
        """The time of its record, epoch milliseconds: the origin."""
        return self.origin_ms

    def id(self, stream: str) -> str:
        """blake2b-128 of what the prediction is about. The version is not part: a re-issue has the same id."""
        return prediction_id(stream, self.key, self.origin_ms, self.model.name, self.role)


@dataclass(frozen=True, slots=True, kw_only=True)
class Prediction(WindowPrediction):
    """One forecast; `mean` is float32 (horizon, target), `last_observed` float32 (target,) with its times in ms.

    `quantiles` float32 (horizon, target, level) are of the model's `levels`, which rise; both are empty where it has
    none.
    """

    mean: NDArray[np.float32]
    last_observed: NDArray[np.float32]
    last_observed_ms: NDArray[np.int64]
    levels: tuple[float, ...]
    quantiles: NDArray[np.float32]


def prediction_id(stream: str, key: str, origin_ms: int, model: str, role: str) -> str:
    """The id of a prediction: 32 hexadecimal digits."""
    subject = orjson.dumps([stream, key, origin_ms, model, role])
    return hashlib.blake2b(subject, digest_size=16).hexdigest()


def level_name(level: float) -> str:
    """How a quantile's level is written: `0.05`."""
    return f"{level:g}"


def document_id(stream: str, source: str, model: str, role: str) -> str:
    """The id of the prediction of a document, which its source names: 32 hexadecimal digits."""
    return hashlib.blake2b(orjson.dumps([stream, source, model, role]), digest_size=16).hexdigest()


P = TypeVar("P")
W = TypeVar("W", bound=WindowPrediction)


class RecordWriter(ABC, Generic[P]):
    """Turns the predictions of one stream, or what is said of them, into record values, here JSON, and headers."""

    content_type = "application/json"
    event_type: str

    def __init__(self, stream: str) -> None:
        self._stream = stream
        self._headers = EventHeaders(self.event_type, stream, self.content_type)

    def values(self, predictions: Sequence[P]) -> list[bytes]:
        """The value of each one's record: JSON, floats with the fewest digits that give the same float32."""
        return [orjson.dumps(self.document(one), option=orjson.OPT_SERIALIZE_NUMPY) for one in predictions]

    def value(self, prediction: P) -> bytes:
        """The value of one's record."""
        [value] = self.values([prediction])
        return value

    @abstractmethod
    def document(self, prediction: P, /) -> dict[str, Any]:
        """What the value says; numbers of numpy among it."""

    @abstractmethod
    def headers(self, prediction: P, /) -> list[tuple[str, bytes]]:
        """CloudEvents headers (binary mode), and the model's name and version."""


class WindowPredictionWriter(RecordWriter[W]):
    """Writes the predictions of windows of one stream."""

    def __init__(self, spec: Spec) -> None:
        super().__init__(spec.stream.name)
        self._step_ms = spec.grid.step

    def document(self, prediction: W) -> dict[str, Any]:
        """What the value says; numbers of numpy among it."""
        return {
            "schema_version": SCHEMA_VERSION,
            "stream": self._stream,
            "key": prediction.key,
            "origin_ms": prediction.origin_ms,
            "step_ms": self._step_ms,
            **self._said(prediction),
            "observed_fraction": prediction.observed_fraction,
            "window_digest": prediction.window_digest,
            "model": asdict(prediction.model),
            "role": prediction.role,
            "latency_ms": prediction.latency_ms,
        }

    @abstractmethod
    def _said(self, prediction: W) -> dict[str, Any]:
        """What the model says of the window."""

    def headers(self, prediction: W) -> list[tuple[str, bytes]]:
        """CloudEvents headers (binary mode), and the model's name and version."""
        return self._headers.of(
            prediction.id(self._stream),
            time_ms=prediction.origin_ms,
            subject=prediction.key,
            model=prediction.model,
            traceparent=prediction.traceparent,
        )


class PredictionWriter(WindowPredictionWriter[Prediction]):
    """Writes the forecasts of one stream."""

    event_type = EVENT_TYPE

    def __init__(self, spec: Spec) -> None:
        super().__init__(spec)
        self._targets = [(target.name, target.unit) for target in spec.targets]
        self._form = (
            b'{"schema_version":%d,"stream":%b,"key":%%b,"origin_ms":%%d,"step_ms":%d,"targets":[%%b],'
            b'"observed_fraction":%%b,"window_digest":"%%b","model":%%b,"role":"%%b","latency_ms":%%b}'
        ) % (SCHEMA_VERSION, _literal(spec.stream.name), spec.grid.step)

    def values(self, predictions: Sequence[Prediction]) -> list[bytes]:
        """The value of each one's record: JSON, floats with the fewest digits that give the same float32."""
        found: list[bytes] = []
        for levels, same in groupby(predictions, attrgetter("levels")):
            found += self._json(levels, list(same))
        return found

    def _json(self, levels: tuple[float, ...], predictions: Sequence[Prediction]) -> list[bytes]:
        """The JSON of predictions with the same levels: a number array of all of them is written at once."""
        mean = np.stack([p.mean for p in predictions])
        quantiles = np.stack([p.quantiles for p in predictions])
        last = np.stack([p.last_observed for p in predictions])
        last_ms = np.stack([p.last_observed_ms for p in predictions])
        targets: list[list[bytes]] = []
        for index, form in enumerate(self._target_forms(levels)):
            columns = [_rows(mean[:, :, index])]
            columns += [_rows(quantiles[:, :, index, level]) for level in range(len(levels))]
            columns += [_cells(last[:, index]), _cells(last_ms[:, index])]
            targets.append([form % cells for cells in zip(*columns, strict=True)])
        fractions = _cells([p.observed_fraction for p in predictions])
        latencies = _cells([p.latency_ms for p in predictions])
        form = self._form
        return [
            form
            % (
                _text(p.key),
                p.origin_ms,
                b",".join(parts),
                fraction,
                p.window_digest.encode(),
                _model(p.model),
                p.role.encode(),
                latency,
            )
            for p, fraction, latency, *parts in zip(predictions, fractions, latencies, *targets, strict=True)
        ]

    def _target_forms(self, levels: tuple[float, ...]) -> list[bytes]:
        """What a target's part looks like, a `%b` in the place of each array and number."""
        quantiles = b",".join(b'"%b":[%%b]' % level_name(level).encode() for level in levels)
        quantiles = b'"quantiles":{%b},' % quantiles if levels else b""
        return [
            b'{"name":%b,"unit":%b,"mean":[%%b],%b"last_observed":%%b,"last_observed_ms":%%b}'
            % (_literal(name), _literal(unit), quantiles)
            for name, unit in self._targets
        ]

    def _said(self, prediction: Prediction) -> dict[str, Any]:
        targets = [
            {
                "name": name,
                "unit": unit,
                "mean": np.ascontiguousarray(prediction.mean[:, index]),
                **self._quantiles(prediction, index),
                "last_observed": prediction.last_observed[index],
                "last_observed_ms": prediction.last_observed_ms[index],
            }
            for index, (name, unit) in enumerate(self._targets)
        ]
        return {"targets": targets}

    @staticmethod
    def _quantiles(prediction: Prediction, index: int) -> dict[str, dict[str, NDArray[np.float32]]]:
        if not prediction.levels:
            return {}
        by_level = np.ascontiguousarray(prediction.quantiles[:, index].T)
        return {"quantiles": dict(zip(map(level_name, prediction.levels), by_level, strict=True))}


def _rows(numbers: NDArray[np.float32]) -> list[bytes]:
    """The JSON of each row of an array (row, column), without its brackets; at least one of each."""
    text = orjson.dumps(np.ascontiguousarray(numbers), option=orjson.OPT_SERIALIZE_NUMPY)
    return text[2:-2].split(b"],[")


def _cells(numbers: Any) -> list[bytes]:
    """The JSON of each number of a list or array, or of none; at least one."""
    if isinstance(numbers, np.ndarray):
        numbers = np.ascontiguousarray(numbers)
    return orjson.dumps(numbers, option=orjson.OPT_SERIALIZE_NUMPY)[1:-1].split(b",")


_text = lru_cache(maxsize=16_384)(orjson.dumps)
"""A text as JSON."""


def _literal(text: str) -> bytes:
    """A text as JSON, in a form."""
    return orjson.dumps(text).replace(b"%", b"%%")


@lru_cache(maxsize=16)
def _model(model: ModelVersion) -> bytes:
    return orjson.dumps(asdict(model))


class EventHeaders:
    """CloudEvents headers (binary mode) of one stream's predictions, with the model's name and version."""

    def __init__(self, event_type: str, stream: str, content_type: str) -> None:
        self._version = ("ce_specversion", b"1.0")
        self._source = ("ce_source", f"/tidegauge/{stream}".encode())
        self._type = ("ce_type", event_type.encode())
        self._content_type = ("content-type", content_type.encode())

    def of(
        self, identity: str, *, time_ms: int, subject: str, model: ModelVersion, traceparent: bytes | None
    ) -> list[tuple[str, bytes]]:
        """The headers of one prediction."""
        trace = [("traceparent", traceparent)] if traceparent else []
        return [
            self._version,
            ("ce_id", identity.encode()),
            self._source,
            self._type,
            ("ce_time", _iso(time_ms)),
            ("ce_subject", subject.encode()),
            self._content_type,
            ("model_name", model.name.encode()),
            ("model_version", str(model.version).encode()),
            *trace,
        ]


@lru_cache(maxsize=1_024)  # the keys of a stream have most origins in common
def _iso(time_ms: int) -> bytes:
    return ms_to_iso(time_ms).encode()
