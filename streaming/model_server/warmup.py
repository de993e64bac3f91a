"""Warm-up: the requests saved with a model are run before it is available.

They lie in `assets.extra/tf_serving_warmup_requests`, a TFRecord file of PredictionLogs, as for TensorFlow Serving.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import tensorflow as tf

from streaming.model_server.call import UNBOUNDED
from streaming.model_server.classifier import classify
from streaming.model_server.metrics import Metrics
from streaming.model_server.multi_inference import multi_inference
from streaming.model_server.predict import predict
from streaming.model_server.regressor import regress
from streaming.model_server.servable import Servable
from streaming.model_server.status import Code, StatusError, invalid_argument, status_of
from streaming.serving_protos import ModelSpec, PredictionLog

_log = logging.getLogger(__name__)

_FILE = Path("assets.extra", "tf_serving_warmup_requests")
_MAX_RECORDS = 1000


class _OnlyServable:
    """Stands for the core while one servable, which is not available yet, is warmed."""

    def __init__(self, servable: Servable) -> None:
        self._servable = servable

    @contextmanager
    def servable(self, spec: ModelSpec) -> Iterator[Servable]:  # noqa: ARG002
        """The servable, whatever name or version the record has."""
        yield self._servable


class Warmup:
    """Runs warm-up records."""

    def __init__(self, metrics: Metrics, iterations: int) -> None:
        """Runs each record `iterations` times."""
        self._metrics = metrics
        self._iterations = iterations

    def __call__(self, servable: Servable, path: Path) -> None:
        """Warms a servable with the records of its folder, if there are any.

        Raises:
          StatusError: a record cannot be read, there are too many, or its request fails.
        """
        file = path / _FILE
        if not file.exists():
            return
        started = time.perf_counter()
        error: StatusError | None = None
        records = 0
        try:
            for record in tf.compat.v1.io.tf_record_iterator(str(file)):
                records += 1
                if records > _MAX_RECORDS:
                    raise invalid_argument(f"Number of warmup records exceeds the maximum ({_MAX_RECORDS}): {file}")
                self._run(servable, record)
        except Exception as exc:
            cause = status_of(exc)
            error = StatusError(cause.code, f"warm-up record {records} of {_FILE}: {cause.message}")
            raise error from exc
        finally:
            labels = str(path), error.code.name if error else Code.OK.name
            self._metrics.warmup_latency.add(labels, (time.perf_counter() - started) * 1e6)
            self._metrics.warmup_records_read.add(labels, records)
        _log.info("Finished reading warmup data for model at %s. Number of warmup records read: %d", path, records)

    def _run(self, servable: Servable, record: bytes) -> None:
        log = PredictionLog.FromString(record)
        core = _OnlyServable(servable)
        kind = log.WhichOneof("log_type")
        runs: dict[str, Callable[..., object]] = {
            "predict_log": predict,
            "classify_log": classify,
            "regress_log": regress,
            "multi_inference_log": multi_inference,
        }
        if kind not in runs:
            raise StatusError(Code.UNIMPLEMENTED, f"Unsupported log_type for warmup: {kind}")
        for _ in range(self._iterations):
            runs[kind](core, getattr(log, kind).request, UNBOUNDED)
