"""Random Gaussian posteriors and points."""

from __future__ import annotations

import torch


def posterior(n, gains, variances):
    """q(z|x) = N(gain x, variance) with x ~ N(0, 1) in each dimension, and one draw of each."""
    mean = torch.randn(n, len(gains), dtype=torch.float64) * torch.tensor(gains)
    logvar = torch.tensor(variances, dtype=torch.float64).log().expand(n, -1)
    return mean, logvar, mean + torch.exp(logvar / 2) * torch.randn_like(mean)


def draws(n, d, seed=7):
    return torch.randn(n, d, generator=torch.Generator().manual_seed(seed))
