"""Verify: proves on a user's own data that training and live predictions see the same windows, bit for bit.

It compares the two ends, not the kernel with itself: the tensors as the training reader delivers them (files, Beam,
blocks, TFRecord, tf.data) and the tensors as they stand in the requests to the model server (JSON, live windows,
protobuf).
"""

from __future__ import annotations

import hashlib
import tempfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from kafka import KafkaConsumer, TopicPartition
from numpy.typing import NDArray

from flows.history import History
from pipelines.kernels.windowing import Windowing, window_digests
from schemas.avro_prediction import read_prediction
from schemas.dataset import DatasetFolder
from schemas.errors import BrokerError
from schemas.event import EventReader
from schemas.spec import Spec
from schemas.text_spec import TextSpec
from schemas.units import ms_to_iso
from streaming.model_client import Answer, Arrays, Waiting
from streaming.partition import Partition
from streaming.predictor import Predictor
from streaming.serving_client import predict_request
from streaming.tensors import decode_tensor
from streaming.topics import broker_errors, connect

Window = dict[str, NDArray[Any]]
Place = tuple[str, int]
"""Key and origin, epoch milliseconds."""

_BATCH = 1024
_STAGE_RECORDS = 2_000


@dataclass(frozen=True, slots=True)
class Parity:
    """What a comparison found; `first_difference` says where, in words."""

    windows: int
    equal: int
    different: int
    only_batch: int
    only_live: int
    first_difference: str | None

    @property
    def holds(self) -> bool:
        """Whether both sides have the same windows, with the same bits, and at least one."""
        return self.windows > 0 and self.equal == self.windows

    def lines(self) -> list[str]:
        """The result in words."""
        verdict = "equal, bit for bit" if self.holds else "NOT equal" if self.windows else "no windows to compare"
        lines = [f"{self.windows} windows, {self.equal} equal: {verdict}"]
        if self.first_difference:
            lines.append(
                f"{self.different} different, {self.only_batch} only in batch, {self.only_live} only live; "
                f"the first: {self.first_difference}"
            )
        return lines


def verify_inputs(spec: Spec, inputs: Sequence[str]) -> Parity:
    """Takes the same files through the batch path and the live path, and compares every origin's tensors.

    Args:
      spec: the stream.
      inputs: files or patterns.
    Raises:
      InputError: a file cannot be used.
    """
    from pipelines.ingest import ingest

    with tempfile.TemporaryDirectory(prefix="tidegauge-verify-") as workdir:
        dataset = Path(workdir, "dataset")
        ingest(spec, inputs=inputs, output=str(dataset), all_origins=True)
        return verify_dataset(spec, inputs, DatasetFolder(dataset))


def verify_dataset(spec: Spec, inputs: Sequence[str], folder: DatasetFolder) -> Parity:
    """Compares a dataset of all origins with what the live path makes of the files that it was made of."""
    return compare(lambda: training_windows(folder), live_windows(spec, inputs))


def training_windows(folder: DatasetFolder) -> Iterator[tuple[Place, Window]]:
    """Each window of a dataset as the training reader delivers it: the model's inputs by name."""
    from models.reader import windows

    for split in folder.manifest.splits:
        for batch in windows(folder, split, batch_size=_BATCH).as_numpy_iterator():
            for row, (key, origin_ms) in enumerate(zip(batch["key"], batch["origin_ms"], strict=True)):
                yield (
                    (key.decode(), int(origin_ms)),
                    {name: batch[name][row] for name in batch if name.startswith(("past_", "future_", "static_"))},
                )


def live_windows(spec: Spec, inputs: Sequence[str]) -> Iterator[tuple[Place, Window]]:
    """Each window of the files as the live path would put it into a request, with the files as the topic."""
    history = History.read(spec, inputs)
    windowing, recorder = Windowing(spec), _Recorder(spec.model_name)
    predictor = Predictor(spec, windowing, recorder)
    partition = Partition(
        spec, windowing, EventReader(spec), name="replay[0]", partitions=1, start_offset=0, live_from=0
    )
    records: list[_Record] = []
    for offset, payload in enumerate(history.payloads(spec)):
        records.append(_Record(offset, payload))
        if len(records) == _STAGE_RECORDS or offset == len(history) - 1:
            stage = partition.stage(records, now_ms=int(history.time_ms[-1]))
            partition.apply(stage)
            records = []
            for prediction in predictor.predict(stage.windows):
                yield (prediction.key, prediction.origin_ms), recorder.windows.pop(0)


def compare(batch: Callable[[], Iterator[tuple[Place, Window]]], live: Iterator[tuple[Place, Window]]) -> Parity:
    """Compares windows by place, name, dtype, shape and bytes.

    Args:
      batch: yields the windows of one side; called again to show a difference, since only hashes are kept.
      live: the windows of the other side.
    """
    expected = {place: _hash(window) for place, window in batch()}
    equal = different = only_live = 0
    first: str | None = None
    for place, found in live:
        wanted = expected.pop(place, None)
        if wanted is None:
            only_live += 1
            first = first or f"{_named(place)}: live has a window that batch has not, or has it twice"
        elif wanted != _hash(found):
            different += 1
            first = first or f"{_named(place)}: {_difference(dict(batch())[place], found)}"
        else:
            equal += 1
    if expected:
        first = first or f"{_named(min(expected))}: batch has a window that live has not"
    return Parity(equal + different + only_live + len(expected), equal, different, len(expected), only_live, first)


def verify_predictions(spec: Spec, folder: DatasetFolder, topic: str, *, after_ms: int | None = None) -> Parity:
    """Compares the digests in a predictions topic with the windows of a dataset, origin for origin.

    Only origins that the dataset holds count: a dataset with splits leaves out those without a whole horizon.

    Args:
      spec: the stream.
      folder: the dataset.
      topic: the predictions'.
      after_ms: only origins after this time count; all when left out.
    Raises:
      DatasetError: the dataset is of other windows than the spec's.
      BrokerError: the topic cannot be read.
    """
    folder.require_windows_of(spec)
    windowing = Windowing(spec)
    digests = {}
    for (key, origin_ms), window in training_windows(folder):
        if after_ms is not None and origin_ms <= after_ms:
            continue
        future = window.get("future_values", np.empty((windowing.horizon, 0), np.float32))
        arrays = (window["past_values"], window["past_observed"], future)
        digests[key, origin_ms] = {"window_digest": np.array(window_digests(*(a[None] for a in arrays)))}
    found = (
        ((value["key"], value["origin_ms"]), {"window_digest": np.array([value["window_digest"]])})
        for value in read_predictions(spec, topic)
        if (value["key"], value["origin_ms"]) in digests and value["role"] != "shadow"
    )
    return compare(lambda: iter(digests.items()), found)


def read_predictions(spec: Spec | TextSpec, topic: str) -> Iterator[dict[str, Any]]:
    """The committed predictions of a topic, to the end that it has now.

    Raises:
      BrokerError: the topic does not exist or cannot be read.
    """
    return (read_prediction(record.value, dict(record.headers)) for record in read_topic(spec, topic))


def read_topic(spec: Spec | TextSpec, topic: str, starts: Mapping[int, int] | None = None) -> Iterator[Any]:
    """The committed records of a topic, to the end that it has now.

    Args:
      spec: whose brokers.
      topic: its name.
      starts: offsets to begin at, by partition; the first ones there are when left out.
    Raises:
      BrokerError: the topic does not exist or cannot be read.
    """
    consumer = connect(
        KafkaConsumer,
        spec.kafka,
        isolation_level="read_committed",
        enable_auto_commit=False,
        allow_auto_create_topics=False,
    )
    try:
        with broker_errors(topic):
            numbers = consumer.partitions_for_topic(topic)
            if not numbers:
                raise BrokerError(f"{topic}: expected a topic, got none of this name")
            parts = [TopicPartition(topic, number) for number in sorted(numbers)]
            consumer.assign(parts)
            ends, begins = consumer.end_offsets(parts), consumer.beginning_offsets(parts)
            for tp, begin in begins.items():
                consumer.seek(tp, max(begin, (starts or {}).get(tp.partition, 0)))
            while any(consumer.position(tp) < end for tp, end in ends.items()):
                for records in consumer.poll(timeout_ms=500).values():
                    yield from records
    finally:
        consumer.close(timeout_ms=1_000)


@dataclass(slots=True)
class _Record:
    """An event as the consumer would have got it from Kafka."""

    offset: int
    value: bytes | None
    timestamp: int = 0
    key: bytes | None = None
    headers: Sequence[tuple[str, bytes]] = ()


class _Recorder:
    """Stands where the model server would, and keeps the tensors that stand in each request's bytes."""

    def __init__(self, model: str) -> None:
        self.model = model
        self.windows: list[Window] = []

    def ask(self, inputs: Arrays) -> Waiting:
        """Records the windows and answers with nothing."""
        sent = type(request := predict_request(self.model, inputs)).FromString(request.SerializeToString())
        tensors = {name: decode_tensor(tensor) for name, tensor in sent.inputs.items() if name != "key"}
        count = len(tensors["past_values"])
        self.windows += [{name: array[row] for name, array in tensors.items()} for row in range(count)]
        nothing = {
            "mean": np.empty((count, 0, 0), np.float32),
            "label": np.full(count, b"", np.object_),
            "scores": np.empty((count, 0), np.float32),
        }
        return lambda: Answer(nothing, 0, 0.0)


def _hash(window: Window) -> bytes:
    state = hashlib.blake2b(digest_size=16)
    for name in sorted(window):
        array = window[name]
        state.update(f"{name} {array.dtype} {array.shape};".encode())
        state.update(array.tobytes())
    return state.digest()


def _difference(wanted: Window, found: Window) -> str:
    if wanted.keys() != found.keys():
        return f"batch has the inputs {sorted(wanted)}, live {sorted(found)}"
    for name in sorted(wanted):
        left, right = wanted[name], found[name]
        if (left.dtype, left.shape) != (right.dtype, right.shape):
            return f"{name}: batch has {left.dtype}{list(left.shape)}, live {right.dtype}{list(right.shape)}"
        if left.tobytes() != right.tobytes():
            unequal = (left != right) & ~((left != left) & (right != right))
            where = tuple(int(index) for index in np.argwhere(unequal)[0]) if unequal.any() else ()
            return f"{name}{list(where)}: batch has {left[where]!r}, live {right[where]!r}"
    return "the batch side reads differently when it is read again"


def _named(place: Place) -> str:
    return f"key {place[0]}, origin {ms_to_iso(place[1])}"
