"""The run card: what a retraining run did, as one HTML file (`models.page`), as far as it came."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from datetime import date, timedelta
from pathlib import Path
from typing import Any

import numpy as np

from flows.retrain_plan import Plan
from models.page import BLUE, COLOURS, GREY, ORANGE, Plot, axes, number, percent, style, svg, write_page
from schemas.spec import Spec
from schemas.split_spec import SPLITS, DateSplit
from schemas.units import ms_to_iso

Document = Mapping[str, Any]
Table = dict[str, Any]


def write_card(
    path: Path,
    spec: Spec,
    plan: Plan,
    journal: Document,
    result: Document,
    candidate: Document | None,
    champion: Document | None,
) -> None:
    """Writes the card of a run.

    Args:
      path: of the HTML file.
      spec: the stream.
      plan: the run's.
      journal: what its steps have noted (`flows.journal.Journal.document`).
      result: its outcome (`flows.retrain.RetrainResult.document`).
      candidate: the candidate's evaluation, where it came so far.
      champion: the champion's, on the same windows, where there is one.
    """
    steps = journal["steps"]
    canary = steps.get("canary")
    with style():
        contents = {
            "title": f"{spec.stream.name}: retraining of {plan.interval[0]} to {plan.interval[1]}",
            "subtitle": _subtitle(spec, result),
            "tiles": _tiles(result, candidate, champion, canary),
            "reason": result["reason"],
            "splits": _splits(plan, steps.get("dataset")),
            "days": _days(steps["dataset"]["days"]) if "dataset" in steps else None,
            "spans": _spans(steps["spans"]["spans"]) if "spans" in steps else None,
            "scores": [] if candidate is None else _scores(candidate, champion),
            "gate": _gate(steps["gate"]["decisions"]) if "gate" in steps else None,
            "canary": None if canary is None else _canary(canary, spec),
            "latencies": None if canary is None else _latencies(canary["latencies_ms"], spec.retrain.canary.latency),
            "lineage": _lineage(spec, plan, steps, candidate),
        }
        write_page(path, "run_card.html.jinja", contents)


def _subtitle(spec: Spec, result: Document) -> str:
    what = result["outcome"].replace("_", " ")
    if result["version"] is not None:
        what += f" as version {result['version']}"
    if result["champion"] is not None:
        what += f", against version {result['champion']}"
    return f"{spec.model_name}: {what}." + (" A dry run: nothing was published." if result["dry_run"] else "")


def _tiles(
    result: Document, candidate: Document | None, champion: Document | None, canary: Document | None
) -> list[tuple[str, str]]:
    tiles = [("outcome", result["outcome"].replace("_", " "))]
    if candidate is not None:
        own = candidate["standardised"]
        tiles += [("candidate's MAE", number(own["mae"])), ("skill against persistence", percent(own["skill"]))]
        if champion is not None:
            theirs = champion["standardised"]
            tiles.append(("champion's MAE", number(theirs["mae"])))
            if own["mae"] is not None and theirs["mae"]:
                tiles.append(("change", f"{own['mae'] / theirs['mae'] - 1:+.1%}"))
    if canary is not None:
        tiles.append(("canary, 95 % within", f"{canary['p95_ms']:.1f} ms"))
    return tiles


def _splits(plan: Plan, dataset: Document | None) -> Table:
    rows = []
    if plan.spec is not None and isinstance(plan.spec.split, DateSplit):
        for name in SPLITS:
            first_ms, last_ms = plan.spec.split.interval(name)
            count = "–" if dataset is None else f"{dataset['splits'][name]['windows']:,}"
            used = "the gate's slice" if name == "test" else name
            rows.append([used, ms_to_iso(first_ms), ms_to_iso(last_ms), count])
    return {"heads": ["split", "from", "until", "windows"], "rows": rows}


def _spans(spans: Sequence[Document]) -> Table:
    counts = ("rows", "used", "duplicate", "late", "dead")
    rows = [
        [one["name"], *(f"{one['events'][name]:,}" for name in counts), f"{one['windows']:,}", one["sha256"][:16]]
        for one in spans
    ]
    return {"heads": ["span", *counts, "windows", "sha256"], "rows": rows}


def _days(days: Mapping[str, int]) -> Plot | None:
    if not days:
        return None
    first, last = date.fromisoformat(min(days)), date.fromisoformat(max(days))
    every = [str(first + timedelta(days=day)) for day in range((last - first).days + 1)]
    figure, plot = axes(9, 1.8)
    plot.fill_between(range(len(every)), [days.get(day, 0) for day in every], step="mid", color=BLUE, linewidth=0)
    plot.set(xlabel="day", ylabel="windows", ylim=(0, None))
    empty = sum(day not in days for day in every)
    return Plot(
        svg(figure), f"Windows by the day that their horizon ends in, {first} to {last}; {empty} days have none."
    )


def _scores(candidate: Document, champion: Document | None) -> list[dict[str, Any]]:
    found = []
    for name, own in candidate["targets"].items():
        theirs = None if champion is None else champion["targets"][name]
        models = {"candidate": own} | ({} if theirs is None else {"champion": theirs})
        rows = [
            [who, *(number(scores[score]) for score in ("mae", "rmse", "mase", "smape")), percent(scores["skill"])]
            for who, scores in models.items()
        ]
        rows += [
            [yardstick, number(own[f"mae_{yardstick}"]), "–", "–", "–", "–"] for yardstick in candidate["yardsticks"]
        ]
        found.append(
            {
                "name": name + (f" ({own['unit']})" if own["unit"] else ""),
                "heads": ["", "MAE", "RMSE", "MASE", "sMAPE", "skill"],
                "rows": rows,
                "plots": [_by_step(own["by_horizon"], theirs, candidate["yardsticks"])],
                "tables": [] if theirs is None else _beside(own, theirs),
            }
        )
    return found


def _beside(own: Document, theirs: Document) -> list[dict[str, Any]]:
    """Candidate and champion by slice and by key."""
    tables = []
    groups = {kind.replace("_", " "): labels for kind, labels in own["by_slice"].items()} | {"key": own["by_key"]}
    before = {kind.replace("_", " "): labels for kind, labels in theirs["by_slice"].items()} | {"key": theirs["by_key"]}
    for kind, labels in groups.items():
        rows = []
        for label, scores in labels.items():
            mae, other = scores["mae"], before[kind][label]["mae"]
            change = "–" if mae is None or not other else f"{mae / other - 1:+.1%}"
            rows.append([label, f"{scores['cells']:,}", number(mae), number(other), change])
        tables.append({"title": f"By {kind}", "heads": [kind, "cells", "MAE", "champion's", "change"], "rows": rows})
    return tables


def _by_step(steps: Sequence[Document], champion: Document | None, yardsticks: Sequence[str]) -> Plot:
    figure, plot = axes(7, 2.8)
    numbers = np.arange(1, len(steps) + 1)
    lines = {name: (f"mae_{name}", COLOURS[(1 + place) % len(COLOURS)]) for place, name in enumerate(yardsticks)}
    for name, (score, colour) in lines.items():
        plot.plot(numbers, _values(steps, score), color=colour, linewidth=1, label=name)
    if champion is not None:
        plot.plot(numbers, _values(champion["by_horizon"], "mae"), color=ORANGE, linewidth=2, label="champion")
    plot.plot(numbers, _values(steps, "mae"), color=BLUE, linewidth=2, label="candidate")
    plot.set(xlabel="step of the horizon", ylabel="MAE", ylim=(0, None))
    plot.legend()
    return Plot(svg(figure), "Mean absolute error by step of the horizon.")


def _values(steps: Sequence[Document], name: str) -> list[float]:
    return [np.nan if step[name] is None else step[name] for step in steps]


def _gate(decisions: Sequence[Document]) -> Table:
    rows = [
        [
            one["name"],
            number(one["value"]),
            f"at {'most' if one['at_most'] else 'least'} {one['bound']:.4g}",
            "passed" if one["passed"] else "FAILED",
        ]
        for one in decisions
    ]
    return {"heads": ["threshold", "value", "expected", ""], "rows": rows}


def _canary(canary: Document, spec: Spec) -> Table:
    rows = [
        ["loaded and warm after", f"{canary['load_s']:.1f} s", f"at most {spec.retrain.canary.load / 1_000:g} s"],
        ["95 % of the answers within", f"{canary['p95_ms']:.1f} ms", f"at most {spec.retrain.canary.latency} ms"],
        ["requests", f"{len(canary['latencies_ms'])}", "finite, and equal to the evaluated model's"],
    ]
    return {"heads": ["", "value", "expected"], "rows": rows}


def _latencies(latencies_ms: Sequence[float], budget_ms: int) -> Plot:
    figure, plot = axes(7, 2.2)
    plot.plot(np.arange(1, len(latencies_ms) + 1), latencies_ms, ".", color=BLUE)
    if max(latencies_ms) > budget_ms / 10:
        plot.axhline(budget_ms, color=GREY, linestyle=":")
    plot.set(xlabel="request", ylabel="ms", ylim=(0, None))
    return Plot(svg(figure), "How long each request of one window took.")


def _lineage(spec: Spec, plan: Plan, steps: Document, candidate: Document | None) -> Table:
    training = steps.get("train", {})
    started = training.get("started_from")
    rows = [
        ["spec", spec.fingerprint if plan.spec is None else plan.spec.fingerprint],
        ["windows", spec.window_fingerprint],
        ["dataset", "–" if candidate is None else candidate["dataset"]],
        ["training started from", "new weights" if started is None else f"the weights of version {started}"],
    ]
    if training.get("note"):
        rows.append(["", training["note"]])
    if plan.champion is not None and plan.champion.trained_to_ms is None:
        rows.append(["champion", "does not say what it was trained on; it may have seen the gate's slice"])
    return {"heads": ["", ""], "rows": rows}
