"""Sizes in words."""

from __future__ import annotations

from deploy.capacity.costs import Costs
from deploy.capacity.figures import duration, size
from deploy.capacity.sizes import DAY_S, INGEST_S, Limits, Sizes


def account(sizes: Sizes, costs: Costs, limits: Limits) -> list[str]:
    """The lines that `tidegauge capacity` prints."""
    shares = sorted(sizes.shares.items(), key=lambda share: -share[1])
    rows = [
        ("consumers", f"{sizes.consumers:,}", f"{sizes.consumer_events_per_s:,.0f} events a second each, never idle"),
        ("  memory", size(sizes.consumer_bytes), f"each; windows of all keys {size(sizes.state_bytes)}"),
        ("  time goes to", f"{shares[0][0]}", ", ".join(f"{name} {share:.0%}" for name, share in shares)),
        ("  after a crash", duration(sizes.replay_s), f"each reads {sizes.replay_events:,.0f} events again"),
        ("partitions", f"{sizes.partitions:,}", "of the events and of the predictions"),
        ("model servers", f"{sizes.servers:,}", f"of {limits.server_cores} cores, {sizes.server_cores:,.1f} busy"),
        ("  windows", f"{sizes.windows_per_s:,.0f}/s", f"in {sizes.requests_per_s:,.0f} requests a second"),
        ("brokers", f"{sizes.brokers:,}", f"{limits.replication} replicas of what comes in"),
        ("  in", f"{size(sizes.broker_in_bytes_per_s)}/s", "events and predictions, before compression"),
        ("  out", f"{size(sizes.broker_out_bytes_per_s)}/s", "to consumers and to one reader of predictions"),
        ("Flink slots", f"{sizes.flink_slots:,}", f"to ingest {DAY_S // 3600} hours in {INGEST_S // 60} minutes"),
    ]
    wide, middle = max(len(name) for name, _, _ in rows), max(len(figure) for _, figure, _ in rows)
    lines = [f"{name:{wide}}  {figure:>{middle}}  {text}" for name, figure, text in rows]
    lines.append(f"breaks first: {sizes.breaks_first}; what helps: {sizes.advice}")
    lines += [f"note: {note}" for note in sizes.notes]
    busy = f"parts busy for at most {limits.utilisation:.0%} of the time"
    return [*lines, f"by costs of {costs.machine} ({costs.measured}); {busy}"]
