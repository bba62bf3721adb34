"""Intervention-based disentanglement metrics: one factor is fixed while the others vary.

Throughout, `codes` are N latent codes (N, D) and `factors` are the values of K factors for each,
as integers from 0, shape (N, K), see `disentanglement.code_factors`. Both metrics were defined for
a generator that draws data with given factors. Here all draws are from one labelled set, as in
LangSpace (arXiv 2505.00004), so correlated factors, such as a verb and its object, are fixed
together.
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
    codes: Floats, factors: Integers, *, pairs: int = 64, votes: int = 1000, seed: int = 0
) -> float:
    """Accuracy of recognising the shared factor from latent differences of pairs, 0 to 1.

    Higgins et al., "beta-VAE" (ICLR 2017), section 3. A vote is the mean of |z - z'| over pairs
    that have the same value of one factor. The score is the accuracy of a linear classifier that
    predicts this factor from the vote; chance level is 1 / K. A pair consists of a random code of
    the labelled set and another one with the same value. Training votes and test votes use
    disjoint halves of the codes. Differences are standardised first, so that the scale of the
    space does not matter; disentanglement_lib does not standardise.

    Args:
        codes: Latent codes (N, D).
        factors: Values of at least two factors (N, K).
        pairs: Number of pairs per vote.
        votes: Number of training votes, and of test votes.
        seed: Random seed.
    """
    codes, factors = check(codes, factors, minimum=2)
    rng = np.random.default_rng(seed)
    count = math.ceil(votes / factors.shape[1])
    truth = np.repeat(np.arange(factors.shape[1]), count)
    fitted, scored = (
        np.concatenate([_differences(codes[rows], v, (count, pairs), rng) for v in factors[rows].T])
        for rows in split(len(codes), 1 / 2, rng)
    )
    classifier = make_pipeline(StandardScaler(), LogisticRegression(max_iter=1000))
    return float(classifier.fit(fitted, truth).score(scored, truth))


def _differences(
    codes: Floats, values: Integers, shape: tuple[int, int], rng: np.random.Generator
) -> Floats:
    first, second = _Groups(values).pairs(shape, rng)
    return np.abs(codes[first] - codes[second]).mean(1)


def z_min_var(
    codes: Floats, factors: Integers, *, batch: int = 64, votes: int = 1000, seed: int = 0
) -> float:
    """Accuracy of recognising the fixed factor from the dimension of least variance, 0 to 1.

    Kim and Mnih, arXiv 1802.05983, section 4. A vote is the dimension with the lowest variance,
    relative to its variance over all codes, in a batch of codes with one value of a factor. The
    score is the accuracy of the majority-vote classifier; chance level is 1 / K. Batches are drawn
    with replacement from the labelled set. Training votes and test votes use disjoint halves of
    the codes. Dimensions without variance are excluded; the paper excludes all that equal the
    prior, disentanglement_lib excludes none.

    Args:
        codes: Latent codes (N, D).
        factors: Values of at least two factors (N, K).
        batch: Number of codes per vote.
        votes: Number of training votes, and of test votes.
        seed: Random seed.
    """
    codes, factors = check(codes, factors, minimum=2)
    spread = codes.std(0)
    if not (spread > 0).any():
        return 0.0
    codes = codes[:, spread > 0] / spread[spread > 0]
    rng = np.random.default_rng(seed)
    shape = (math.ceil(votes / factors.shape[1]), batch)
    counted, scored = (
        np.stack([_least_varied(codes[rows], v, shape, rng) for v in factors[rows].T])
        for rows in split(len(codes), 1 / 2, rng)
    )  # votes of each factor for each dimension (K, D)
    return float(scored[counted.argmax(0), np.arange(scored.shape[1])].sum() / scored.sum())


def _least_varied(
    codes: Floats, values: Integers, shape: tuple[int, int], rng: np.random.Generator
) -> Integers:
    votes = codes[_Groups(values).batches(shape, rng)].var(1).argmin(1)
    return np.bincount(votes, minlength=codes.shape[1])


class _Groups:
    """Codes grouped by their value of a factor, to draw codes that share a value."""

    def __init__(self, values: Integers) -> None:
        self.order = np.argsort(values, kind="stable")
        _, start, size = np.unique(values[self.order], return_index=True, return_counts=True)
        self.start, self.size = np.repeat(start, size), np.repeat(size, size)
        self.shared = np.flatnonzero(self.size > 1)
        if not len(self.shared):
            raise UserError(
                "expected two sentences with the same value of a factor in each half of the data; "
                "found none. Give more sentences"
            )

    def pairs(
        self, shape: tuple[int, int], rng: np.random.Generator
    ) -> tuple[NDArray[np.intp], NDArray[np.intp]]:
        """Random codes, and for each another one with the same value."""
        first = rng.choice(self.shared, shape)
        start, size = self.start[first], self.size[first]
        second = start + (first - start + rng.integers(1, size)) % size
        return self.order[first], self.order[second]

    def batches(self, shape: tuple[int, int], rng: np.random.Generator) -> NDArray[np.intp]:
        """Rows of codes with one value each, the value of a random code."""
        value = rng.choice(self.shared, (shape[0], 1))
        return self.order[self.start[value] + rng.integers(0, self.size[value], shape)]
