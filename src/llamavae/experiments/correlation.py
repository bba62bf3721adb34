"""Correlation of latent geometry and text quality over models, an open question of the paper.

Each geometry metric is correlated with each quality metric over several models. The number of
models limits the power of the test: with 5 models only a perfect rank correlation has p < 0.05,
and with 4 models none has.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy.stats import permutation_test, rankdata

from llamavae.errors import UserError, unknown
from llamavae.metrics.correlation import spearman
from llamavae.metrics.metric import Rows

Values = Sequence[Mapping[str, Any]]
"""Rows with `model`, `metric` and `value`; rows with a nonempty `group` are ignored, since they
describe a subset of the data."""


def correlate(
    rows: Values,
    geometry: Sequence[str],
    quality: Sequence[str],
    *,
    resamples: int = 9999,
    seed: int = 0,
) -> Rows:
    """Spearman's rank correlation over models of each pair of metrics.

    Row: `geometry`, `quality` (names of metrics), `spearman` (-1 to 1), `low` and `high` (its
    95 % interval, Bonett and Wright 2000, Psychometrika 65: 23-28), `p` (two-sided p-value of a
    permutation test, exact up to 7 models, unlike scipy's default), `n` (number of models with both
    metrics). They are None with fewer than 3 models (the interval: fewer than 4) or if a metric is
    constant. With many pairs, some have a small p by chance; look for correlations that are
    consistent over several metrics, or correct for the number of pairs.

    Args:
        rows: A row for each model and metric: `model`, `metric`, `value`.
        geometry: Metrics of the latent space.
        quality: Metrics of the texts.
        resamples: Maximum number of permutations.
        seed: Seed of the permutations.

    Raises:
        UserError: A metric is unknown, or a model has two values of one metric.
    """
    values = values_by_metric(rows)
    result: Rows = []
    for a in geometry:
        for b in quality:
            x, y, models = common_models(values, a, b)
            found = _spearman(x, y, resamples, seed)
            rho, p = found or (None, None)
            low, high = (None, None) if rho is None else _interval(rho, len(models))
            row = {"geometry": a, "quality": b, "spearman": rho, "low": low, "high": high}
            result.append({**row, "p": p, "n": len(models)})
    return result


def values_by_metric(rows: Values) -> dict[str, dict[str, float]]:
    """Maps metrics to dictionaries of values by model."""
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
    """The values of both metrics for the models that have both, and these models."""
    for name in (a, b):
        if name not in values:
            raise unknown("metric", name, values)
    models = [model for model in values[a] if model in values[b]]
    x, y = (np.array([values[name][model] for model in models]) for name in (a, b))
    return x, y, models


def _interval(rho: float, n: int) -> tuple[float, float] | tuple[None, None]:
    """The 95 % interval of a rank correlation over n models; None with fewer than 4."""
    if n < 4:
        return None, None
    with np.errstate(divide="ignore"):  # a perfect correlation has no width
        centre, width = np.arctanh(rho), 1.96 * np.sqrt((1 + rho**2 / 2) / (n - 3))
    return float(np.tanh(centre - width)), float(np.tanh(centre + width))


def _spearman(
    x: NDArray[np.float64], y: NDArray[np.float64], resamples: int, seed: int
) -> tuple[float, float] | None:
    if len(x) < 3 or len(set(x)) < 2 or len(set(y)) < 2:
        return None
    a, b = (rankdata(v) - (len(v) + 1) / 2 for v in (x, y))
    test = permutation_test(
        (a,),
        lambda ranks, axis: (ranks * b).sum(axis),  # the correlation up to a positive factor
        permutation_type="pairings",
        vectorized=True,
        n_resamples=resamples,
        random_state=seed,  # pyright: ignore[reportCallIssue] `rng` from scipy 1.15
    )
    return spearman(x, y), float(test.pvalue)
