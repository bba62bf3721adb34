"""How far chance goes: bootstrap intervals of a number, and of the difference of two systems.

A *statistic* here is a function of item numbers: it gets N of them, drawn with replacement from
0 to N - 1, and returns the measure of those items. So a mean is `lambda i: values[i].mean()`, and
a corpus BLEU adds up the n-gram counts of the items before it divides.

What is resampled is items, so an interval says how much the choice of the test set matters; it says
nothing of another training seed.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import NamedTuple

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
    return _interval([statistic(items) for items in _draws(n, resamples, seed)])


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
    return Difference(real, *_interval(drawn), float(as_large + 1) / (resamples + 1))


def _draws(n: int, resamples: int, seed: int) -> Iterator[NDArray[np.intp]]:
    if n < 1 or resamples < 1:
        raise UserError(f"a bootstrap needs items and draws; got {n} items, {resamples} draws")
    rng = np.random.default_rng(seed)
    return (rng.integers(n, size=n) for _ in range(resamples))


def _interval(drawn: NDArray[np.float64] | list[float]) -> tuple[float, float]:
    low, high = np.percentile(drawn, [2.5, 97.5])
    return float(low), float(high)
