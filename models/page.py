"""Pages of HTML to be read in a browser: no script, no other file, light and dark, on a phone too; and their plots.

Keys, names and units come from other people's data. They stand in a page's text alone, escaped: never in a plot, whose
text a plotting library may interpret, and never in a file's name.
"""

from __future__ import annotations

import io
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import matplotlib as mpl
from jinja2 import Environment, FileSystemLoader, StrictUndefined
from markupsafe import Markup
from matplotlib.figure import Figure

INK = "#010203"
"""Stands for the page's own text colour, light or dark, in a plot."""
BLUE, ORANGE, GREY = "#3b82f6", "#f0883e", "#8b98a5"
COLOURS = (ORANGE, "#2fa36b", "#a371f7", "#d1495b")
_STYLE = {
    "svg.fonttype": "none",
    "text.parse_math": False,
    "text.color": INK,
    "axes.labelcolor": INK,
    "axes.edgecolor": GREY,
    "xtick.color": INK,
    "ytick.color": INK,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.grid": True,
    "grid.color": GREY,
    "grid.alpha": 0.25,
    "legend.frameon": False,
    "font.family": "sans-serif",
}


@dataclass(frozen=True, slots=True)
class Plot:
    """A plot, and what stands below it."""

    svg: Markup
    caption: str


def write_page(path: Path, template: str, contents: Mapping[str, Any]) -> None:
    """Writes a page.

    Args:
      path: of the HTML file.
      template: its file in this folder.
      contents: what the template asks for; texts are escaped.
    """
    templates = Environment(
        loader=FileSystemLoader(Path(__file__).parent), autoescape=True, undefined=StrictUndefined, trim_blocks=True
    )
    path.write_text(templates.get_template(template).render(contents), encoding="utf-8")


def style() -> Any:
    """The style of plots, as a context to draw in."""
    return mpl.rc_context(_STYLE)


def axes(width: float = 4.6, height: float = 2.8) -> tuple[Any, Any]:
    """An empty figure of so many inches, and its axes."""
    figure = Figure(figsize=(width, height), layout="constrained")
    figure.patch.set_alpha(0)
    drawn = figure.subplots()
    drawn.patch.set_alpha(0)
    return figure, drawn


def svg(figure: Any) -> Markup:
    """A figure as an SVG element of a page."""
    file = io.StringIO()
    figure.savefig(file, format="svg", metadata={"Date": None})
    drawn = file.getvalue()
    return Markup(drawn[drawn.index("<svg") :].replace(INK, "currentColor"))  # noqa: S704 (nothing of the data's text is in it)


def number(value: float | None) -> str:
    """A score in four digits."""
    return "–" if value is None else f"{value:.4g}"


def percent(value: float | None, digits: int = 1) -> str:
    """A share in per cent."""
    return "–" if value is None else f"{value:.{digits}%}"
