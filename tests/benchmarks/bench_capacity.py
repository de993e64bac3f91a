"""Measures what `tidegauge capacity` counts with (`make bench-capacity`).

    python -m tests.benchmarks.bench_capacity --work FILE --output FILE

The consumer runs with a real Kafka and a model that answers at once, by points that differ in keys, features, windows,
horizon, stride and the size of a turn; a linear model is fitted to the time that an event took, by non-negative least
squares of the relative errors. Model servers of each family, a replay and an ingest are measured alone. Two points
take no part in the fit, one of them with an LSTM in the real model server: for these the prediction is told beside what
was measured.

What has been measured is kept in the work file, so that a run that was stopped goes on; delete it to measure anew.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import statistics
import subprocess
import sys
import tempfile
import time
from collections import deque
from collections.abc import Callable, Mapping
from contextlib import ExitStack
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import psutil
import yaml
from kafka import TopicPartition
from scipy.optimize import nnls

from deploy.capacity.costs import ConsumerCosts, Costs, ModelCosts, RecordBytes
from deploy.capacity.sizes import Limits, turn
from deploy.capacity.work import Work, work_of
from deploy.local.kafka import KafkaNode, Ports
from deploy.local.ports import free_port
from deploy.local.stack import down
from deploy.local.state import claim, default_state_dir
from flows.local_stack import start_model_server
from flows.model_config import prepare
from schemas.spec import Spec, parse_spec
from streaming.serving_client import ServingClient
from tests.benchmarks.bench_streaming import restored
from tests.benchmarks.stream_load import EARLIEST
from tests.benchmarks.stream_parts import Bench, Stream, as_json, medians, series

FAMILIES = ("mlp", "rnn", "lstm", "cnn", "attention", "hierarchical")
FIRST, SECOND = "held out: other windows and keys", "held out: an LSTM in the model server"
AGREES = 0.25
TERMS = ("turn_us", "key_us", "event_us", "number_us", "window_us", "cell_us", "output_us")


@dataclass(frozen=True)
class Point:
    """A stream of one partition, and how many events of it are read."""

    events: int = 40_000
    keys: int = 100
    features: int = 5
    past: int = 64
    horizon: int = 24
    stride: int = 1
    poll: int = 2_000
    family: Mapping[str, Any] | None = None

    def stream(self, bench: Bench) -> Stream:
        """The stream, without events."""
        shape = {name: getattr(self, name) for name in ("features", "past", "horizon", "stride")}
        return bench.stream(**shape, partitions=1, model=self.family, max_poll_records=self.poll)


FITTED: Mapping[str, Point] = {
    "plain": Point(),
    "each event of a turn is another key's": Point(keys=10_000),
    "a key has eight events in a turn": Point(keys=250),
    "small turns": Point(poll=200),
    "hardly a window": Point(stride=48, events=120_000),
    "hardly a window, many numbers": Point(features=24, stride=48, events=80_000),
    "long windows": Point(past=336, features=8, events=30_000),
    "long horizons": Point(horizon=168),
}
HELD_OUT: Mapping[str, Point] = {
    FIRST: Point(keys=600, features=3, past=168, horizon=48, poll=1_000, events=30_000),
    SECOND: Point(keys=40, features=7, past=96, family={"family": "lstm"}, events=30_000),
}


# --- what is measured ---


def consumer(bench: Bench, point: Point) -> dict[str, Any]:
    """The rate of one consumer at a point, and the bytes of its records."""
    stream = point.stream(bench)
    stream.send(series(point.keys, range(point.events // point.keys), point.features))
    with stream.real_model() if point.family else stream.instant_model():
        rounds = []
        for _ in range(bench.repeat):
            own = stream.again()
            rounds.append(own.rate(own.start(*EARLIEST), point.events))
    sizes = [record.serialized_value_size + len(record.key) + _headers(record) for record in own.predictions()]
    return medians(rounds) | {
        "event_bytes": len(as_json("key-50", 1_700_000_000_000, [-0.1234] * point.features)) + len(b"key-50"),
        "prediction_bytes": round(statistics.fmean(sizes)),
    }


def _headers(record: Any) -> int:
    return sum(len(name) + len(value) for name, value in record.headers)


def models(bench: Bench) -> dict[str, Any]:
    """Core time of requests of 1 and of 256 windows in microseconds, by family, with four under way."""
    address, config = f"127.0.0.1:{free_port()}", str(bench.folder / "models.config")
    specs, files = {}, []
    for family in FAMILIES:
        document = _document(Point(family={"family": family}), f"of-{family}")
        document["serving"] = {"address": address, "config_file": config}
        document["paths"] = {"models": str(bench.folder / "models")}
        specs[family] = parse_spec(document)
        files.append(bench.folder / f"{family}.yaml")
        files[-1].write_text(yaml.safe_dump(document))
        prepare(specs[family])
    export = [sys.executable, "-m", "tests.benchmarks.untrained_model", *map(str, files)]
    subprocess.run(export, check=True, capture_output=True)
    state = claim(bench.folder / "models-state")
    server = psutil.Process(start_model_server(specs["lstm"], state).pid)
    try:
        return {family: _requests(spec, server) for family, spec in specs.items()}
    finally:
        down(state)


def _requests(spec: Spec, server: psutil.Process) -> dict[str, float]:
    found = {}
    with ServingClient(spec) as client:
        client.wait_until_available(120)
        values = np.random.default_rng(0).normal(size=(256, spec.window.past, 5)).astype(np.float32)
        for rows in (1, 256):
            inputs = {"past_values": values[:rows], "past_observed": np.ones((rows, spec.window.past, 5), np.bool_)}
            _asked(client, inputs, 1.0)
            began = _cpu_s(server)
            count = _asked(client, inputs, 1.5)
            found[f"of_{rows}_us"] = (_cpu_s(server) - began) / count * 1e6
    return found


def _asked(client: ServingClient, inputs: Mapping[str, Any], seconds: float) -> int:
    """How many requests were answered in that time, four being under way at once."""
    waiting, until, count = deque(client.ask(inputs) for _ in range(4)), time.monotonic() + seconds, 0
    while waiting:
        waiting.popleft()()
        count += 1
        if time.monotonic() < until:
            waiting.append(client.ask(inputs))
    return count


def _cpu_s(process: psutil.Process) -> float:
    times = process.cpu_times()
    return float(times.user + times.system)


def replay(bench: Bench) -> dict[str, Any]:
    """Microseconds of a replayed event."""
    stream = FITTED["plain"].stream(bench)
    count = stream.send(series(100, range(1_000), 5))
    place = TopicPartition(stream.spec.topics.input.name, 0)
    return {"replay_us": min(restored(stream.spec, [place]) for _ in range(bench.repeat)) / count * 1e6}


def ingest(bench: Bench) -> dict[str, Any]:
    """Microseconds of an event of a batch ingest: the slope from one to three million."""
    rows = ("--rows", "1000000", "3000000", "--repeat", "1", "--baseline-rows", "0", "--floor-rows", "0")
    done = subprocess.run(
        [sys.executable, "-m", "tests.benchmarks.bench_ingest", *rows, "--folder", str(bench.folder)],
        check=True,
        capture_output=True,
        text=True,
    )
    few, many = (part["ingest_seconds"] for part in json.loads(done.stdout)["rounds"])
    return {"ingest_us": (many - few) / 2.0}


PARTS: Mapping[str, Callable[[Bench], dict[str, Any]]] = {
    **{name: (lambda bench, point=point: consumer(bench, point)) for name, point in (FITTED | HELD_OUT).items()},
    "models": models,
    "replay": replay,
    "ingest": ingest,
}


# --- what follows ---


def fitted(measured: Mapping[str, Any]) -> Costs:
    """The costs that go best with what was measured."""
    per_event_us = np.array([1e6 / measured[name]["per_s"] for name in FITTED])
    rows = np.array([_terms(point) for point in FITTED.values()])
    found, _ = nnls(rows / per_event_us[:, None], np.ones(len(rows)))
    plain, many = measured["plain"], measured["each event of a turn is another key's"]
    long = measured["long horizons"]
    output = (long["prediction_bytes"] - plain["prediction_bytes"]) / (168 - 24)
    number = (measured["hardly a window, many numbers"]["event_bytes"] - plain["event_bytes"]) / (24 - 5)
    keys, more_keys = 100, 10_000
    key_bytes = (many["resident_mb"] - plain["resident_mb"]) * 1e6 / (more_keys - keys)
    by_family = {}
    for family in FAMILIES:
        one, full = (measured["models"][family][f"of_{rows}_us"] for rows in (1, 256))
        window_us = (full - one) / 255
        by_family[family] = ModelCosts(request_us=round(max(one - window_us, 0.0), 1), step_us=round(window_us / 64, 4))
    return Costs(
        machine=f"{_processor()}, {os.cpu_count()} cores, Python {platform.python_version()}",
        cores=os.cpu_count() or 1,
        measured=time.strftime("%Y-%m-%d", time.gmtime()),
        consumer=ConsumerCosts(
            **{name: float(f"{cost:.4g}") for name, cost in zip(TERMS, found.tolist(), strict=True)},
            replay_us=round(measured["replay"]["replay_us"], 2),
            process_bytes=round(plain["resident_mb"] * 1e6, -6),
            key_bytes=round(max(key_bytes - Work().state_bytes, 0.0), -1),
        ),
        models=by_family,
        bytes=RecordBytes(
            event=round(plain["event_bytes"] - 5 * number, 1),
            number=round(number, 1),
            prediction=round(plain["prediction_bytes"] - 24 * output, 1),
            output=round(output, 1),
        ),
        ingest_us=round(measured["ingest"]["ingest_us"], 2),
    )


def _terms(point: Point) -> list[float]:
    """What the costs of `TERMS` are multiplied with, for each event."""
    windows = 1 / point.stride
    cells, outputs = windows * point.past * point.features, windows * point.horizon
    return [
        1 / point.poll,
        min(point.keys, point.poll) / point.poll,
        1.0,
        float(point.features),
        windows,
        cells,
        outputs,
    ]


def _document(point: Point, name: str = "bench") -> dict[str, Any]:
    """The spec of a point, without its parts on this machine."""
    return {
        "stream": {
            "name": name,
            "key": "key",
            "time": {"field": "time"},
            "features": [{"name": f"f{n}", "role": "past" if n else "target"} for n in range(point.features)],
        },
        "grid": {"step": "1s", "regular": True},
        "window": {"past": point.past, "horizon": point.horizon, "stride": point.stride},
        "kafka": {"max_poll_records": point.poll},
        "model": dict(point.family or {"family": "lstm"}),
    }


def predicted(point: Point, costs: Costs) -> float:
    """Events a second of one consumer beside the rest on this machine, as `tidegauge capacity` has it."""
    work = work_of(parse_spec(_document(point)))
    if not point.family:  # the model that answers at once
        costs = costs.model_copy(update={"models": {work.family: ModelCosts(request_us=0.0, step_us=0.0)}})
    limits = Limits(server_cores=costs.cores)
    return turn(work, costs, limits, keys=point.keys, windows_per_event=1 / point.stride).events_per_s


def _processor() -> str:
    lines = Path("/proc/cpuinfo").read_text().splitlines() if Path("/proc/cpuinfo").exists() else []
    names = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return names[0] if names else platform.machine()


def report(measured: Mapping[str, Any], costs: Costs) -> list[str]:
    """Measured and predicted events a second of every point."""
    lines = [f"{'events a second':40} {'measured':>9} {'predicted':>9} {'ratio':>6}"]
    for name, point in (FITTED | HELD_OUT).items():
        found, expected = measured[name]["per_s"], predicted(point, costs)
        lines.append(f"{name:40} {found:9.0f} {expected:9.0f} {expected / found:6.2f}")
    return lines


class _Rig:
    """Kafka, which is started when it is first needed."""

    def __init__(self, stack: ExitStack, repeat: int) -> None:
        self._stack, self._repeat = stack, repeat

    @cached_property
    def bench(self) -> Bench:
        folder = Path(self._stack.enter_context(tempfile.TemporaryDirectory(prefix="bench-capacity-")))
        node = KafkaNode(claim(folder / "state"), jars_dir=default_state_dir() / "jars" / "kafka")
        self._stack.callback(node.stop)
        bootstrap = node.start(Ports(0, 0)).endpoints["bootstrap"]
        consumer(Bench(bootstrap, folder, 1, quick=False), FITTED["plain"])  # a young Java is slow
        return Bench(bootstrap, folder, self._repeat, quick=False)


def main() -> int:
    """Measures what is not in the work file yet, then fits, tells and writes.

    Returns:
      0 where the points that were held out are within `AGREES` of what was measured, else 1.
    """
    parser = argparse.ArgumentParser(description="Measure what `tidegauge capacity` counts with.")
    parser.add_argument("--work", type=Path, required=True, help="what has been measured; a stopped run goes on")
    parser.add_argument("--output", type=Path, required=True, help="for `tidegauge capacity --costs`")
    parser.add_argument("--repeat", type=int, default=2, help="rounds, of which the median is taken")
    arguments = parser.parse_args()
    measured: dict[str, Any] = json.loads(arguments.work.read_text()) if arguments.work.exists() else {}
    with ExitStack() as stack:
        rig = _Rig(stack, arguments.repeat)
        for name, measure in PARTS.items():
            if name not in measured:
                began = time.monotonic()
                measured[name] = measure(rig.bench)
                print(f"{name}: {time.monotonic() - began:.0f} s", file=sys.stderr, flush=True)
                arguments.work.write_text(json.dumps(measured, indent=1))
    costs = fitted(measured)
    arguments.output.write_text(json.dumps(costs.model_dump(), indent=2) + "\n")
    print("\n".join(report(measured, costs)))
    ratios = [predicted(point, costs) / measured[name]["per_s"] for name, point in HELD_OUT.items()]
    return int(any(abs(ratio - 1) > AGREES for ratio in ratios))


if __name__ == "__main__":
    sys.exit(main())
