"""Bootstrap confidence intervals of a metric and of the difference between two systems.

A *statistic* is a function of item indices: it receives N indices, drawn with replacement from
0 to N - 1, and returns the metric over those items. A mean is `lambda i: values[i].mean()`; a
corpus BLEU adds up the n-gram counts of the items before it divides.

Items are resampled, so an interval covers the choice of the test set. It does not cover the
variation between training seeds.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from llamavae.errors import UserError

Statistic = Callable[[NDArray[np.intp]], float]
"""Maps item indices (N,) to the metric over these items."""


def draws(n: int, resamples: int = 1000, seed: int = 0) -> Iterator[NDArray[np.intp]]:
    """The item indices (N,) of each bootstrap sample.

    Args:
        n: Number N of items.
        resamples: Number of bootstrap samples.
        seed: Random seed; the same seed and N draw the same items.
    """
    if n < 1 or resamples < 1:
        raise UserError(f"expected at least 1 item and 1 resample; got {n} and {resamples}")
    rng = np.random.default_rng(seed)
    return (rng.integers(n, size=n) for _ in range(resamples))


def bootstrap_interval(
    statistic: Statistic, n: int, *, resamples: int = 1000, seed: int = 0
) -> tuple[float, float]:
    """The 95 % confidence interval of a statistic of N items (percentile bootstrap, Efron 1979).

    Args:
        statistic: The metric as a function of item indices.
        n: Number N of items.
        resamples: Number of bootstrap samples.
        seed: Random seed; the same seed and N draw the same items.

    Example:
        >>> words = np.array([3, 5, 4, 8, 6, 7, 5, 4])
        >>> bootstrap_interval(lambda items: words[items].mean(), len(words))
        (4.25, 6.375)
    """
    return percentile_interval([statistic(items) for items in draws(n, resamples, seed)])


def bootstrap_sums(
    values: NDArray[Any], *, resamples: int = 1000, seed: int = 0
) -> NDArray[np.float64]:
    """Sums of K per-item values over each bootstrap sample, shape (R, K).

    This is a fast way to compute the intervals of many metrics at once when each is a function of
    sums, as means and corpus BLEU are.

    Args:
        values: The per-item values (N, K).
        resamples: Number R of bootstrap samples.
        seed: Random seed; the samples are the same as in `bootstrap_interval`.

    Example:
        >>> words = np.array([3, 5, 4, 8, 6, 7, 5, 4])
        >>> percentile_interval(bootstrap_sums(words[:, None])[:, 0] / len(words))
        (4.25, 6.375)
    """
    n, added = len(values), np.asarray(values, dtype=np.float64)
    counts = (np.bincount(items, minlength=n) for items in draws(n, resamples, seed))
    return np.stack([count.astype(np.float64) @ added for count in counts])


def percentile_interval(drawn: NDArray[np.float64] | Sequence[float]) -> tuple[float, float]:
    """The 95 % confidence interval of a metric from its values on R bootstrap samples, (R,)."""
    low, high = np.percentile(drawn, [2.5, 97.5])
    return float(low), float(high)


class Difference(NamedTuple):
    """The metric of one system minus that of another on the same items.

    Attributes:
        value: The difference on all items.
        low: Lower end of its 95 % confidence interval.
        high: Upper end of the interval.
        p: Two-sided p-value: the probability of a difference at least as large by chance.
    """

    value: float
    low: float
    high: float
    p: float


def paired_bootstrap(
    a: Statistic, b: Statistic, n: int, *, resamples: int = 1000, seed: int = 0
) -> Difference:
    """Paired bootstrap test for a difference between systems A and B on N items (Koehn 2004).

    Both systems are evaluated on the same bootstrap samples. The sample differences, shifted to
    mean 0, approximate the null distribution. The p-value is (count + 1) / (resamples + 1), where
    count is the number of shifted differences at least as large as the observed one. sacrebleu
    takes absolute values before it shifts, so its p-value is about half of this one for a clear
    difference.

    Args:
        a: The metric of A as a function of item indices.
        b: The metric of B as a function of item indices.
        n: Number N of items.
        resamples: Number of bootstrap samples.
        seed: Random seed.
    """
    real = float(a(np.arange(n)) - b(np.arange(n)))
    drawn = np.array([a(items) - b(items) for items in draws(n, resamples, seed)])
    as_large = np.sum(np.abs(drawn - drawn.mean()) >= abs(real))
    return Difference(real, *percentile_interval(drawn), float(as_large + 1) / (resamples + 1))
