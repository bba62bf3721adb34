"""Correlation coefficients."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from numpy.typing import ArrayLike, NDArray
from scipy import stats
from torch import Tensor
from torch.nn.functional import cosine_similarity, normalize


def spearman(a: ArrayLike, b: ArrayLike) -> float:
    """Spearman's rank correlation of two lists of N numbers, −1 to 1; 0 where one is constant.

    Ties receive their mean rank. It is the standard metric of STS, since only the order of the
    cosines matters (Reimers et al. 2016, C16-1009).
    """
    return pearson(stats.rankdata(a), stats.rankdata(b))


def pearson(a: ArrayLike, b: ArrayLike) -> float:
    """Pearson's correlation of two lists of N numbers, −1 to 1; 0 where one is constant."""
    x, y = np.asarray(a, dtype=float), np.asarray(b, dtype=float)
    x, y = x - x.mean(), y - y.mean()
    scale = np.linalg.norm(x) * np.linalg.norm(y)
    return float(x @ y / scale) if scale > 1e-12 else 0.0


def mean_correlation(correlation: Callable[..., float], items: NDArray[Any]) -> float:
    """A correlation of the first two columns, averaged over the sets that a third column numbers.

    Args:
        correlation: `spearman` or `pearson`.
        items: Rows of two numbers (N, 2), or of two numbers and the number of a set (N, 3).

    Example:
        >>> items = np.array([[1, 2, 0], [2, 3, 0], [1, 2, 1], [2, 1, 1], [3, 1, 1]])
        >>> mean_correlation(spearman, items)  # of 1 and −0.87
        0.0669872981...
    """
    a, b, *sets = items.T
    if not sets:
        return correlation(a, b)
    return float(np.mean([correlation(a[sets[0] == s], b[sets[0] == s]) for s in set(sets[0])]))


def pairwise_cosines(vectors: Tensor) -> Tensor:
    """Pairwise cosines of N vectors (N, C), shape (N, N), without autocast; 0 for zero vectors."""
    with torch.autocast(vectors.device.type, enabled=False):
        unit = normalize(vectors.float() if vectors.dtype.itemsize < 4 else vectors, dim=-1)
        return unit @ unit.T


def row_cosines(first: Tensor, second: Tensor) -> Tensor:
    """Cosine of each row of two tensors (N, C), in float64 on the CPU, shape (N,).

    The cosine is 0 if one of the rows is zero.
    """
    return cosine_similarity(first.double(), second.double()).cpu()


def similarity_correlation(mean: Tensor, teacher: Tensor) -> float:
    """Pearson correlation, over pairs of sentences, of the cosines of two sets of vectors.

    Args:
        mean: Posterior means (N, D).
        teacher: The teacher's vectors of the same sentences (N, K).

    Returns:
        -1 to 1; 0 where it is undefined because all cosines of one side are equal.
    """
    rows, columns = torch.triu_indices(len(mean), len(mean), 1)
    a, b = (
        pairwise_cosines(x.detach().to("cpu", torch.float64))[rows, columns]
        for x in (mean, teacher)
    )
    return pearson(a.numpy(), b.numpy()) if len(a) else 0.0
