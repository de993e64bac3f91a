"""Counters and histograms under TensorFlow Serving's names, in the text format of Prometheus.

Names are paths, `/tensorflow/serving/request_count`, as TensorFlow registers them; in the text every character that
Prometheus does not allow becomes a colon, as TensorFlow Serving writes them.
"""

from __future__ import annotations

import bisect
import re
import threading
import time
from collections.abc import Sequence
from dataclasses import dataclass, field

_NOT_IN_NAMES = re.compile(r"[^a-zA-Z0-9_]")
_ESCAPES = str.maketrans({"\\": r"\\", '"': r"\"", "\n": r"\n"})

LATENCY_BUCKETS_US = tuple(10 * 1.8**power for power in range(33))
QUEUE_BUCKETS_US = tuple(100 * 1.2**power for power in range(52))
COUNT_BUCKETS = tuple(float(2**power) for power in range(15))

Labels = tuple[str, ...]


class Counter:
    """A sum that only grows, for each combination of label values."""

    kind = "counter"

    def __init__(self, name: str, description: str, labels: Sequence[str]) -> None:
        self.name = name
        self.description = description
        self.labels = tuple(labels)
        self._cells: dict[Labels, float] = {}
        self._lock = threading.Lock()

    def add(self, labels: Labels, amount: float = 1.0) -> None:
        """Counts."""
        with self._lock:
            self._cells[labels] = self._cells.get(labels, 0.0) + amount

    def total(self) -> float:
        """The sum over all labels."""
        with self._lock:
            return sum(self._cells.values())

    def lines(self, prefix: str) -> list[str]:
        """Samples as text."""
        with self._lock:
            cells = sorted(self._cells.items())
        return [f"{prefix}{_labelled(self.labels, labels)} {_number(value)}" for labels, value in cells]


class Gauge(Counter):
    """A value that is set."""

    kind = "gauge"

    def set(self, labels: Labels, value: float) -> None:
        """Sets."""
        with self._lock:
            self._cells[labels] = value


@dataclass(slots=True)
class _Distribution:
    counts: list[int]
    sum: float = 0.0


class Histogram:
    """How values are distributed over buckets, for each combination of label values."""

    kind = "histogram"

    def __init__(self, name: str, description: str, labels: Sequence[str], bounds: Sequence[float]) -> None:
        self.name = name
        self.description = description
        self.labels = tuple(labels)
        self._bounds = tuple(bounds)
        self._cells: dict[Labels, _Distribution] = {}
        self._lock = threading.Lock()

    def add(self, labels: Labels, value: float) -> None:
        """Counts one value."""
        # A value on a bound belongs to the bucket above it, as in TensorFlow.
        place = bisect.bisect_right(self._bounds, value)
        with self._lock:
            cell = self._cells.get(labels)
            if cell is None:
                cell = self._cells[labels] = _Distribution([0] * (len(self._bounds) + 1))
            cell.counts[place] += 1
            cell.sum += value

    def total(self) -> float:
        """The number of values over all labels."""
        with self._lock:
            return float(sum(sum(cell.counts) for cell in self._cells.values()))

    def lines(self, prefix: str) -> list[str]:
        """Samples as text: cumulative buckets, sum and count."""
        with self._lock:
            cells = [(labels, list(cell.counts), cell.sum) for labels, cell in sorted(self._cells.items())]
        lines: list[str] = []
        for labels, counts, total in cells:
            running = 0
            for bound, count in zip((*self._bounds, float("inf")), counts, strict=True):
                running += count
                le = "+Inf" if bound == float("inf") else _number(bound)
                lines.append(f"{prefix}_bucket{_labelled((*self.labels, 'le'), (*labels, le))} {running}")
            lines.append(f"{prefix}_sum{_labelled(self.labels, labels)} {_number(total)}")
            lines.append(f"{prefix}_count{_labelled(self.labels, labels)} {running}")
        return lines


def _serving(name: str) -> str:
    return f"/tensorflow/serving/{name}"


@dataclass
class Metrics:
    """Everything that the server measures. Latencies are in microseconds."""

    request_count: Counter = field(
        default_factory=lambda: Counter(
            _serving("request_count"), "The total number of requests.", ("model_name", "status")
        )
    )
    request_latency: Histogram = field(
        default_factory=lambda: Histogram(
            _serving("request_latency"),
            "Distribution of wall time (in microseconds) taken by successful requests.",
            ("model_name", "API", "entrypoint"),
            LATENCY_BUCKETS_US,
        )
    )
    runtime_latency: Histogram = field(
        default_factory=lambda: Histogram(
            _serving("runtime_latency"),
            "Distribution of wall time (in microseconds) for the model's runtime.",
            ("model_name", "API", "runtime"),
            LATENCY_BUCKETS_US,
        )
    )
    request_example_counts: Histogram = field(
        default_factory=lambda: Histogram(
            _serving("request_example_counts"),
            "The number of tensorflow.Examples per request.",
            ("model",),
            COUNT_BUCKETS,
        )
    )
    request_example_count_total: Counter = field(
        default_factory=lambda: Counter(
            _serving("request_example_count_total"), "The total number of tensorflow.Examples.", ("model",)
        )
    )
    warmup_latency: Histogram = field(
        default_factory=lambda: Histogram(
            _serving("model_warmup_latency"),
            "Latency of model warmup in microseconds.",
            ("model_path", "status"),
            LATENCY_BUCKETS_US,
        )
    )
    warmup_records_read: Counter = field(
        default_factory=lambda: Counter(
            _serving("model_warmup_records_read"), "The warmup records read.", ("model_path", "status")
        )
    )
    load_attempts: Counter = field(
        default_factory=lambda: Counter(
            "/tensorflow/cc/saved_model/load_attempt_count",
            "The number of times a SavedModel was loaded.",
            ("model_path", "status"),
        )
    )
    load_latency: Counter = field(
        default_factory=lambda: Counter(
            "/tensorflow/cc/saved_model/load_latency", "Microseconds spent on loading SavedModels.", ("model_path",)
        )
    )
    queuing_latency: Histogram = field(
        default_factory=lambda: Histogram(
            _serving("batching_session/queuing_latency"),
            "Distribution of wall time spent (in microseconds) in queuing.",
            ("thread_pool_name",),
            QUEUE_BUCKETS_US,
        )
    )
    input_batch_size: Histogram = field(
        default_factory=lambda: Histogram(
            _serving("batching_session/input_batch_size"),
            "Distribution of request batch sizes.",
            ("thread_pool_name",),
            COUNT_BUCKETS,
        )
    )
    processed_batch_size: Histogram = field(
        default_factory=lambda: Histogram(
            _serving("batching_session/processed_batch_size"),
            "Distribution of processed batch sizes.",
            ("thread_pool_name",),
            COUNT_BUCKETS,
        )
    )
    padding_size: Histogram = field(
        default_factory=lambda: Histogram(
            _serving("batching_session/padding_size"),
            "Distribution of rows that fill a batch up to an allowed size.",
            ("thread_pool_name",),
            COUNT_BUCKETS,
        )
    )
    wrapped_run_count: Counter = field(
        default_factory=lambda: Counter(
            _serving("batching_session/wrapped_run_count"),
            "The number of batches that were run.",
            ("thread_pool_name",),
        )
    )
    process_start_time: Gauge = field(
        default_factory=lambda: Gauge(
            "process_start_time_seconds", "Start time of the process, seconds of the epoch.", ()
        )
    )

    def __post_init__(self) -> None:
        self.process_start_time.set((), time.time())

    def text(self) -> str:
        """All metrics as Prometheus reads them."""
        lines: list[str] = []
        for metric in self._all():
            name = _NOT_IN_NAMES.sub(":", metric.name)
            lines += [f"# HELP {name} {metric.description}", f"# TYPE {name} {metric.kind}", *metric.lines(name)]
        return "\n".join(lines) + "\n"

    def totals(self) -> dict[str, float]:
        """The sum of each counter, and the number of values in each histogram, by name."""
        return {metric.name: metric.total() for metric in self._all()}

    def _all(self) -> list[Counter | Histogram]:
        return list(vars(self).values())


def _labelled(names: Sequence[str], values: Sequence[str]) -> str:
    if not names:
        return ""
    return "{" + ",".join(f'{n}="{v.translate(_ESCAPES)}"' for n, v in zip(names, values, strict=True)) + "}"


def _number(value: float) -> str:
    return str(int(value)) if value.is_integer() else repr(value)
