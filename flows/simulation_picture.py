"""A picture of a simulation: the live error day by day, and what happened when."""

from __future__ import annotations

from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from flows.live_errors import LiveErrors
from flows.simulation_result import SimulationResult
from schemas.prediction import Role
from schemas.spec import Spec

if TYPE_CHECKING:
    from matplotlib.axes import Axes

_DAY_MS = 86_400_000
_COLOURS = {"promoted": "tab:green", "pushed": "tab:red", "rolled_back": "tab:blue", "refused": "0.6"}


def draw_simulation(spec: Spec, result: SimulationResult, errors: LiveErrors, path: Path) -> None:
    """Draws the live error of what answered, of the shadow and of persistence, and below it who answered; as PNG."""
    import matplotlib as mpl

    mpl.use("Agg")
    from matplotlib import pyplot as plt
    from matplotlib import ticker

    figure, (above, below) = plt.subplots(
        2, 1, figsize=(11, 6), sharex=True, gridspec_kw={"height_ratios": (5, 2)}, layout="constrained"
    )
    days = range(result.begin_ms, result.end_ms, _DAY_MS)
    dates = [_date(day_ms + _DAY_MS // 2) for day_ms in days]

    def by_day(role: Role) -> list[LiveErrors]:
        return [errors.between(day_ms, day_ms + _DAY_MS, role) for day_ms in days]

    answered, shadow = by_day("champion"), by_day("shadow")
    above.plot(dates, [one.mae_persistence for one in answered], color="0.7", linewidth=1, label="persistence")
    above.plot(
        dates,
        [one.mae for one in shadow],
        color="tab:orange",
        marker=".",
        linewidth=1,
        label="shadow: the version before",
    )
    above.plot(dates, [one.mae for one in answered], color="black", linewidth=1.6, label="what answered")
    above.axvspan(_date(result.change_ms), _date(result.end_ms), color="tab:red", alpha=0.05, label="after the change")
    for trigger in result.triggers:
        above.axvline(_date(trigger.time_ms), color="tab:purple", linewidth=0.8, linestyle=":")
        _name(above, trigger.time_ms, f"drift: {trigger.feature or 'errors'}", "tab:purple")
    above.set_ylabel(f"live MAE by day\n{result.target}")
    above.set_yscale("log")  # a bad model errs many times as much
    above.yaxis.set_major_locator(ticker.LogLocator(base=10, subs=(1, 2, 5)))
    above.yaxis.set_major_formatter("{x:g}")
    above.yaxis.set_minor_formatter(ticker.NullFormatter())
    above.legend(loc="upper left", frameon=False, fontsize=8)
    above.set_title(f"{spec.stream.name}: a change of the world, and a bad model, in the closed loop", loc="left")

    versions = np.array([one.version for one in result.served])
    for one in result.served:
        colour = (
            "tab:red" if one.version == result.sabotaged else "tab:green" if one.version == result.better else "0.3"
        )
        below.hlines(one.version, _date(one.first_ms), _date(one.last_ms), color=colour, linewidth=6)
    for happening in result.happened:
        if happening.event in _COLOURS:
            below.axvline(_date(happening.time_ms), color=_COLOURS[happening.event], linewidth=1)
            _name(below, happening.time_ms, happening.event.replace("_", " "), _COLOURS[happening.event])
    below.set_yticks(versions)
    below.set_ylim(versions.min() - 0.6, versions.max() + 0.6)
    below.set_ylabel("version\nthat answers")
    below.margins(x=0.01)
    figure.savefig(path, dpi=110)
    plt.close(figure)


def _name(axes: Axes, time_ms: int, text: str, colour: str) -> None:
    """Writes down what happened at a moment."""
    axes.annotate(
        text,
        (_date(time_ms), 1),
        xycoords=("data", "axes fraction"),
        rotation=90,
        va="top",
        ha="right",
        fontsize=7,
        color=colour,
        bbox={"facecolor": "white", "edgecolor": "none", "pad": 0.5},
    )


def _date(time_ms: int) -> datetime:
    return datetime.fromtimestamp(time_ms / 1_000, UTC)
