"""Plots of a run and of a latent space, as matplotlib figures."""

from __future__ import annotations

import textwrap
from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import LogFormatter, MaxNLocator

from llamavae.errors import UserError, unknown
from llamavae.metrics.latent import ACTIVE_THRESHOLD
from llamavae.report._style import (
    BLUE,
    CATEGORIES,
    GREEN,
    GREY,
    INK,
    MARKERS,
    ORANGE,
    PURPLE,
    SKY,
    VERMILION,
    WIDTH,
    annotate,
    finish,
    legend,
    legend_below,
    new_figure,
)

Line = Mapping[str, Any]
"""A line of log.jsonl."""


def plot_training(log: Sequence[Line], panels: Sequence[str] | None = None) -> Figure:
    """Training curves of a run: one panel each for NLL, KL, beta, BLEU, active units and warm-up.

    Args:
        log: The lines of log.jsonl, in order.
        panels: Panels to draw, names of `training_panels`; None for all available ones.

    Raises:
        UserError: The log has no data for a panel.
    """
    available = training_panels(log)
    for name in panels or []:
        if name not in available:
            raise unknown("panel", name, available, hint="The log has no other panels")
    chosen = list(panels or available)
    if not chosen:
        raise UserError("expected at least one training line in the log; found none")
    figure, axes = new_figure(len(chosen), min(len(chosen), 2))
    for name, axis in zip(chosen, axes, strict=True):
        _draw_panel(axis, name, log)
    return figure


def training_panels(log: Sequence[Line]) -> list[str]:
    """Names of the panels that `plot_training` can draw of this log."""
    keys = {key for line in log for key in line}
    return [name for name, (_, curves) in _PANELS.items() if keys & curves.keys()]


def plot_kl_per_dimension(kl: Sequence[float], active: int | None = None) -> Figure:
    """KL of each dimension in descending order, with the minimum KL of an active one.

    A dimension counts as active if Var_x(mu) > 0.01. Its KL is at least Var_x(mu) / 2, so a
    dimension with 0.005 nats or less is inactive.

    Args:
        kl: KL of each dimension in nats per sentence, D values.
        active: Number of active units, for the title.
    """
    if not len(kl):
        raise UserError("expected at least one KL value to plot; got an empty list")
    values = np.sort(np.asarray(kl, dtype=float))[::-1]
    threshold = ACTIVE_THRESHOLD / 2
    figure, (axis,) = new_figure()
    colours = [BLUE if value > threshold else GREY for value in values]
    axis.bar(np.arange(1, len(values) + 1), values, color=colours, width=0.8)
    axis.axhline(
        threshold,
        color=VERMILION,
        linestyle="--",
        linewidth=1,
        label=f"active means Var(μ) > {ACTIVE_THRESHOLD}, so KL > {threshold}",
    )
    count = "" if active is None else f"; {active} of {len(values)} units active"
    title = f"KL {values.sum():.1f} nats in all{count}"
    finish(axis, "dimensions, largest KL first", "KL (nats per sentence)", title)
    axis.set_xlim(0.3, len(values) + 0.7)
    legend(axis, loc="upper right")
    return figure


def plot_scores(rows: Sequence[Mapping[str, Any]], columns: int = 3) -> Figure:
    """Metrics of several systems as horizontal bars, one small panel per metric.

    Args:
        rows: One row for each system and metric, with `system`, `metric`, `value` and `direction`
            ("higher" or "lower" is better). If present, `unit` is the label of the axis, `low` and
            `high` (95 % confidence interval) are drawn as a line over the bar, and `control` as a
            dashed mark. Panels and bars are in the order of the rows.
        columns: Maximum number of panels side by side.

    Raises:
        UserError: There is no row, a row lacks a key, or two rows have the same system and metric.
    """
    for row in rows:
        if missing := {"system", "metric", "value", "direction"} - set(row):
            raise UserError(f"a row of scores lacks {', '.join(sorted(missing))}: {dict(row)}")
    cells = {(row["system"], row["metric"]): row for row in rows}
    if not rows or len(cells) < len(rows):
        raise UserError(
            "expected one row of scores for each system and metric, and at least one; got "
            f"{len(rows)} rows for {len(cells)} combinations"
        )
    systems = list(dict.fromkeys(row["system"] for row in rows))
    metrics = list(dict.fromkeys(row["metric"] for row in rows))
    names = [textwrap.fill(str(system), 26) for system in systems]
    columns = min(columns, len(metrics))
    height = 1.0 + 0.34 * len(systems)
    figure, axes = new_figure(len(metrics), columns, WIDTH * 0.7, height)
    for i, (metric, axis) in enumerate(zip(metrics, axes, strict=True)):
        _bars(axis, metric, [cells.get((system, metric)) for system in systems])
        axis.set_yticks(range(len(systems)), names if i % columns == 0 else [""] * len(names))
    entries: dict[str, Any] = {}
    for axis in axes:
        marks, labels = axis.get_legend_handles_labels()
        entries |= dict(zip(labels, marks, strict=True))
    if entries:
        legend_below(figure, list(entries.values()), list(entries), ncols=len(entries))
    return figure


def plot_trade_off(rows: Sequence[Mapping[str, Any]]) -> Figure:
    """NLL against KL (distortion against rate), and BLEU against KL where there is any.

    Args:
        rows: A row for each model with `kl`, `nll`, `bleu` (0 to 100, or None) and, with it,
            `bleu_shuffled`; `label`, the annotation of its point, and `line`: models with the same
            value are connected in the order of the rows.

    Raises:
        UserError: There is no row.
    """
    if not rows:
        raise UserError("expected at least one model to plot; got an empty list of rows")
    decoded = [row for row in rows if row["bleu"] is not None]
    panels = 2 if decoded else 1
    figure, axes = new_figure(panels, panels)
    lines = list(dict.fromkeys(row["line"] for row in rows))
    for i, line in enumerate(lines):
        style = {"color": CATEGORIES[i % 6], "marker": MARKERS[i % 3], "markersize": 5}
        curves = ("nll", rows, 4), ("bleu", decoded, -11)  # labels do not overlap the curve
        for axis, (key, chosen, height) in zip(axes, curves, strict=False):
            own = [row for row in chosen if row["line"] == line]
            axis.plot([r["kl"] for r in own], [r[key] for r in own], label=line or None, **style)
            for row in own:
                annotate(axis, str(row["label"]), (row["kl"], row[key]), (5, height), fontsize=8)
    finish(axes[0], "KL (nats per sentence): rate", "NLL (nats per sentence): distortion")
    if decoded:
        points = [r["kl"] for r in decoded], [r["bleu_shuffled"] for r in decoded]
        style = {"color": GREY, "marker": "x", "linestyle": "", "markersize": 5}
        axes[1].plot(*points, label="shuffled z (control)", **style)
        finish(axes[1], "KL (nats per sentence): rate", "reconstruction BLEU (0 to 100)")
        axes[1].set_ylim(-3, 103)
    for axis in axes:
        axis.margins(x=0.16)
        legend(axis)
    return figure


def plot_curve(rows: Sequence[Mapping[str, Any]], x: str, y: str) -> Figure:
    """One column of a table against another, in the order of `x`.

    Args:
        rows: Rows with both columns; rows without a value are skipped.
        x: Column of the horizontal axis; logarithmic if it spans more than a factor of 100.
        y: Column of the vertical axis.

    Raises:
        UserError: No row has both.
    """
    points = sorted((r[x], r[y]) for r in rows if r.get(x) is not None and r.get(y) is not None)
    if not points:
        raise UserError(f"expected a row with both {x} and {y}; found none")
    figure, (axis,) = new_figure()
    axis.plot(*zip(*points, strict=True), color=BLUE, marker="o", markersize=4)
    if points[0][0] > 0 and points[-1][0] / points[0][0] > 100:
        axis.set_xscale("log")
        axis.xaxis.set_major_formatter(LogFormatter())  # without formulas
    finish(axis, x, y)
    return figure


def plot_squares(rows: Sequence[Mapping[str, Any]], x: str, y: str, value: str) -> Figure:
    """Hinton diagram of a matrix: squares whose area is proportional to the value.

    Args:
        rows: A row for each cell, with the columns `x`, `y` and a nonnegative `value`.
        x: Column for the horizontal axis, in the order of the rows.
        y: Column for the vertical axis, in the order of the rows.
        value: Column of the values.
    """
    if not rows:
        raise UserError("expected at least one cell to plot; got an empty list of rows")
    places = [{name: i for i, name in enumerate(dict.fromkeys(r[k] for r in rows))} for k in (x, y)]
    across, down = places
    width, line = 1.3 * WIDTH, 0.22  # inches
    side = 60 * min(0.75 * width / len(across), line)  # points of the largest square
    largest = max(row[value] for row in rows) or 1.0
    figure, (axis,) = new_figure(width=width, height=0.9 + line * len(down))
    axis.scatter(
        [across[row[x]] for row in rows],
        [down[row[y]] for row in rows],
        s=[side**2 * max(0.0, row[value]) / largest for row in rows],
        marker="s",
        c=BLUE,
        linewidths=0,
    )
    finish(axis, x, "", f"{value}, at most {largest:.3g}")
    axis.set_yticks(range(len(down)), [textwrap.shorten(str(name), 24) for name in down])
    step = max(1, len(across) // 16)
    axis.set_xticks(range(0, len(across), step), [str(name) for name in list(across)[::step]])
    axis.set_xlim(-0.8, len(across) - 0.2)
    axis.set_ylim(len(down) - 0.4, -0.6)
    axis.grid(visible=False)
    return figure


def plot_map(rows: Sequence[Mapping[str, Any]], label: str, title: str = "") -> Figure:
    """Points of a projection, coloured by a label.

    Args:
        rows: A row for each point, with `x`, `y` and the label, as returned by `Clusters`.
        label: Name of the label; beyond 12 distinct values, the rarest share one colour.
        title: Title; default: the name of the label.

    Raises:
        UserError: There is no row, or a row lacks a key.
    """
    if not rows:
        raise UserError("expected at least one point to plot; got an empty list of rows")
    for row in rows:
        if missing := {"x", "y", label} - set(row):
            raise UserError(f"a row of a map lacks {', '.join(sorted(missing))}: {dict(row)}")
    points = np.array([[row["x"], row["y"]] for row in rows])
    names = [textwrap.shorten(str(row[label]), 24, placeholder="…") for row in rows]
    counted = [name for name, _ in Counter(names).most_common()]
    own = counted if len(counted) <= 12 else counted[:11]
    styles = {name: (CATEGORIES[i % 6], MARKERS[i // 6]) for i, name in enumerate(sorted(own))}
    rest = f"{len(counted) - len(own)} others"
    if len(own) < len(counted):
        styles = {rest: (GREY, "."), **styles}  # below the others
    group = np.array([name if name in own else rest for name in names])
    figure, (axis,) = new_figure(height=4.4)
    for name, (colour, marker) in styles.items():
        here = points[group == name]
        axis.scatter(*here.T, s=12, c=colour, marker=marker, linewidths=0, alpha=0.75, label=name)
    finish(axis, "", "", title or label)
    widest = max(len(name) for name in styles)
    columns = max(1, min(4, len(styles), 48 // (widest + 5)))
    legend_below(figure, ncols=columns, markerscale=1.6, columnspacing=1.0, handletextpad=0.2)
    return figure


# ------------------------------------------------------------------------------- panels


_TRAINING = {"color": SKY, "linewidth": 1, "label": "training"}
_HELD_OUT = {"color": BLUE, "marker": "o", "label": "held-out"}
_SHUFFLED = {"color": VERMILION, "marker": "s", "linestyle": "--", "label": "shuffled z"}

_PANELS: dict[str, tuple[str, dict[str, dict[str, Any]]]] = {
    "nll": (
        "NLL (nats per sentence)",
        {"nll": _TRAINING, "eval_nll": _HELD_OUT, "eval_nll_shuffled": _SHUFFLED},
    ),
    "kl": ("KL (nats per sentence)", {"kl": _TRAINING, "eval_kl": _HELD_OUT}),
    "beta": ("β (weight of the KL)", {"beta": {"color": GREEN}}),
    "bleu": (
        "reconstruction BLEU (0 to 100)",
        {"eval_bleu": _HELD_OUT | {"label": "own z"}, "eval_bleu_shuffled": _SHUFFLED},
    ),
    "units": (
        "active units (Var(μ) > 0.01)",
        {"eval_active_units": {"color": PURPLE, "marker": "o"}},
    ),
    "warmup": ("NLL (nats per sentence)", {"warmup_nll": {"color": ORANGE}}),
}
"""Maps panels to the label of the vertical axis and to the style of each curve."""


def _draw_panel(axis: Axes, name: str, log: Sequence[Line]) -> None:
    y, curves = _PANELS[name]
    step, x = "step", "step"
    if name == "warmup":
        step, x = "warmup_step", "warm-up step of the plain language model"
    for key, style in curves.items():
        # a resumed run repeats the steps after its checkpoint: the last line is used
        points = {r[step]: r[key] for r in log if r.get(key) is not None and step in r}
        if points:
            style = {"linewidth": 1.6, "markersize": 4, **style}
            axis.plot(*zip(*sorted(points.items()), strict=True), **style)
    finish(axis, x, y)
    if name == "bleu":
        axis.set_ylim(-3, 103)
    else:
        axis.set_ylim(0, 1.06 * axis.dataLim.ymax or 1.0)
    if name == "units":
        axis.yaxis.set_major_locator(MaxNLocator(integer=True))
    legend(axis)


# ------------------------------------------------------------------------------- bars


def _bars(axis: Axes, metric: str, rows: Sequence[Mapping[str, Any] | None]) -> None:
    """A bar for each row, the first one on top; None leaves an empty place."""
    shown = [(y, row) for y, row in enumerate(rows) if row is not None]
    drawn = [
        float(row[key])
        for _, row in shown
        for key in ("value", "low", "high", "control")
        if row.get(key) is not None
    ]
    left, right = min(0.0, *drawn), max(0.0, *drawn)
    room = 0.24 * (right - left or 1.0)  # for the value next to a bar
    for y, row in shown:
        _bar(axis, y, row, room)
    first = shown[0][1]
    unit = f"{first.get('unit', '')}\n{first['direction']} is better".strip()
    finish(axis, unit, "", metric)
    axis.grid(visible=False, axis="y")
    axis.tick_params(axis="y", length=0)
    axis.xaxis.set_major_locator(MaxNLocator(nbins=4))
    axis.set_xlim(left - (0.1 * room if left < 0 else 0), right + room)
    axis.set_ylim(len(rows) - 0.4, -0.6)
    if left < 0:
        axis.axvline(0, color=INK, linewidth=0.8)


def _bar(axis: Axes, y: int, row: Mapping[str, Any], room: float) -> None:
    axis.barh(y, row["value"], height=0.62, color=SKY)
    end = max(0.0, row["value"])
    if row.get("low") is not None and row.get("high") is not None:
        interval = [row["low"], row["high"]]
        axis.plot(interval, [y, y], color=INK, linewidth=1.2, label="95 % interval")
        end = max(end, row["high"])
    if (control := row.get("control")) is not None:
        style = {"color": VERMILION, "linewidth": 1.6, "linestyle": (0, (2, 1))}
        axis.plot([control, control], [y - 0.42, y + 0.42], label="control", **style)
        if end < control < end + room:  # the value would overlap the mark
            end = control
    text = f"{row['value']:,.0f}" if abs(row["value"]) >= 1000 else f"{row['value']:.3g}"
    annotate(axis, text.replace("-", "−"), (end, y), (4, 0), va="center", fontsize=9)
