"""The tables of docs/scale.md, in Markdown."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from deploy.capacity.costs import Costs
from deploy.capacity.figures import duration, size
from deploy.capacity.sizes import Limits, sizes, turn
from deploy.capacity.work import Load, Work

RATES = (1e3, 1e4, 1e5, 1e6, 1e7)
KEYS = (1e3, 1e5, 1e7, 1e9)
_UNITS = {
    "turn_us": "a turn of the loop: poll, commit",
    "key_us": "a key that has events in the turn",
    "event_us": "an event",
    "number_us": "a number of an event",
    "window_us": "a window",
    "cell_us": "a step of a feature in a window",
    "output_us": "a number of a prediction",
    "replay_us": "an event that is replayed",
}


def tables(costs: Costs) -> list[str]:
    """The costs, what a turn is made of, models, and sizes for loads, all of the plain stream."""
    return ["\n".join(table) for table in (_costs(costs), _turns(costs), _models(costs), _sizes(costs))]


def _costs(costs: Costs) -> Iterator[str]:
    yield from _head("a consumer's", "microseconds")
    for name, text in _UNITS.items():
        cost = getattr(costs.consumer, name)
        yield _row(text, f"{cost:,.0f}" if cost >= 100 else f"{cost:.3g}")


def _turns(costs: Costs) -> Iterator[str]:
    work, limits = Work(), Limits()
    names = ("commits", "keys", "events", "windows", "model")
    yield from _head("keys of a consumer", *names, "turn, ms", "events a second")
    for keys in (10, 100, 1_000, 10_000):
        one = turn(work, costs, limits, keys=keys, windows_per_event=1.0)
        parts = (f"{one.seconds[name] * 1e3:.1f}" for name in names)
        total = sum(one.seconds.values()) * 1e3
        yield _row(f"{keys:,}", *parts, f"{total:.0f}", f"{one.events_per_s:,.0f}")


def _models(costs: Costs) -> Iterator[str]:
    yield from _head("family", "a request, µs", "a window of 64 steps, µs", "windows a second and core")
    for family, model in costs.models.items():
        window_us = 64 * model.step_us
        per_core = 1e6 / (window_us + model.request_us / Work().request_windows)
        yield _row(f"`{family}`", f"{model.request_us:,.0f}", f"{window_us:.1f}", f"{per_core:,.0f}")


def _sizes(costs: Costs) -> Iterator[str]:
    yield from _head(
        "events/s",
        "keys",
        "consumers",
        "partitions",
        "model servers",
        "brokers",
        "Flink slots",
        "events and predictions",
        "state",
        "replay",
        "breaks first",
    )
    for rate in RATES:
        for keys in KEYS:
            found = sizes(Load(events_per_s=rate, keys=keys), Work(), costs, Limits())
            counts = (found.consumers, found.partitions, found.servers, found.brokers, found.flink_slots)
            yield _row(
                f"{rate:,.0f}",
                f"{keys:,.0f}",
                *(f"{count:,}" for count in counts),
                f"{size(found.broker_in_bytes_per_s)}/s",
                size(found.state_bytes),
                duration(found.replay_s),
                found.breaks_first,
            )


def _head(*names: str) -> Sequence[str]:
    return _row(*names), "|" + "---|" * len(names)


def _row(*cells: str) -> str:
    return f"| {' | '.join(cells)} |"
