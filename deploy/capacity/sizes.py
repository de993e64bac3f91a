"""How many parts a load takes, by costs that were measured: a linear model, small enough to be checked by hand.

A turn of a consumer's loop that reads `n` events of `k` keys and predicts `w` windows in `r` requests takes

    turn + k * key + n * (event + numbers * number) + w * (window + cells * cell + outputs * output)

microseconds of its own, and waits `(r * request + w * past * step) / cores` for a model server of so many cores. All
else follows: a consumer does `n` events in that time, and the fewest consumers that do all events without being busy
for more than the share `utilisation` of the time are taken. Turns are counted as full (`kafka.max_poll_records`), as
they are when a consumer is behind; before that it makes more and smaller ones.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass

from deploy.capacity.costs import Costs, ModelCosts
from deploy.capacity.figures import duration
from deploy.capacity.work import Load, Work
from schemas.errors import InputError

DAY_S, INGEST_S = 86_400, 3_600
"""Flink's slots are counted so that the events of a day are ingested in an hour."""
LARGE_GROUP = 200
"""Members of a consumer group beyond which we advise against one group."""
KEYS_EACH = 20
"""With fewer keys for each consumer their shares differ much."""
REPLAY_S = 60.0
"""A longer replay after a crash is told."""
BROKER_BYTES_S = 100e6
"""What one broker is to take in, its replicas' part included."""

CHEAPER_THAN: Mapping[str, str] = {"linear": "mlp", "persistence": "mlp", "seasonal": "mlp"}
"""Families that were not measured are counted as one that does more."""

ADVICE: Mapping[str, str] = {
    "commits": "larger turns: kafka.max_poll_records",
    "keys": "more events of a key in a turn: kafka.max_poll_records; or more consumers, with fewer keys each",
    "events": "fewer features, or features that are one array",
    "windows": "fewer or smaller windows: window.stride, window.past, window.horizon",
    "model": "more cores for each model server, a smaller model, larger requests: serving.max_batch",
    "memory": "more memory for each consumer, a shorter window.past, or less time until keys are forgotten",
}


@dataclass(frozen=True, slots=True, kw_only=True)
class Limits:
    """How parts are built, and how full they may be.

    `window_us` is what the model takes of one core for a window, its share of a request included, in microseconds, in
    place of the costs' figures.
    """

    utilisation: float = 0.7
    consumer_bytes: float = 2 * 2**30
    server_cores: int = 4
    replication: int = 3
    window_us: float | None = None


@dataclass(frozen=True, slots=True)
class Turn:
    """A full turn of one consumer: its events and requests, and its seconds by what takes them."""

    events: float
    requests: float
    seconds: Mapping[str, float]

    @property
    def events_per_s(self) -> float:
        """What a consumer does that is never idle."""
        return self.events / sum(self.seconds.values())


@dataclass(frozen=True, slots=True)
class Sizes:
    """What a load takes. Rates are of the whole stream; bytes are before compression."""

    events_per_s: float
    keys: float
    consumer_events_per_s: float
    """One consumer's, that is never idle, among so many."""
    consumers: int
    partitions: int
    servers: int
    server_cores: float
    """Busy ones, of all servers."""
    flink_slots: int
    brokers: int
    broker_in_bytes_per_s: float
    """Without replicas: events and predictions."""
    broker_out_bytes_per_s: float
    """To consumers, and to one reader of the predictions; without replicas."""
    windows_per_s: float
    requests_per_s: float
    state_bytes: float
    """Of all keys that are remembered."""
    consumer_bytes: float
    replay_events: float
    """Of one consumer."""
    replay_s: float
    shares: Mapping[str, float]
    """Of a turn, by what takes the time."""
    breaks_first: str
    advice: str
    notes: tuple[str, ...]


def turn(work: Work, costs: Costs, limits: Limits, *, keys: float, windows_per_event: float) -> Turn:
    """A full turn of a consumer that has so many keys.

    Raises:
      InputError: the costs have no such family, and `limits` no cost of a window.
    """
    consumer, model = costs.consumer, _model(work, costs, limits)
    events = work.poll_events
    windows = events * windows_per_event
    requests = max(windows / work.request_windows, min(windows, 1.0))
    window_us = consumer.window_us + work.cells * consumer.cell_us + work.outputs * consumer.output_us
    model_us = requests * model.request_us + windows * work.past * model.step_us
    microseconds = {
        "commits": consumer.turn_us,
        "keys": min(max(keys, 1.0), events) * consumer.key_us,
        "events": events * (consumer.event_us + work.numbers * consumer.number_us),
        "windows": windows * window_us,
        "model": model_us / limits.server_cores,
    }
    return Turn(events, requests, {name: spent / 1e6 for name, spent in microseconds.items()})


def sizes(load: Load, work: Work, costs: Costs, limits: Limits) -> Sizes:
    """What a load takes.

    Raises:
      InputError: the costs have no such family, and `limits` no cost of a window; or a consumer has no room for keys.
    """
    keys, per_event = work.live_keys(load), work.windows_per_event(load)
    key_bytes = costs.consumer.key_bytes + work.state_bytes
    room = limits.consumer_bytes - costs.consumer.process_bytes
    if room < key_bytes:
        needed = costs.consumer.process_bytes + key_bytes
        raise InputError(
            f"a consumer's memory: expected at least {needed / 2**20:.0f} MiB, got {limits.consumer_bytes / 2**20:.0f}"
        )

    def turn_among(consumers: int) -> Turn:
        return turn(work, costs, limits, keys=keys / consumers, windows_per_event=per_event)

    def suffice(consumers: int) -> bool:
        return consumers * turn_among(consumers).events_per_s * limits.utilisation >= load.events_per_s

    by_rate, by_memory = _least(suffice), math.ceil(keys * key_bytes / room)
    consumers = max(by_rate, by_memory)
    one = turn_among(consumers)
    spent = sum(one.seconds.values())
    turns_per_s = load.events_per_s / one.events
    server_cores = turns_per_s * one.seconds["model"] * limits.server_cores
    windows_per_s = load.events_per_s * per_event
    events_bytes = load.events_per_s * (costs.bytes.event + work.numbers * costs.bytes.number)
    all_bytes = events_bytes + windows_per_s * (costs.bytes.prediction + work.outputs * costs.bytes.output)
    replay_events = work.window_events(load) / consumers
    first = "memory" if by_memory > by_rate else max(one.seconds, key=lambda name: one.seconds[name])
    replay_s = replay_events * costs.consumer.replay_us / 1e6
    return Sizes(
        events_per_s=load.events_per_s,
        keys=load.keys,
        consumer_events_per_s=one.events_per_s,
        consumers=consumers,
        partitions=max(4, 1 << math.ceil(math.log2(2 * consumers))),
        servers=max(1, math.ceil(server_cores / limits.server_cores / limits.utilisation)),
        server_cores=server_cores,
        flink_slots=max(1, math.ceil(load.events_per_s * DAY_S * costs.ingest_us / 1e6 / INGEST_S)),
        brokers=max(limits.replication, math.ceil(all_bytes * limits.replication / BROKER_BYTES_S)),
        broker_in_bytes_per_s=all_bytes,
        broker_out_bytes_per_s=all_bytes,
        windows_per_s=windows_per_s,
        requests_per_s=turns_per_s * one.requests,
        state_bytes=keys * key_bytes,
        consumer_bytes=costs.consumer.process_bytes + keys * key_bytes / consumers,
        replay_events=replay_events,
        replay_s=replay_s,
        shares={name: seconds / spent for name, seconds in one.seconds.items()},
        breaks_first=first,
        advice=ADVICE[first],
        notes=tuple(_notes(load, consumers, replay_events, replay_s)),
    )


def _least(suffice: Callable[[int], bool]) -> int:
    """The smallest number that suffices, where every larger one does too."""
    most = 1
    while not suffice(most):
        most *= 2
    least = most // 2  # does not suffice
    while most - least > 1:
        middle = (least + most) // 2
        least, most = (least, middle) if suffice(middle) else (middle, most)
    return most


def _notes(load: Load, consumers: int, replay_events: float, replay_s: float) -> Iterator[str]:
    if consumers * KEYS_EACH > load.keys and consumers > 1:
        yield (
            f"{load.keys:,.0f} keys are few for {consumers:,} consumers: a key is in one partition, and partitions of "
            "few keys differ in load"
        )
    if replay_s > REPLAY_S:
        yield (
            f"after a crash a consumer reads {replay_events:,.0f} events again, {duration(replay_s)}: "
            "kafka.recovery: changelog reads one row for each key instead"
        )
    if consumers > LARGE_GROUP:
        yield (
            f"a group of {consumers:,} members is large: rather {math.ceil(consumers / LARGE_GROUP)} streams, each "
            "with a topic and a group of its own, which the keys are shared out among"
        )


def _model(work: Work, costs: Costs, limits: Limits) -> ModelCosts:
    if limits.window_us is not None:
        return ModelCosts(request_us=0.0, step_us=limits.window_us / work.past)
    family = work.family if work.family in costs.models else CHEAPER_THAN.get(work.family, work.family)
    if family not in costs.models:
        raise InputError(
            f"costs of the model family '{work.family}': expected one of {', '.join(sorted(costs.models))}, or "
            "--window-us, what your model takes of a core for a window"
        )
    return costs.models[family]
