"""How far chance goes: bootstrap intervals of a number, and of the difference of two systems.

A *statistic* here is a function of item numbers: it gets N of them, drawn with replacement from
0 to N - 1, and returns the measure of those items. So a mean is `lambda i: values[i].mean()`, and
a corpus BLEU adds up the n-gram counts of the items before it divides.

What is resampled is items, so an interval says how much the choice of the test set matters; it says
nothing of another training seed.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from llamavae.errors import UserError

Statistic = Callable[[NDArray[np.intp]], float]
"""Item numbers (N,) -> the measure of these items."""


def bootstrap_interval(
    statistic: Statistic, n: int, *, resamples: int = 1000, seed: int = 0
) -> tuple[float, float]:
    """The 95 % interval of a statistic of N items, by the percentile method (Efron 1979).

    Args:
        statistic: The measure of given items.
        n: Number N of items.
        resamples: How often N items are drawn.
        seed: Seed of the draws; the same seed and N draw the same items.

    Example:
        >>> words = np.array([3, 5, 4, 8, 6, 7, 5, 4])
        >>> bootstrap_interval(lambda items: words[items].mean(), len(words))
        (4.25, 6.375)
    """
    return percentile_interval([statistic(items) for items in _draws(n, resamples, seed)])


def bootstrap_sums(
    values: NDArray[Any], *, resamples: int = 1000, seed: int = 0
) -> NDArray[np.float64]:
    """Sums over drawn items, shape (R, K), of what N items add to K numbers.

    A quick way to the intervals of many measures at once, where each is a function of sums, as
    means and corpus BLEU are.

    Args:
        values: What each item adds (N, K).
        resamples: How often, R times, N items are drawn.
        seed: Seed of the draws; the items are those of `bootstrap_interval`.

    Example:
        >>> words = np.array([3, 5, 4, 8, 6, 7, 5, 4])
        >>> percentile_interval(bootstrap_sums(words[:, None])[:, 0] / len(words))
        (4.25, 6.375)
    """
    n, added = len(values), np.asarray(values, dtype=np.float64)
    draws = _draws(n, resamples, seed)
    return np.stack([np.bincount(items, minlength=n).astype(np.float64) @ added for items in draws])


def percentile_interval(drawn: NDArray[np.float64] | Sequence[float]) -> tuple[float, float]:
    """The 95 % interval of a measure, of its values on drawn items (R,)."""
    low, high = np.percentile(drawn, [2.5, 97.5])
    return float(low), float(high)


class Difference(NamedTuple):
    """A system's measure minus another's on the same items.

    Attributes:
        value: The difference on all items.
        low: Lower end of its 95 % interval.
        high: Upper end.
        p: How often chance alone would make a difference as large, 0 to 1, two-sided.
    """

    value: float
    low: float
    high: float
    p: float


def paired_bootstrap(
    a: Statistic, b: Statistic, n: int, *, resamples: int = 1000, seed: int = 0
) -> Difference:
    """Whether systems A and B differ by more than chance on the same N items (Koehn 2004).

    Both are measured on the same draws of items. The differences of the draws, moved to mean 0,
    show what chance does, and p = (count + 1) / (draws + 1) counts those as large as the real
    one. sacrebleu takes their absolute values before it moves them, so its p is about half of
    this for a clear difference.

    Args:
        a: The measure of A on given items.
        b: The measure of B on given items.
        n: Number N of items.
        resamples: How often N items are drawn.
        seed: Seed of the draws.
    """
    real = float(a(np.arange(n)) - b(np.arange(n)))
    drawn = np.array([a(items) - b(items) for items in _draws(n, resamples, seed)])
    as_large = np.sum(np.abs(drawn - drawn.mean()) >= abs(real))
    return Difference(real, *percentile_interval(drawn), float(as_large + 1) / (resamples + 1))


def _draws(n: int, resamples: int, seed: int) -> Iterator[NDArray[np.intp]]:
    if n < 1 or resamples < 1:
        raise UserError(f"a bootstrap needs items and draws; got {n} items, {resamples} draws")
    rng = np.random.default_rng(seed)
    return (rng.integers(n, size=n) for _ in range(resamples))
