"""Cells of `bench_streaming` that measure the live path under load: throughput, latency, and what is no event."""

from __future__ import annotations

import statistics
import time
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from itertools import count
from threading import Event, Thread
from typing import Any

import numpy as np
import orjson
from kafka import TopicPartition

from pipelines.kernels.grid import Events
from pipelines.kernels.windowing import KeyState, Windowing, Windows
from schemas.event import EventReader
from schemas.prediction import PredictionWriter
from schemas.spec import Spec
from streaming.bulk_producer import OutRecord, encoded_batches
from streaming.commits import PRODUCER_SETTINGS, Outbox
from streaming.model_client import Answer, Arrays, Waiting
from streaming.outputs import Outputs
from streaming.partition import Partition
from streaming.predictor import Predictor
from streaming.serving_client import ServingClient, predict_request
from tests.benchmarks.stream_parts import (
    START_MS,
    STEP_MS,
    Bench,
    Stream,
    as_array_json,
    as_json,
    medians,
    series,
)

EARLIEST = ("--from", "earliest")
_FIRST_STEPS = count(START_MS // STEP_MS, 10_000)
"""Each load is later than the one before it, which is still in the topic."""
LSTM = {"family": "lstm", "segment": 1}


def echo(bench: Bench) -> dict[str, Any]:
    """Windows of 64 steps of 100 keys with an instant model, against writing the same events as they came."""
    events = bench.events(100_000)
    stream = bench.stream(features=5, past=64)
    stream.send(series(100, range(events // 100), 5))
    with stream.instant_model():
        contestants: dict[str, Callable[[], dict[str, float]]] = {
            "echo": lambda: _rate(stream, events, "echo"),
            "ours": lambda: _rate(stream, events),
            "ours_2": lambda: _rate(stream, events, "--processes", "2"),
        }
        if (quix := bench.quix) is not None:
            contestants["quix"] = lambda: _rate_of_quix(stream, events, quix)
        return _compared(contestants, bench.repeat, "echo")


def lstm(bench: Bench) -> dict[str, Any]:
    """Windows of 20 keys with an LSTM in the model server, against a consumer that calls Predict once an event."""
    events, keys = bench.events(30_000), 20  # so few that all windows are full in the part that is left out
    stream = bench.stream(features=5, past=64, model=LSTM)
    stream.send(series(keys, range(events // keys), 5))
    with stream.real_model() as parameters:
        contestants: dict[str, Callable[[], dict[str, float]]] = {
            "one_by_one": lambda: _rate(stream, events, "predict"),
            "ours": lambda: _rate(stream, events),
        }
        return _compared(contestants, bench.repeat, "one_by_one") | {"parameters": parameters}


def crayfish(bench: Bench) -> dict[str, Any]:
    """Crayfish's FFNN: events of 784 numbers, ten outputs, through the model server; 32 partitions."""
    events = bench.events(20_000)
    model = {"family": "mlp", "units": 16, "layers": 2}
    stream = bench.stream(features=784, past=1, horizon=10, partitions=32, model=model, array=True)
    points = series(100, range(events // 100), 784)
    stream.send_raw((key, time_ms, as_array_json(key, time_ms, values)) for key, time_ms, values in points)
    with stream.real_model() as parameters:
        rounds = [_rate(stream, events) for _ in range(bench.repeat)]
    by_stage = _stages(stream.spec, 100, 20_000, write=as_array_json, numbers=784)
    return medians(rounds) | {"parameters": parameters, "cpu_us_by_stage": by_stage}


def long_windows(bench: Bench) -> dict[str, Any]:
    """Milliseconds of an event's prediction with 65,536 steps: from kept summaries, and by the whole window."""
    stream = bench.stream(features=1, past=65_536, model={"family": "hierarchical", "cacheable": True})
    spec, windowing = stream.spec, Windowing(stream.spec)
    first, events = START_MS // STEP_MS, 4 * bench.repeat
    values = np.random.default_rng(0).normal(size=(spec.window.past + events, 1))
    step = first + np.arange(len(values))

    def push(state: KeyState, part: slice) -> tuple[KeyState, list[tuple[str, Windows]]]:
        state, runs, _ = windowing.push(state, Events(step[part] * STEP_MS, step[part], values[part]))
        return state, [("key-0", replace(run, end=run.end[-1:])) for run in runs if len(run)]

    took: dict[str, list[float]] = {"summaries": [], "whole": []}
    with stream.real_model(), ServingClient(spec) as client:
        client.wait_until_available(60)
        predictors = {
            "summaries": Predictor(spec, windowing, client),
            "whole": Predictor(spec, windowing, _Only(client)),
        }
        state, warm = push(windowing.empty(), slice(spec.window.past))
        for predictor in predictors.values():
            predictor.predict(warm)
        for event in range(spec.window.past, len(values)):
            state, runs = push(state, slice(event, event + 1))
            means = []
            for name, predictor in predictors.items():
                began = time.monotonic()
                means += [prediction.mean for prediction in predictor.predict(runs)]
                took[name].append(1_000 * (time.monotonic() - began))
            np.testing.assert_allclose(*means, rtol=1e-5, atol=1e-5)
    median = {f"{name}_ms": round(statistics.median(times), 1) for name, times in took.items()}
    return median | {"whole_over_summaries": round(median["whole_ms"] / median["summaries_ms"], 2), "events": events}


@dataclass
class _Only:
    """Asks no signature but the default one."""

    client: ServingClient

    @property
    def model(self) -> str:
        return self.client.model

    def ask(self, inputs: Arrays) -> Waiting:
        return self.client.ask(inputs)


def stages(bench: Bench) -> dict[str, Any]:
    """Microseconds of processor time an event, in the consumer without Kafka, by stage and number of keys."""
    spec = bench.stream(features=5, past=64).spec
    return {f"{keys}_keys": _stages(spec, keys, 20_000) for keys in (100, 1_000, 10_000)}


def latency(bench: Bench) -> dict[str, Any]:
    """From the append of an event to its committed prediction by the LSTM, beside an echo of the event, in ms."""
    return _latency(bench, "exactly_once")


def latency_at_least_once(bench: Bench) -> dict[str, Any]:
    """The same where both write first and commit offsets afterwards."""
    return _latency(bench, "at_least_once")


def _latency(bench: Bench, delivery: str) -> dict[str, Any]:
    found: dict[str, Any] = {}
    for rate in (200, 1_000):
        stream = bench.stream(features=5, past=64, model=LSTM, delivery=delivery)
        rounds = []
        with stream.real_model():
            for _ in range(bench.repeat):
                echoed, ours = _latencies(stream, rate, "echo"), _latencies(stream, rate)
                times = {"echo": echoed, "ours": ours}
                told = {f"{name}_{how}_ms": ms for name, by_how in times.items() for how, ms in by_how.items()}
                rounds.append(told | {f"{how}_over_echo": ours[how] / echoed[how] for how in ours})
        found[f"{rate}_per_s"] = medians(rounds)
    return found


def hostile(bench: Bench) -> dict[str, Any]:
    """As many hostile messages as events: what becomes of them, of the good predictions, and of the rate."""
    good = list(series(100, range(bench.events(100_000) // 100), 5))
    clean, mixed = bench.stream(features=5, past=64), bench.stream(features=5, past=64)
    clean.send(iter(good))
    sent = Counter(_mixed_in(mixed, good))
    sent_count = sent.total()
    rounds, predictions = [], []
    for stream, size in ((clean, len(good)), (mixed, len(good) + sent_count)):
        with stream.instant_model():
            rounds.append([_rate(stream, size) for _ in range(bench.repeat)])
            consumer = stream.start(*EARLIEST, "--until-end")
            consumer.process.wait(timeout=600)
            predictions.append(sorted(_content(record) for record in stream.predictions()))
    letters = Counter(
        _header(record, "tidegauge.error.reason") for record in mixed.records(mixed.spec.topics.dead_letters.name)
    )
    per_s = [statistics.median(one["per_s"] for one in part) for part in rounds]
    return {
        "events": len(good),
        "hostile": dict(sent),
        "dead_letters": dict(letters),
        "lost": sent_count - letters.total(),
        "predictions": len(predictions[0]),
        "predictions_unchanged": predictions[0] == predictions[1],
        "clean_per_s": round(per_s[0]),
        "mixed_per_s": round(per_s[1]),
        "times_as_long": round((len(good) + sent_count) / len(good) * per_s[0] / per_s[1], 3),
    }


def _rate(stream: Stream, events: int, *how: str) -> dict[str, float]:
    own = stream.again()
    plain = bool(how) and not how[0].startswith("-")
    return own.rate(own.start_plain(*how) if plain else own.start(*EARLIEST, *how), events)


def _rate_of_quix(stream: Stream, events: int, python: str) -> dict[str, float]:
    own = stream.again()
    return own.rate(own.start_quix(python), events)


def _compared(contestants: Mapping[str, Callable[[], dict[str, float]]], repeat: int, base: str) -> dict[str, Any]:
    """Lets the contestants run in turn; medians, and the ratios of the medians to the base's."""
    rounds = [
        {f"{name}_{what}": value for name, run in contestants.items() for what, value in run().items()}
        for _ in range(repeat)
    ]
    found = medians(rounds)
    ratios = {f"{name}_over_{base}": found[f"{name}_per_s"] / found[f"{base}_per_s"] for name in contestants}
    return {name: round(ratio, 3) for name, ratio in ratios.items() if name != f"{base}_over_{base}"} | found


# --- latency ---


def _latencies(stream: Stream, rate: int, *plain: str) -> dict[str, float]:
    """p50 and p99 of 15 seconds under an even load, of which the first three are left out."""
    keys, seconds, ignored = 50, 15, 3
    own = stream.again()
    consumer = own.start_plain(*plain) if plain else own.start("--from", "latest")
    # An echo keeps the event's time; a prediction has its window's origin, the end of the event's step.
    shift_ms = 0 if plain else STEP_MS
    sent: dict[tuple[str, int], float] = {}
    heard: dict[tuple[str, int], float] = {}
    stop = Event()
    listener = Thread(target=_listen, args=(own, shift_ms, heard, stop))
    listener.start()
    first = next(_FIRST_STEPS)
    try:
        with own.producer(linger_ms=0) as producer:

            def send(step: int, key: int) -> None:
                name, time_ms = f"key-{key}", (first + step) * STEP_MS
                value = as_json(name, time_ms, (1.0, 2.0, 3.0, 4.0, 5.0))
                sent[name, time_ms] = time.monotonic()
                producer.send(own.spec.topics.input.name, key=name.encode(), value=value, timestamp_ms=time_ms)

            if not plain:
                consumer.wait_until_live()
            step = 0
            while not heard:  # until the consumer is there
                send(step, 0)
                step += 1
                time.sleep(0.2)
            began = time.monotonic()
            for number in range(rate * seconds):
                time.sleep(max(0.0, began + number / rate - time.monotonic()))
                send(step + number // keys, number % keys)
        give_up = time.monotonic() + 30
        while len(heard) < len(sent) and time.monotonic() < give_up:
            time.sleep(0.1)
    finally:
        stop.set()
        listener.join()
        consumer.kill()
    times = [1_000 * (heard[event] - at) for event, at in sent.items() if at >= began + ignored and event in heard]
    return {"p50": float(np.percentile(times, 50)), "p99": float(np.percentile(times, 99))}


def _listen(stream: Stream, shift_ms: int, heard: dict[tuple[str, int], float], stop: Event) -> None:
    topic = stream.spec.topics.predictions.name
    reader = stream.reader(fetch_max_wait_ms=20)
    partitions = [TopicPartition(topic, number) for number in reader.partitions_for_topic(topic)]
    reader.assign(partitions)
    reader.seek_to_beginning(*partitions)
    while not stop.is_set():
        for records in reader.poll(timeout_ms=20, max_records=10_000).values():
            now = time.monotonic()
            for record in records:
                heard.setdefault((record.key.decode(), record.timestamp - shift_ms), now)
    reader.close(timeout_ms=1_000)


# --- what is no event ---


def _mixed_in(stream: Stream, good: Sequence[tuple[str, int, Sequence[float]]]) -> Iterator[str]:
    """Sends the good events with a hostile message before each; gives the kinds of the latter."""
    kinds: list[str] = []

    def records() -> Iterator[tuple[str, int, bytes | None]]:
        for number, (key, time_ms, values) in enumerate(good):
            kind, value = _hostile(number, key, time_ms, values)
            kinds.append(kind)
            yield key, time_ms, value
            yield key, time_ms, as_json(key, time_ms, values)

    stream.send_raw(records())
    yield from kinds


def _hostile(number: int, key: str, time_ms: int, values: Sequence[float]) -> tuple[str, bytes | None]:
    event = {"key": key, "time": time_ms} | {f"f{n}": value for n, value in enumerate(values)}
    ahead = time.time_ns() // 10**6 + 2 * 3_600_000
    if number % 5_000 == 0:
        return "5 MB", b'{"key": "' + bytes(5 * 10**6)
    broken: list[tuple[str, Mapping[str, Any] | bytes | None]] = [
        ("broken JSON", b'{"key": "key-1", "time": 17'),
        ("not UTF-8", b"\xff\xfe\x00"),
        ("tombstone", None),
        ("null", b"null"),
        ("no object", b"[1, 2, 3]"),
        ("text for a number", event | {"f0": "12"}),
        ("truth for a number", event | {"f1": True}),
        ("huge number", event | {"f0": 1e300}),
        ("no key", {name: value for name, value in event.items() if name != "key"}),
        ("key of a wrong type", event | {"key": {"a": 1}}),
        ("no time", event | {"time": None}),
        ("time that is none", event | {"time": "yesterday"}),
        ("year 1", event | {"time": -62_135_596_800_000}),
        ("1970", event | {"time": 0}),
        ("year 9999", event | {"time": 253_402_300_799_000}),
        ("two hours ahead", event | {"time": ahead}),
    ]
    kind, value = broken[number % len(broken)]
    return kind, value if value is None or isinstance(value, bytes) else orjson.dumps(value)


def _header(record: Any, name: str) -> str:
    return next(value for header, value in record.headers if header == name).decode()


def _content(record: Any) -> tuple[str, int, str, str]:
    """What a prediction says, but for how long it took and for the stream's own names."""
    document = orjson.loads(record.value)
    return document["key"], document["origin_ms"], document["window_digest"], str(document["targets"])


# --- stages ---


@dataclass
class _Instant:
    """A model within the process; the request is made as for a real one."""

    spec: Spec
    model: str = "instant"

    def ask(self, inputs: Arrays) -> Waiting:
        predict_request(self.model, inputs).SerializeToString()
        shape = (len(inputs["past_values"]), self.spec.window.horizon, len(self.spec.targets))
        return lambda: Answer({"mean": np.zeros(shape, np.float32)}, 1, 1.0)


@dataclass
class _Sent:
    """In the place of a producer, so that writing a record is measured and not its way."""

    def send_all(self, topic: str, records: Sequence[OutRecord]) -> list[Any]:
        return encoded_batches(records, 0, PRODUCER_SETTINGS["batch_size"])


@dataclass
class _Record:
    offset: int
    key: bytes
    value: bytes
    timestamp: int = START_MS
    headers: Sequence[tuple[str, bytes]] = field(default=())


def _stages(
    spec: Spec,
    keys: int,
    events: int,
    *,
    write: Callable[[str, int, Sequence[float]], bytes] = as_json,
    numbers: int = 5,
) -> dict[str, float]:
    poll, warm = spec.kafka.max_poll_records, keys * (spec.window.past + 1)
    windowing, reader = Windowing(spec), EventReader(spec)
    partition = Partition(spec, windowing, reader, name="bench[0]", partitions=1, start_offset=0, live_from=warm)
    predictor, outputs = Predictor(spec, windowing, _Instant(spec)), Outputs(spec.topics, PredictionWriter(spec))
    steps = range(-(-(warm + events) // keys))
    source = enumerate(series(keys, steps, numbers))
    now_ms = time.time_ns() // 10**6

    def records(most: int) -> list[_Record]:
        taken = (one for one, _ in zip(source, range(most), strict=False))
        return [_Record(offset, key.encode(), write(key, at, values)) for offset, (key, at, values) in taken]

    for start in range(0, warm, poll):
        partition.replay(records(min(poll, warm - start)))
    partition.end_replay(warm)
    took: Counter[str] = Counter()
    done = 0
    while batch := records(poll):
        began = time.process_time()
        for record in batch:
            reader.read_json(record.value)
        marks = [began, time.process_time()]
        stage = partition.stage(batch, now_ms)
        marks.append(time.process_time())
        predictions = predictor.predict(stage.windows)
        marks.append(time.process_time())
        outputs.send_predictions(Outbox(_Sent()), predictions)
        partition.checkpoint(stage)
        marks.append(time.process_time())
        partition.apply(stage)
        marks.append(time.process_time())
        for name, start, end in zip(("decode", "stage", "predict", "write", "apply"), marks, marks[1:], strict=False):
            took[name] += end - start
        done += len(batch)
    took["windows"] = took.pop("stage") - took["decode"]  # `stage` decodes as well
    return {name: round(seconds / done * 1e6, 1) for name, seconds in took.items()}
