"""What the live path costs: `python -m tests.benchmarks.bench_streaming [--only NAME ...] [--quix PYTHON]`.

The script starts a real Kafka, and a model server: one that answers at once (`instant_model`), or the real one.
Everything runs on this machine at the same time, so that only ratios within one run mean much; medians of the rounds
are told.

    restart    kill -9, start again: seconds to the first committed prediction and until all is live (and of processor
               time), where some 50,000 events are replayed, or their windows read from the changelog
    replay     events a second of a replay, and of a bare loop that consumes and decodes the same events
    memory     seconds until ready and resident memory with 10,000 keys of 336x7 windows, and that of their own bytes
    echo       events a second with a model that answers at once, against writing the same events as they came
    stages     microseconds of processor time an event in the consumer's own stages, by the number of keys
    lstm       events a second with an LSTM, against a consumer that calls Predict once for each event
    long_windows   milliseconds of a prediction by windows of 65,536 steps, from kept summaries and from whole windows
    crayfish   events a second of 784 numbers through a small network, which Crayfish (EDBT 2024) measures
    latency    from an event's append to its committed prediction by the LSTM, beside an echo, at 200 and 1,000 a second
               (`latency_at_least_once` where both commit so)
    hostile    as many hostile messages as events: what becomes of them, of the predictions, and of the rate
"""

from __future__ import annotations

import argparse
import json
import sys
import tempfile
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import orjson
from kafka import KafkaConsumer, TopicPartition

from deploy.local.kafka import KafkaNode, Ports
from deploy.local.state import claim, default_state_dir
from pipelines.kernels.windowing import Windowing
from schemas.event import EventReader
from schemas.spec import Spec
from streaming.partition import Partition
from streaming.restore import PARTITION_FETCH_BYTES, POLL_RECORDS, Restorer, replaying
from streaming.topics import connect
from tests.benchmarks.stream_load import (
    crayfish,
    echo,
    hostile,
    latency,
    latency_at_least_once,
    long_windows,
    lstm,
    stages,
)
from tests.benchmarks.stream_parts import Bench, medians, series

# --- cells ---


def restart(bench: Bench) -> dict[str, Any]:
    """kill -9 and start again, by how the windows are had back."""
    return {recovery: _restart(bench, recovery) for recovery in ("replay", "changelog")}


def _restart(bench: Bench, recovery: str) -> dict[str, Any]:
    keys, past = 50, 1_000
    stream = bench.stream(features=3, past=past, recovery=recovery)
    rounds = []
    with stream.instant_model():
        stream.send(series(keys, range(past), 3))
        consumer = stream.start()
        consumer.wait_until_live()
        for round_ in range(bench.repeat + 1):
            with stream.first_prediction() as first:
                if round_:  # before the first round every key is seen once, so that a changelog has them all
                    consumer.kill()
                stream.send(series(keys, range(past + round_, past + round_ + 1), 3))
                if round_:
                    consumer = stream.start()
                predicted_s = first() - consumer.began
                live_s, cpu_s = consumer.wait_until_live(), consumer.cpu_s()
            while stream.committed() < keys * (round_ + 1):
                time.sleep(0.2)
            if not round_:
                continue
            rounds.append(
                {"first_prediction_s": predicted_s, "live_s": live_s, "cpu_s": cpu_s, "replayed": consumer.replayed}
            )
        consumer.kill()
    return medians(rounds)


def replay(bench: Bench) -> dict[str, Any]:
    """The rate of the restorer, and of a bare loop over the same events with the same settings."""
    stream = bench.stream(features=3, past=1_000)
    count = stream.send(series(200, range(1_000), 3))
    parts = [TopicPartition(stream.spec.topics.input.name, number) for number in range(4)]
    rounds = []
    for _ in range(bench.repeat):
        bare_s, restored_s = _bare(stream.spec, parts), restored(stream.spec, parts)
        rounds.append(
            {"bare_per_s": count / bare_s, "replay_per_s": count / restored_s, "replay_over_bare": bare_s / restored_s}
        )
    return medians(rounds) | {"events": count}


def _bare(spec: Spec, parts: Sequence[TopicPartition]) -> float:
    consumer = connect(
        KafkaConsumer,
        spec.kafka,
        isolation_level="read_committed",
        enable_auto_commit=False,
        max_poll_records=POLL_RECORDS,
        max_partition_fetch_bytes=PARTITION_FETCH_BYTES,
    )
    consumer.assign(list(parts))
    consumer.seek_to_beginning(*parts)
    ends = consumer.end_offsets(list(parts))
    began = time.monotonic()
    while any(consumer.position(tp) < end for tp, end in ends.items()):
        for records in consumer.poll(timeout_ms=100).values():
            for record in records:
                orjson.loads(record.value)
    took = time.monotonic() - began
    consumer.close(timeout_ms=1_000)
    return took


def restored(spec: Spec, parts: Sequence[TopicPartition]) -> float:
    windowing, reader = Windowing(spec), EventReader(spec)
    restorer = Restorer(spec.kafka, "bench", lambda _: None)
    consumer = connect(KafkaConsumer, spec.kafka)
    ends = consumer.end_offsets(list(parts))
    consumer.close(timeout_ms=1_000)
    partitions = {
        tp: Partition(spec, windowing, reader, name=str(tp), partitions=len(parts), start_offset=0, live_from=ends[tp])
        for tp in parts
    }
    began = time.monotonic()
    restorer.begin({tp: replaying(tp, partition) for tp, partition in partitions.items()})
    while restorer.is_busy:
        restorer.step(1.0)
    took = time.monotonic() - began
    restorer.close()
    return took


def memory(bench: Bench) -> dict[str, Any]:
    """Readiness of a group without a past, and memory once every key has its window.

    A key's window has all its steps from its first event on, so a few events a key are enough to fill them.
    """
    keys, past, features = 10_000, 336, 7
    stream = bench.stream(features=features, past=past)
    with stream.instant_model():
        empty = []
        for _ in range(bench.repeat):
            consumer = stream.start()
            ready_s = consumer.wait_until_live()
            empty.append({"ready_s": ready_s, "ready_cpu_s": consumer.cpu_s(), "empty_mb": consumer.memory_mb("VmRSS")})
            consumer.kill()
        consumer = stream.start()
        consumer.wait_until_live()
        stream.send(series(keys, range(2), features))
        while stream.committed() < 2 * keys:
            time.sleep(1)
        time.sleep(2)
        resident_mb, peak_mb = consumer.memory_mb("VmRSS"), consumer.memory_mb("VmHWM")
        consumer.kill()
    windows_mb = keys * past * features * (4 + 1) / 1e6  # values and masks
    return medians(empty) | {
        "resident_mb": resident_mb,
        "peak_mb": peak_mb,
        "windows_mb": windows_mb,
        "beyond_windows_mb": resident_mb - windows_mb,
    }


CELLS: Mapping[str, Callable[[Bench], dict[str, Any]]] = {
    cell.__name__: cell
    for cell in (
        restart,
        replay,
        memory,
        echo,
        stages,
        lstm,
        long_windows,
        crayfish,
        latency,
        latency_at_least_once,
        hostile,
    )
}


def main() -> None:
    """Runs the cells and prints one JSON document."""
    parser = argparse.ArgumentParser(description="Measure the live path.")
    parser.add_argument("--only", nargs="+", choices=CELLS, default=list(CELLS))
    parser.add_argument("--repeat", type=int, default=5)
    parser.add_argument("--quick", action="store_true", help="a tenth of the events in the cells under load")
    parser.add_argument(
        "--quix", metavar="PYTHON", help="of an environment with quixstreams, which `echo` measures too"
    )
    parser.add_argument("--json", type=Path, help="also write the result to this file")
    arguments = parser.parse_args()
    results: dict[str, Any] = {}
    with ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="bench-streaming-")))
        node = KafkaNode(claim(folder / "state"), jars_dir=default_state_dir() / "jars" / "kafka")
        stack.callback(node.stop)
        bootstrap = node.start(Ports(0, 0)).endpoints["bootstrap"]
        for name in arguments.only:
            results[name] = CELLS[name](
                Bench(bootstrap, folder, arguments.repeat, quick=arguments.quick, quix=arguments.quix)
            )
            print(f"{name}: {json.dumps(results[name])}", file=sys.stderr, flush=True)
    text = json.dumps(results, indent=2)
    print(text)
    if arguments.json:
        arguments.json.write_text(text + "\n")


if __name__ == "__main__":
    main()
