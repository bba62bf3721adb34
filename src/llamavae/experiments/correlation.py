"""Does the geometry of a space go with the quality of its texts? An open question of the paper.

Over several models, each measure of geometry is held against each measure of quality. What is
related is models, so the number of models decides what can be seen: with 5 of them, no rank
correlation but a perfect one is less than 5 % likely by chance, and with 4 not even that.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy.stats import permutation_test, rankdata

from llamavae.errors import UserError, unknown
from llamavae.metrics.metric import Rows

Values = Sequence[Mapping[str, Any]]
"""Rows with `model`, `metric` and `value`; those with a `group` that is not empty are passed over,
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
        rows: One for each model and measure: `model`, `metric`, `value`.
        geometry: Measures of the space.
        quality: Measures of the texts.
        resamples: Most exchanges that are tried.
        seed: Seed of the exchanges.

    Raises:
        UserError: A measure is unknown, or a model has two values of one.
    """
    values = values_by_measure(rows)
    result: Rows = []
    for a in geometry:
        for b in quality:
            x, y, models = common_models(values, a, b)
            found = _spearman(x, y, resamples, seed)
            rho, p = found or (None, None)
            result.append({"geometry": a, "quality": b, "spearman": rho, "p": p, "n": len(models)})
    return result


def values_by_measure(rows: Values) -> dict[str, dict[str, float]]:
    """Measure -> model -> value."""
    values: dict[str, dict[str, float]] = {}
    for row in rows:
        if row.get("group"):
            continue
        models = values.setdefault(row["metric"], {})
        if row["model"] in models:
            raise UserError(f"the model {row['model']!r} has two values of {row['metric']!r}")
        models[row["model"]] = float(row["value"])
    return values


def common_models(
    values: dict[str, dict[str, float]], a: str, b: str
) -> tuple[NDArray[np.float64], NDArray[np.float64], list[str]]:
    """Both measures of the models that have both, and these models."""
    for name in (a, b):
        if name not in values:
            raise unknown("metric", name, values)
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
