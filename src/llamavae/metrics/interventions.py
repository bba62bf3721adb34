"""Scores of disentanglement by intervention: one factor is held, and the others vary.

Throughout, `points` are N points (N, D) and `factors` are K labels of each, numbered from 0
(N, K), as `factor_scores.code_factors` numbers them. Both scores were made for a generator that
draws data of given factors; here all draws are from one labelled set, as in LangSpace (arXiv
2505.00004), so factors that go together in it, such as a verb and its object, are held together.
"""

from __future__ import annotations

import math

import numpy as np
from numpy.typing import NDArray
from sklearn.linear_model import LogisticRegression
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

from llamavae.errors import UserError
from llamavae.metrics.disentanglement import Floats, Integers, check, split


def z_diff(
    points: Floats, factors: Integers, *, pairs: int = 64, votes: int = 1000, seed: int = 0
) -> float:
    """Whether the differences of pairs that share one factor tell which, 0 to 1.

    Higgins et al., "beta-VAE" (ICLR 2017), section 3: a vote is the mean over pairs of |z - z'|,
    of pairs that have the same value of one factor; the score is the accuracy of a linear
    classifier of that factor, which is 1 / K by guessing. Pairs are drawn from the labelled set:
    a point at random, and another with the same value. The votes that are scored are of other
    points than those that are fitted, one half each. Differences are standardised first, so that
    the scale of the space does not matter; disentanglement_lib leaves them as they are.

    Args:
        points: Points (N, D).
        factors: Labels of at least two factors (N, K).
        pairs: Pairs of a vote.
        votes: Votes that are fitted, and as many that are scored.
        seed: Seed of all draws.
    """
    points, factors = check(points, factors, least=2)
    rng = np.random.default_rng(seed)
    count = math.ceil(votes / factors.shape[1])
    truth = np.repeat(np.arange(factors.shape[1]), count)
    fitted, scored = (
        np.concatenate(
            [_differences(points[rows], v, (count, pairs), rng) for v in factors[rows].T]
        )
        for rows in split(len(points), 1 / 2, rng)
    )
    classifier = make_pipeline(StandardScaler(), LogisticRegression(max_iter=1000))
    return float(classifier.fit(fitted, truth).score(scored, truth))


def _differences(
    points: Floats, values: Integers, shape: tuple[int, int], rng: np.random.Generator
) -> Floats:
    first, second = _Groups(values).pairs(shape, rng)
    return np.abs(points[first] - points[second]).mean(1)


def z_min_var(
    points: Floats, factors: Integers, *, batch: int = 64, votes: int = 1000, seed: int = 0
) -> float:
    """Whether the dimension that varies least where one factor is fixed tells which, 0 to 1.

    Kim and Mnih, arXiv 1802.05983, section 4: a vote is the dimension with the least variance,
    relative to that of all points, in a batch of points with one value of a factor; the score is
    the accuracy of the majority vote, which is 1 / K by guessing. Batches are drawn with
    replacement from the labelled set, and the votes that are scored are of other points than
    those that are counted, one half each. Dimensions without variance are left out; the paper
    leaves out all that equal the prior, disentanglement_lib none.

    Args:
        points: Points (N, D).
        factors: Labels of at least two factors (N, K).
        batch: Points of a vote.
        votes: Votes that are counted, and as many that are scored.
        seed: Seed of all draws.
    """
    points, factors = check(points, factors, least=2)
    spread = points.std(0)
    if not (spread > 0).any():
        return 0.0
    points = points[:, spread > 0] / spread[spread > 0]
    rng = np.random.default_rng(seed)
    shape = (math.ceil(votes / factors.shape[1]), batch)
    counted, scored = (
        np.stack([_least_varied(points[rows], v, shape, rng) for v in factors[rows].T])
        for rows in split(len(points), 1 / 2, rng)
    )  # votes of each factor for each dimension (K, D)
    return float(scored[counted.argmax(0), np.arange(scored.shape[1])].sum() / scored.sum())


def _least_varied(
    points: Floats, values: Integers, shape: tuple[int, int], rng: np.random.Generator
) -> Integers:
    votes = points[_Groups(values).batches(shape, rng)].var(1).argmin(1)
    return np.bincount(votes, minlength=points.shape[1])


class _Groups:
    """Points by their value of a factor, for draws of points that share one."""

    def __init__(self, values: Integers) -> None:
        self.order = np.argsort(values, kind="stable")
        _, start, size = np.unique(values[self.order], return_index=True, return_counts=True)
        self.start, self.size = np.repeat(start, size), np.repeat(size, size)
        self.shared = np.flatnonzero(self.size > 1)
        if not len(self.shared):
            raise UserError(
                "no two points of one half of the data share a value of a factor, so there is "
                "nothing to draw: give more sentences"
            )

    def pairs(
        self, shape: tuple[int, int], rng: np.random.Generator
    ) -> tuple[NDArray[np.intp], NDArray[np.intp]]:
        """Points at random, and for each another one of the same value."""
        first = rng.choice(self.shared, shape)
        start, size = self.start[first], self.size[first]
        second = start + (first - start + rng.integers(1, size)) % size
        return self.order[first], self.order[second]

    def batches(self, shape: tuple[int, int], rng: np.random.Generator) -> NDArray[np.intp]:
        """Points in rows of one value, the value being that of a point at random."""
        value = rng.choice(self.shared, (shape[0], 1))
        return self.order[self.start[value] + rng.integers(0, self.size[value], shape)]
