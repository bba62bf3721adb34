"""The plots of the page, from the files of the experiments alone."""

from __future__ import annotations

import io
from collections.abc import Callable, Sequence

import matplotlib as mpl
from matplotlib.axes import Axes
from matplotlib.axis import Axis
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter

from llamavae.report._style import CATEGORIES, MARKERS, annotate, finish, legend_below, new_figure
from results.experiments import find_lines

_SMOOTHED = 5  # lines of the training log, 20 steps each


def learning_curves(rows: Sequence[tuple[str, str]]) -> Figure:
    """NLL of the training batches by processor minutes.

    Args:
        rows: Name of each system and its experiment; those without a training log are skipped.
    """
    figure, (axis,) = new_figure(width=7.0, height=3.6)
    styles = [(colour, line) for line in ("-", "--") for colour in CATEGORIES]
    drawn = iter(styles)
    for system, experiment in rows:
        minutes = _value(experiment, "training", "processor minutes")
        curve = find_lines(experiment, "training", "NLL")
        nll = [(line["step"], line["value"]) for line in curve]
        if not nll or minutes is None:
            continue
        colour, style = next(drawn)
        steps = [step for step, _ in nll]
        values = [
            sum(value for _, value in nll[max(0, i - _SMOOTHED + 1) : i + 1])
            / min(i + 1, _SMOOTHED)
            for i in range(len(nll))
        ]
        spent = [minutes * step / steps[-1] for step in steps]
        axis.plot(spent, values, color=colour, linestyle=style, label=system)
    axis.set_yscale("log")
    _plain_numbers(axis.yaxis)
    finish(axis, "processor minutes", "NLL (nats per sentence)")
    legend_below(figure, *axis.get_legend_handles_labels(), ncols=2)
    return figure


def rate_distortion(rows: Sequence[tuple[str, str]]) -> Figure:
    """Reconstruction against the rate of the latent code, for each system with likelihoods."""
    figure, (axis,) = new_figure(width=7.0, height=3.6)
    rate = ("evaluation/latent_usage", "KL")
    points = _points(rows, rate, ("evaluation/likelihood", "NLL"))
    _scatter(axis, points)
    finish(axis, "KL (nats per sentence)", "NLL (nats per sentence)")
    legend_below(figure, ncols=2)
    return figure


def size(rows: Sequence[tuple[str, str]]) -> Figure:
    """BLEU-1 by the number of weights of the decoder."""
    figure, (axis,) = new_figure(width=7.0, height=3.0)
    weights = ("encoder", "decoder weights")
    points = _points(rows, weights, ("encoder", "BLEU-1", "not in train"))
    axis.plot([x for _, x, _ in points], [y for _, _, y in points], color=CATEGORIES[0], marker="o")
    for system, x, y in points:
        annotate(axis, system, (x, y), (6, -11), fontsize=8)
    axis.set_xscale("log")
    _plain_numbers(axis.xaxis)
    axis.margins(x=0.15, y=0.2)
    finish(axis, "weights of the decoder", "BLEU-1")
    return figure


PLOTS: dict[str, Callable[[Sequence[tuple[str, str]]], Figure]] = {
    "learning-curves": learning_curves,
    "rate-distortion": rate_distortion,
    "size": size,
}
"""The plots by name; each is `results/NAME.svg`."""


def svg(name: str, rows: Sequence[tuple[str, str]]) -> str:
    """A plot as SVG; the same values give the same text.

    Args:
        name: Name of the plot.
        rows: Name of each system and its experiment.
    """
    stream = io.StringIO()
    with mpl.rc_context({"svg.hashsalt": name, "svg.fonttype": "none"}):
        PLOTS[name](rows).savefig(stream, format="svg", metadata={"Date": None})
    return "\n".join(line.rstrip() for line in stream.getvalue().splitlines()) + "\n"


def _points(
    rows: Sequence[tuple[str, str]], x: tuple[str, ...], y: tuple[str, ...]
) -> list[tuple[str, float, float]]:
    """The systems that have both values, each given by source, metric and group."""
    found = ((name, _value(each, *x), _value(each, *y)) for name, each in rows)
    return [(name, a, b) for name, a, b in found if a is not None and b is not None]


def _scatter(axis: Axes, points: Sequence[tuple[str, float, float]]) -> None:
    for i, (system, x, y) in enumerate(points):
        turn, kind = divmod(i, len(CATEGORIES))  # each turn shifts the markers, so no pair repeats
        colour, marker = CATEGORIES[kind], MARKERS[(kind + turn) % len(MARKERS)]
        axis.scatter([x], [y], label=system, s=36, color=colour, marker=marker)
    axis.set_yscale("log")
    _plain_numbers(axis.yaxis)


def _plain_numbers(axis: Axis) -> None:
    """Numbers instead of powers at the ticks of a logarithmic axis."""
    axis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:,.10g}"))
    axis.set_minor_formatter(FuncFormatter(lambda value, _: f"{value:g}" if value < 100 else ""))


def _value(experiment: str, *wanted: str) -> float | None:
    """A value of an experiment, given by source, metric and group; None if it has none."""
    return next((line["value"] for line in find_lines(experiment, *wanted)), None)
