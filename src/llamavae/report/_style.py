"""The common style of all plots: colours, empty figures, axes and legends.

Figures are created without pyplot: no global state changes, and no figure must be closed. The
colours are the colour-blind safe palette of Okabe and Ito; a second curve is also dashed.
"""

from __future__ import annotations

import math
from typing import Any

from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.text import Text
from matplotlib.ticker import MaxNLocator

INK, FAINT, PAPER = "#1f2328", "#d1d5da", "#ffffff"
BLUE, VERMILION, GREEN, PURPLE = "#0072b2", "#d55e00", "#009e73", "#cc79a7"
SKY, ORANGE, GREY = "#56b4e9", "#e69f00", "#8c959f"
CATEGORIES = (BLUE, VERMILION, GREEN, PURPLE, SKY, ORANGE)
MARKERS = "o^s"

WIDTH, HEIGHT = 4.6, 3.2  # inches of one panel


class _Figure(Figure):
    """A figure whose texts are shown as they are: `$` does not begin a formula."""

    def draw(self, renderer: Any) -> None:
        for text in self.findobj(Text):
            text.set_parse_math(False)
        super().draw(renderer)


def new_figure(
    panels: int = 1, columns: int = 1, width: float = WIDTH, height: float = HEIGHT
) -> tuple[Figure, list[Axes]]:
    """An empty figure with panels of the given size in rows of `columns`, and their axes."""
    rows = math.ceil(panels / columns)
    figure = _Figure((columns * width, rows * height), layout="constrained", facecolor=PAPER)
    axes = list(figure.subplots(rows, columns, squeeze=False).flat)
    for axis in axes[panels:]:
        axis.remove()
    return figure, axes[:panels]


def finish(axis: Axes, x: str, y: str, title: str = "") -> None:
    """Apply the common style to an axis."""
    axis.set_facecolor(PAPER)
    axis.set_xlabel(x, fontsize=10, color=INK)
    axis.set_ylabel(y, fontsize=10, color=INK)
    if title:
        axis.set_title(title, fontsize=10, color=INK)
    axis.tick_params(labelsize=9, color=INK, labelcolor=INK)
    if "step" in x:
        axis.xaxis.set_major_locator(MaxNLocator(nbins=7, integer=True))
    axis.grid(visible=True, color=FAINT, linewidth=0.6)
    axis.set_axisbelow(True)
    for side, spine in axis.spines.items():
        spine.set_visible(side in ("left", "bottom"))
        spine.set_color(INK)


def annotate(
    axis: Axes, text: str, point: tuple[float, float], offset: tuple[float, float], **style: Any
) -> None:
    """Write a text next to a point, at an offset in points (1/72 inch)."""
    axis.annotate(text, point, xytext=offset, textcoords="offset points", color=INK, **style)


def legend(axis: Axes, **options: Any) -> None:
    """Add a legend to an axis if any of its curves has a label."""
    if axis.get_legend_handles_labels()[0]:
        axis.legend(fontsize=9, frameon=False, labelcolor=INK, **options)


def legend_below(figure: Figure, *entries: Any, **options: Any) -> None:
    """Add a legend below all panels of a figure; arguments as for `Figure.legend`."""
    options = {"fontsize": 9, "frameon": False, "labelcolor": INK, **options}
    figure.legend(*entries, loc="outside lower center", **options)
