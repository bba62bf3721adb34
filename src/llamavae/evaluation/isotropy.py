"""Whether points spread evenly in all directions."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from llamavae.errors import UserError


def mean_cosine(vectors: NDArray[np.floating], items: NDArray[np.integer] | None = None) -> float:
    """Mean cosine of all pairs of different vectors, -1 to 1; 0 is isotropic.

    The anisotropy of Ethayarajh (arXiv 1909.00512) over all pairs instead of a sample. A vector
    of length 0 has the cosine 0 with all others.

    Args:
        vectors: Vectors (N, D).
        items: Rows of a bootstrap sample, which may repeat; a vector and its own copy are no
            pair. None for all rows once.

    Example:
        >>> mean_cosine(np.array([[1.0, 0.0], [2.0, 0.0], [0.0, 1.0]]))
        0.3333333333333333
    """
    vectors = _check(vectors)
    length = np.linalg.norm(vectors, axis=1, keepdims=True)
    unit = vectors / np.where(length > 0, length, 1)
    count = np.bincount(
        np.arange(len(unit)) if items is None else items, minlength=len(unit)
    ).astype(float)
    pairs = count.sum() ** 2 - (count**2).sum()
    if not pairs:
        return 0.0
    own = (count**2 * (unit**2).sum(1)).sum()
    return float((((count @ unit) ** 2).sum() - own) / pairs)


def iso_score(points: NDArray[np.floating]) -> float:
    """Share of the dimensions over which the variance is spread evenly, 0 to 1.

    IsoScore (Rudman et al., arXiv 2108.07344, algorithm 1): 1 if all principal components have
    the same variance, 0 if one has all of it; shift, scale and rotation do not matter. Its steps
    come down to (r - 1) / (D - 1), with r = (sum of variances)^2 / sum of squared variances, the
    participation ratio of the principal components. It falls short of 1 for N Gaussian points by
    about D / N.

    Args:
        points: Points (N, D), D at least 2.
    """
    points = _check(points)
    if points.shape[1] < 2:
        raise UserError("isotropy compares directions, so it needs at least 2 dimensions; got 1")
    covariance = np.cov(points, rowvar=False)
    squares = (covariance**2).sum()
    if squares == 0:
        return 0.0
    ratio = np.trace(covariance) ** 2 / squares
    return float((ratio - 1) / (points.shape[1] - 1))


def _check(vectors: NDArray[np.floating]) -> NDArray[np.float64]:
    vectors = np.asarray(vectors, dtype=np.float64)
    if vectors.ndim != 2 or len(vectors) < 2:
        raise UserError(f"expected at least 2 vectors (N, D); got shape {vectors.shape}")
    return vectors
