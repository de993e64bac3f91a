"""An evaluation as one HTML file, to be read in a browser (`models.page`)."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.ticker import MaxNLocator

from models import layout
from models.evaluation import Evaluation, Example, skill_name, skills_of
from models.page import BLUE, COLOURS, GREY, INK, ORANGE, Plot, axes, number, percent, style, svg, write_page
from pipelines.kernels.metrics import central_intervals
from schemas.spec import Spec
from schemas.units import format_duration, ms_to_iso

KEYS_SHOWN = 100
"""Of the table of keys: those with the least skill."""


def write_report(path: Path, spec: Spec, evaluation: Evaluation, *, epochs: Sequence[Mapping[str, Any]] = ()) -> None:
    """Writes the report of an evaluation.

    Args:
      path: of the HTML file.
      spec: the model's.
      evaluation: of a split.
      epochs: the records of the training run (`metrics.jsonl`), where there was one.
    """
    with style():
        write_page(path, "report.html.jinja", _contents(spec, evaluation, epochs))


def summary_lines(document: Mapping[str, Any]) -> list[str]:
    """An evaluation in a few lines of text."""
    skills = ", ".join(f"{percent(skill)} against {name}" for name, skill in skills_of(document).items())
    lines = [f"{document['split']}: {document['windows']} windows, {document['cells']} observed steps; skill {skills}"]
    for name, found in document["targets"].items():
        unit = f" ({found['unit']})" if found["unit"] else ""
        parts = [f"{score.upper()} {number(found[score])}" for score in ("mae", "rmse", "mase", "smape", "owa")]
        parts += [f"{percent(share)} within {percent(float(k), 0)}" for k, share in found.get("coverage", {}).items()]
        lines.append(f"  {name}{unit}: {', '.join(parts)}")
    return lines


def _contents(spec: Spec, evaluation: Evaluation, epochs: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    document = evaluation.document
    family = "a model" if spec.model is None else spec.model.family
    targets = [
        _target(document, name + (f" ({found['unit']})" if found["unit"] else ""), found)
        for name, found in document["targets"].items()
    ]
    return {
        "title": f"{spec.stream.name}: {family} on the split {document['split']}",
        "subtitle": f"{document['windows']:,} windows of {len(document['windows_by_key']):,} keys, "
        f"{spec.window.horizon} steps of {format_duration(spec.grid.step)} ahead.",
        "tiles": _tiles(document),
        "curve": learning_curve(epochs, "Loss by epoch, standardised.") if epochs else None,
        "targets": targets,
        "examples": [_example(spec, one, column) for one in evaluation.examples for column in range(len(targets))],
        "shaded": "levels" in document,
        "anomalies": _anomalies(document.get("anomalies", ())),
        "facts": _facts(spec, document),
    }


def _tiles(document: Mapping[str, Any]) -> list[tuple[str, str]]:
    standard = document["standardised"]
    tiles = [(f"skill against {name}", percent(skill)) for name, skill in skills_of(document).items()]
    tiles += [("MAE, standardised", number(standard["mae"])), ("MSE, standardised", number(standard["mse"]))]
    [first, *others] = document["targets"].values()
    if not others:
        tiles += [("MASE", number(first["mase"])), ("sMAPE", number(first["smape"])), ("OWA", number(first["owa"]))]
        tiles += [(f"within {percent(float(k), 0)}", percent(v)) for k, v in first.get("coverage", {}).items()]
    return tiles


def _target(document: Mapping[str, Any], name: str, found: Mapping[str, Any]) -> dict[str, Any]:
    yardsticks = document["yardsticks"]
    plots = [_by_horizon(found["by_horizon"], yardsticks), _skills(found, yardsticks)]
    if "levels" in document:
        plots.append(_reliability(found))
    tables = [
        {"title": f"By {label.replace('_', ' ')}", "note": "", **_table(yardsticks, slices, label)}
        for label, slices in found["by_slice"].items()
    ]
    return {
        "name": name,
        "scores": _table(yardsticks, {"all": found}, ""),
        "plots": plots,
        "tables": [*tables, _keys(yardsticks, found["by_key"])],
    }


def _keys(yardsticks: Sequence[str], by_key: Mapping[str, Mapping[str, Any]]) -> dict[str, Any]:
    ranked = sorted(by_key.items(), key=lambda item: -np.inf if item[1]["skill"] is None else item[1]["skill"])
    shown = dict(ranked[:KEYS_SHOWN])
    note = "The least skilful first."
    if len(by_key) > len(shown):
        note += f" {len(by_key) - len(shown):,} more keys are in evaluation.json."
    return {"title": "By key", "note": note, **_table(yardsticks, shown, "key")}


def _table(yardsticks: Sequence[str], groups: Mapping[str, Mapping[str, Any]], label: str) -> dict[str, Any]:
    """Heads and rows of a table of scores, a row for each group."""
    intervals = next((list(scores["coverage"]) for scores in groups.values() if "coverage" in scores), [])
    heads = [label.replace("_", " "), "cells", "MAE", "RMSE", "sMAPE", "MASE"]
    heads += [f"skill: {name}" for name in yardsticks]
    heads += ["CRPS"] if intervals else []
    heads += [head for name in intervals for head in (f"in {percent(float(name), 0)}", "MSIS")]
    rows = []
    for group, scores in groups.items():
        row = [group, f"{scores['cells']:,}", *(number(scores[score]) for score in ("mae", "rmse", "smape", "mase"))]
        row += [percent(scores[skill_name(name)]) for name in yardsticks]
        row += [number(scores["crps"])] if intervals else []
        for name in intervals:
            row += [percent(scores["coverage"][name]), number(scores["msis"][name])]
        rows.append(row)
    return {"heads": heads, "rows": rows}


def _anomalies(found: Sequence[Mapping[str, Any]]) -> dict[str, Any] | None:
    if not found:
        return None
    heads = ["key", "target", "time", "observed", "forecast", "lower", "upper", "score"]
    rows = [
        [one["key"], one["target"], ms_to_iso(one["time_ms"])]
        + [number(one[name]) for name in ("observed", "forecast", "lower", "upper", "score")]
        for one in found
    ]
    return {"heads": heads, "rows": rows}


def _facts(spec: Spec, document: Mapping[str, Any]) -> dict[str, Any]:
    season = format_duration(document["season"] * spec.grid.step)
    rows = [
        ["windows", f"{document['windows']:,}: all of the split, each once"],
        ["of keys that training has not seen", f"{document['windows_of_unknown_keys']:,}"],
        ["observed horizon steps", f"{document['cells']:,}"],
        ["season of MASE and Naive2", f"{document['season']} steps ({season})"],
        *([["fitted", document["fitted"]]] if "fitted" in document else []),
        ["dataset", document["dataset"]],
        ["spec", spec.fingerprint],
    ]
    return {"heads": ["", ""], "rows": rows}


def epochs_of(run: Path | None) -> list[dict[str, Any]]:
    """The records of a run's epochs; none without a run, or of one without descent."""
    if run is None or not (run / layout.METRICS_FILE).is_file():
        return []
    return [json.loads(line) for line in (run / layout.METRICS_FILE).read_text().splitlines()]


def learning_curve(epochs: Sequence[Mapping[str, Any]], caption: str) -> Plot:
    """The losses of at least one epoch, in a style."""
    figure, plot = axes(7, 2.6)
    numbers = [record["epoch"] for record in epochs]
    plot.plot(numbers, [record["loss"] for record in epochs], marker=".", color=GREY, label="training")
    plot.plot(numbers, [record["val_loss"] for record in epochs], marker=".", color=BLUE, label="validation")
    plot.set(xlabel="epoch", ylabel="loss")
    plot.xaxis.set_major_locator(MaxNLocator(integer=True))
    plot.legend()
    return Plot(svg(figure), caption)


def _by_horizon(steps: Sequence[Mapping[str, Any]], yardsticks: Sequence[str]) -> Plot:
    figure, plot = axes()
    numbers = np.arange(1, len(steps) + 1)
    for place, name in enumerate(yardsticks):
        values = _values(steps, f"mae_{name}")
        plot.plot(numbers, values, color=COLOURS[place % len(COLOURS)], linewidth=1, label=name)
    plot.plot(numbers, _values(steps, "mae"), color=BLUE, linewidth=2, label="model")
    plot.set(xlabel="step of the horizon", ylabel="MAE", ylim=(0, None))
    plot.xaxis.set_major_locator(MaxNLocator(integer=True))
    plot.legend()
    return Plot(svg(figure), "Mean absolute error by step of the horizon.")


def _skills(scores: Mapping[str, Any], yardsticks: Sequence[str]) -> Plot:
    figure, plot = axes()
    values = [scores[skill_name(name)] or 0.0 for name in yardsticks]
    bars = plot.barh(list(yardsticks), values, color=[BLUE if value > 0 else ORANGE for value in values], height=0.5)
    plot.bar_label(bars, [f"{value:+.1%}" for value in values], padding=4)
    plot.axvline(0, color=INK, linewidth=0.8)
    plot.set(xlabel="skill: 1 - MAE / its MAE")
    plot.margins(x=0.25)
    plot.invert_yaxis()
    return Plot(svg(figure), "Skill against forecasts that take no model. Above 0 is better than they are.")


def _reliability(scores: Mapping[str, Any]) -> Plot:
    figure, plot = axes()
    plot.plot((0, 1), (0, 1), color=GREY, linewidth=1, label="reliable")
    below = [(float(level), share) for level, share in scores["below"].items() if share is not None]
    plot.plot(*np.array(below, float).reshape(-1, 2).T, marker="o", color=BLUE, label="quantiles")
    covered = [(float(level), share) for level, share in scores["coverage"].items() if share is not None]
    plot.plot(*np.array(covered, float).reshape(-1, 2).T, "s", color=ORANGE, label="intervals")
    plot.set(xlabel="said", ylabel="came true", xlim=(0, 1), ylim=(0, 1))
    plot.legend()
    return Plot(svg(figure), "How often observations lay below each quantile, and within each interval.")


def _example(spec: Spec, one: Example, column: int) -> Plot:
    figure, plot = axes()
    horizon = spec.window.horizon
    shown = min(len(one.past), 3 * horizon)
    before, after = np.arange(-shown, 0), np.arange(horizon)
    plot.plot(
        np.concatenate((before, after)), np.concatenate((one.past[-shown:, column], one.actual[:, column])), color=GREY
    )
    if one.quantiles is not None:
        for low, high in central_intervals(spec.quantile_levels).values():
            bounds = one.quantiles[:, column, low], one.quantiles[:, column, high]
            plot.fill_between(after, *bounds, color=BLUE, alpha=0.15, linewidth=0)
    plot.plot(after, one.mean[:, column], color=BLUE, linewidth=2)
    plot.axvline(-0.5, color=GREY, linewidth=0.8, linestyle=":")
    plot.set(xlabel="step from the origin")
    plot.xaxis.set_major_locator(MaxNLocator(integer=True))
    target = spec.targets[column].name if len(spec.targets) > 1 else ""
    return Plot(svg(figure), " · ".join(filter(None, (one.key, target, ms_to_iso(one.origin_ms)))))


def _values(steps: Sequence[Mapping[str, Any]], name: str) -> list[float]:
    return [np.nan if step[name] is None else step[name] for step in steps]
