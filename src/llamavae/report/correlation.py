"""Plot of the correlation between latent geometry and text quality."""

from __future__ import annotations

from collections.abc import Sequence

from matplotlib.figure import Figure

from llamavae.errors import UserError
from llamavae.experiments.correlation import Values, common_models, correlate, values_by_metric
from llamavae.report._style import BLUE, annotate, finish, new_figure

_NAMED = 12
"""Maximum number of models whose points are labelled."""


def plot_correlations(rows: Values, geometry: Sequence[str], quality: Sequence[str]) -> Figure:
    """Scatter plots of geometry metrics against quality metrics, one point per model.

    There is a column for each geometry metric and a row for each quality metric; the titles are
    the rank correlations of `correlate`.

    Args:
        rows: As for `correlate`.
        geometry: Metrics of the latent space, at least one.
        quality: Metrics of the texts, at least one.
    """
    if not geometry or not quality:
        raise UserError("expected at least one geometry metric and one quality metric to plot")
    values = values_by_metric(rows)
    found = {(row["geometry"], row["quality"]): row for row in correlate(rows, geometry, quality)}
    figure, axes = new_figure(len(quality) * len(geometry), len(geometry))
    for axis, (b, a) in zip(axes, ((b, a) for b in quality for a in geometry), strict=True):
        x, y, models = common_models(values, a, b)
        axis.scatter(x, y, s=28, c=BLUE, linewidths=0)
        named = zip(models, x.tolist(), y.tolist(), strict=True) if len(models) <= _NAMED else ()
        for model, right, up in named:
            annotate(axis, model, (right, up), (4, 3), fontsize=7)
        row = found[a, b]
        title = f"{row['n']} models"
        if row["spearman"] is not None:
            title = f"ρ = {row['spearman']:.2f}, p = {row['p']:.2g}, {title}".replace("-", "−")
        finish(axis, a, b, title)
        axis.margins(x=0.15)
    return figure
