"""Does the geometry of a space go with the quality of its texts? An open question of the paper.

Over several models, each measure of geometry is held against each measure of quality. What is
related is models, so the number of models decides what can be seen: with 5 of them, no rank
correlation but a perfect one is less than 5 % likely by chance, and with 4 not even that.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from matplotlib.figure import Figure
from numpy.typing import NDArray
from scipy.stats import permutation_test, rankdata

from llamavae.errors import UserError, unknown
from llamavae.evaluation.examples import Rows
from llamavae.evaluation.plots import BLUE, INK, finish, new_figure

_NAMED = 12
"""Most models whose dots bear their names."""

Values = Sequence[Mapping[str, Any]]
"""Rows with `model`, `measure` and `value`; those with a `group` that is not empty are passed over,
as they are about a part of the data."""


def relate(
    rows: Values,
    geometry: Sequence[str],
    quality: Sequence[str],
    *,
    resamples: int = 9999,
    seed: int = 0,
) -> Rows:
    """Spearman's rank correlation over models of each pair of measures.

    Row: `geometry`, `quality` (names of measures), `spearman` (-1 to 1), `p` (how often an
    exchange of the models makes a correlation as far from 0; exact up to 7 models, which
    scipy's own p value is not), `n` (models that have both). `spearman` and `p` are None with
    fewer than 3 models or where a measure is the same for all. With many pairs, some have a small
    p by chance: look for what holds over several, or correct by the number of pairs.

    Args:
        rows: One for each model and measure: `model`, `measure`, `value`.
        geometry: Measures of the space.
        quality: Measures of the texts.
        resamples: Most exchanges that are tried.
        seed: Seed of the exchanges.

    Raises:
        UserError: A measure is unknown, or a model has two values of one.
    """
    values = _by_measure(rows)
    result: Rows = []
    for a in geometry:
        for b in quality:
            x, y, models = _common(values, a, b)
            found = _spearman(x, y, resamples, seed)
            rho, p = found or (None, None)
            result.append({"geometry": a, "quality": b, "spearman": rho, "p": p, "n": len(models)})
    return result


def plot_relation(rows: Values, geometry: Sequence[str], quality: Sequence[str]) -> Figure:
    """Each measure of geometry against each of quality, one dot a model.

    A column for each measure of geometry and a row for each of quality; titles are the rank
    correlations of `relate`.

    Args:
        rows: As for `relate`.
        geometry: Measures of the space, at least one.
        quality: Measures of the texts, at least one.
    """
    if not geometry or not quality:
        raise UserError("there is nothing to plot: give a measure of geometry and one of quality")
    values = _by_measure(rows)
    found = {(row["geometry"], row["quality"]): row for row in relate(rows, geometry, quality)}
    figure, axes = new_figure(len(quality), len(geometry))
    for axis, (b, a) in zip(axes, ((b, a) for b in quality for a in geometry), strict=True):
        x, y, models = _common(values, a, b)
        axis.scatter(x, y, s=28, c=BLUE, linewidths=0)
        named = zip(models, x.tolist(), y.tolist(), strict=True) if len(models) <= _NAMED else ()
        for model, right, up in named:
            axis.annotate(
                model,
                (right, up),
                xytext=(4, 3),
                textcoords="offset points",
                fontsize=7,
                color=INK,
            )
        row = found[a, b]
        title = f"{row['n']} models"
        if row["spearman"] is not None:
            title = f"ρ = {row['spearman']:.2f}, p = {row['p']:.2g}, {title}".replace("-", "−")
        finish(axis, a, b)
        axis.set_title(title, fontsize=10, color=INK)
        axis.margins(x=0.15)
    return figure


def _by_measure(rows: Values) -> dict[str, dict[str, float]]:
    """Measure -> model -> value."""
    values: dict[str, dict[str, float]] = {}
    for row in rows:
        if row.get("group"):
            continue
        models = values.setdefault(row["measure"], {})
        if row["model"] in models:
            raise UserError(f"the model {row['model']!r} has two values of {row['measure']!r}")
        models[row["model"]] = float(row["value"])
    return values


def _common(
    values: dict[str, dict[str, float]], a: str, b: str
) -> tuple[NDArray[np.float64], NDArray[np.float64], list[str]]:
    """Both measures of the models that have both, and these models."""
    for name in (a, b):
        if name not in values:
            raise unknown("measure", name, values)
    models = [model for model in values[a] if model in values[b]]
    x, y = (np.array([values[name][model] for model in models]) for name in (a, b))
    return x, y, models


def _spearman(
    x: NDArray[np.float64], y: NDArray[np.float64], resamples: int, seed: int
) -> tuple[float, float] | None:
    if len(x) < 3 or len(set(x)) < 2 or len(set(y)) < 2:
        return None
    a, b = (rankdata(v) - (len(v) + 1) / 2 for v in (x, y))
    scale = np.sqrt((a**2).sum() * (b**2).sum())
    test = permutation_test(
        (a,),
        lambda ranks, axis: (ranks * b).sum(axis) / scale,
        permutation_type="pairings",
        vectorized=True,
        n_resamples=resamples,
        random_state=seed,  # pyright: ignore[reportCallIssue] `rng` from scipy 1.15
    )
    return float(test.statistic), float(test.pvalue)
