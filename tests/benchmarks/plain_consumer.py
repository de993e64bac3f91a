"""What the live path is measured against: consumers that are written first, in kafka-python.

python -m tests.benchmarks.plain_consumer SPEC echo|predict

    echo       writes every event as it came to the predictions topic: what Kafka itself costs
    predict    keeps the last steps of each key, and calls Predict once for each event

Both read, write and commit with the consumer's own settings: a poll is a transaction, or, where the spec says
`at_least_once`, a flush and a commit.
"""

from __future__ import annotations

import sys
from collections import defaultdict, deque
from collections.abc import Callable, Iterator
from typing import Any

import grpc
import numpy as np
import orjson
from kafka import KafkaConsumer, KafkaProducer, TopicPartition
from kafka.structs import OffsetAndMetadata

from schemas.spec import Spec, load_spec
from streaming.commits import PRODUCER_SETTINGS
from streaming.serving_client import predict_request
from streaming.serving_protos import PredictionServiceStub
from streaming.tensors import decode_tensor
from streaming.topics import connect

Work = Callable[[Any], Iterator[bytes]]


def run(spec: Spec, work: Work) -> None:
    """Consumes from the beginning, until it is killed."""
    exactly_once = spec.kafka.delivery == "exactly_once"
    consumer = connect(
        KafkaConsumer,
        spec.kafka,
        group_id=spec.group,
        enable_auto_commit=False,
        auto_offset_reset="earliest",
        isolation_level="read_committed",
        max_poll_records=spec.kafka.max_poll_records,
    )
    identity = {"transactional_id": spec.group} if exactly_once else {}
    producer = connect(KafkaProducer, spec.kafka, **PRODUCER_SETTINGS, **identity)
    if exactly_once:
        producer.init_transactions()
    consumer.subscribe([spec.topics.input.name])
    topic = spec.topics.predictions.name
    while True:
        batch = consumer.poll(timeout_ms=500)
        if not batch:
            continue
        generation = consumer.group_metadata()
        offsets: dict[TopicPartition, OffsetAndMetadata] = {
            tp: OffsetAndMetadata(records[-1].offset + 1, "", -1) for tp, records in batch.items()
        }
        if exactly_once:
            producer.begin_transaction()
        for records in batch.values():
            for record in records:
                for value in work(record):
                    producer.send(topic, value, key=record.key, timestamp_ms=record.timestamp)
        if exactly_once:
            producer.send_offsets_to_transaction(offsets, generation)
            producer.commit_transaction()
        else:
            producer.flush()
            consumer.commit(offsets)


def echo(record: Any) -> Iterator[bytes]:
    """The event."""
    yield record.value


def predicting(spec: Spec) -> Work:
    """Makes what predicts the window of each event."""
    past, names = spec.window.past, [feature.name for feature in spec.stream.features]
    predictions = PredictionServiceStub(grpc.insecure_channel(spec.serving.address))
    windows: defaultdict[str, deque[list[float]]] = defaultdict(lambda: deque(maxlen=past))

    def work(record: Any) -> Iterator[bytes]:
        event = orjson.loads(record.value)
        window = windows[event["key"]]
        window.append([event[name] for name in names])
        if len(window) == past:
            values = np.array([window], np.float32)
            inputs = {"past_values": values, "past_observed": np.ones(values.shape, np.bool_)}
            response = predictions.Predict(predict_request(spec.model_name, inputs), timeout=5)
            mean = decode_tensor(response.outputs["mean"])[0, :, 0]
            yield orjson.dumps({"key": event["key"], "time": event["time"], "mean": mean.tolist()})

    return work


if __name__ == "__main__":
    its_spec = load_spec(sys.argv[1])
    run(its_spec, echo if sys.argv[2] == "echo" else predicting(its_spec))
