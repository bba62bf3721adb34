"""Metrics of the latent space: isotropy, active units, information, KL divergence, likelihood."""

from __future__ import annotations

import math

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from llamavae.errors import UserError


def mean_cosine(vectors: NDArray[np.floating], items: NDArray[np.integer] | None = None) -> float:
    """Mean cosine of all pairs of different vectors, -1 to 1; 0 is isotropic.

    The anisotropy of Ethayarajh (arXiv 1909.00512), over all pairs instead of a sample. A zero
    vector has cosine 0 with all others.

    Args:
        vectors: Vectors (N, D).
        items: Row indices of a bootstrap sample, with repetitions; a vector and its own copy do
            not count as a pair. None for all rows.

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


def iso_score(codes: NDArray[np.floating]) -> float:
    """IsoScore: how evenly the variance is spread over the dimensions, 0 to 1.

    IsoScore (Rudman et al., arXiv 2108.07344, algorithm 1) is 1 if all principal components have
    the same variance and 0 if one has all of it. It is invariant to translation, scaling and
    rotation. The algorithm simplifies to (r - 1) / (D - 1), with
    r = (sum of variances)^2 / sum of squared variances, the participation ratio of the principal
    components. For N Gaussian codes it is about 1 - D / N.

    Args:
        codes: Latent codes (N, D), D at least 2.
    """
    codes = _check(codes)
    if codes.shape[1] < 2:
        raise UserError("isotropy compares dimensions: expected at least 2 dimensions; got 1")
    covariance = np.cov(codes, rowvar=False)
    squares = (covariance**2).sum()
    if squares == 0:
        return 0.0
    ratio = np.trace(covariance) ** 2 / squares
    return float((ratio - 1) / (codes.shape[1] - 1))


def _check(vectors: NDArray[np.floating]) -> NDArray[np.float64]:
    vectors = np.asarray(vectors, dtype=np.float64)
    if vectors.ndim != 2 or len(vectors) < 2:
        raise UserError(f"expected at least 2 vectors (N, D); got shape {vectors.shape}")
    return vectors


ACTIVE_THRESHOLD = 0.01
"""Variance of the posterior mean over sentences above which a dimension counts as active."""


_CHUNK = 2**22
"""Maximum number of entries in a block of the (N, N) matrix of log densities: 32 MB."""


def active_units(mean: Tensor, threshold: float = ACTIVE_THRESHOLD) -> int:
    """Number of dimensions whose posterior mean varies over the sentences.

    Burda et al., arXiv 1509.00519, section 5.2: Var_x(mu_i) > 0.01.

    Args:
        mean: Posterior means (N, D).
        threshold: Smallest variance of an active dimension.
    """
    return int((mean.double().var(0, correction=0) > threshold).sum())


@torch.no_grad()
def mutual_information(mean: Tensor, logvar: Tensor, z: Tensor) -> float:
    """Estimate of the mutual information I(n; z) between sentence index and latent code, in nats.

    mean_n [ log q(z_n|x_n) - log mean_m q(z_n|x_m) ], Hoffman and Johnson, "ELBO surgery" (2016).
    The estimate cannot exceed log N, so always report N with it. For an uninformative z it is
    around 0 and can be slightly negative. Computed in float64, in blocks.

    Args:
        mean: Posterior means (N, D).
        logvar: Logarithms of the posterior variances (N, D).
        z: One draw from each posterior (N, D).
    """
    mean, logvar, z = (x.detach().to("cpu", torch.float64) for x in (mean, logvar, z))
    if not mean.shape == logvar.shape == z.shape or mean.ndim != 2:
        raise ValueError(
            f"expected three tensors of one shape (N, D); got {tuple(mean.shape)}, "
            f"{tuple(logvar.shape)} and {tuple(z.shape)}"
        )
    precision = torch.exp(-logvar)
    constant = -0.5 * (logvar + mean.square() * precision).sum(1)
    count, total = len(z), 0.0
    for start in range(0, count, rows := max(1, _CHUNK // count)):
        part = z[start : start + rows]
        # log q(z_n|x_m) without the term in 2 pi, which cancels, shape (rows, N)
        log_q = constant + part @ (mean * precision).T - 0.5 * part.square() @ precision.T
        own = log_q.diagonal(start)
        total += float((own - log_q.logsumexp(1)).sum())
    return total / count + math.log(count)


def posterior_variance(logvar: Tensor) -> float:
    """Mean posterior variance over sentences and dimensions: 1 for the prior, 0 without noise."""
    return float(logvar.double().exp().mean())


def gaussian_kl(z: Tensor) -> float:
    """KL(N(m, S) || N(0, I)) in nats, with m and S the mean and covariance of codes z (N, D).

    It is the smallest KL to N(0, I) of any distribution with these moments, since log N(0, I) is
    quadratic: KL(q || N(0, I)) = KL(q || N(m, S)) + KL(N(m, S) || N(0, I)). N codes drawn from
    N(0, I) give about D (D + 3) / (4 N), not 0.

    Raises:
        UserError: There are not more codes than dimensions, so that S is singular.

    Example:
        >>> gaussian_kl(torch.tensor([[-3.0], [-1.0], [1.0], [3.0]]))  # m = 0, S = 5
        1.195...
    """
    n, d = z.shape
    if n <= d:
        raise UserError(
            f"the covariance of {d} dimensions needs more than {d} latent codes, and several times "
            f"as many for a good estimate; got {n}"
        )
    z = z.double().cpu()
    mean = z.mean(0)
    covariance = (z - mean).T @ (z - mean) / n
    trace, logdet = covariance.trace(), torch.linalg.slogdet(covariance).logabsdet
    return 0.5 * float(trace + mean @ mean - d - logdet)


def importance_weighted_bound(
    log_likelihood: Tensor, log_prior: Tensor, log_posterior: Tensor
) -> Tensor:
    """Lower bound of log p(x) from K draws from q(z|x), in nats.

    log mean_k [ p(x|z_k) p(z_k) / q(z_k|x) ], Burda et al., arXiv 1509.00519, eq. 8, in float64.
    For K = 1 its expectation is the evidence lower bound; it increases with K towards log p(x).

    Args:
        log_likelihood: log p(x|z_k), shape (K, ...), one column for each x.
        log_prior: log p(z_k), the same shape.
        log_posterior: log q(z_k|x), the same shape.

    Returns:
        The bound for each x, shape (...).

    Example:
        >>> log_likelihood = torch.tensor([0.5, 0.25]).log()  # of two draws from the prior
        >>> bound = importance_weighted_bound(log_likelihood, torch.zeros(2), torch.zeros(2))
        >>> round(bound.exp().item(), 6)
        0.375
    """
    weights = log_likelihood.double() + log_prior.double() - log_posterior.double()
    return weights.logsumexp(0) - math.log(len(weights))
