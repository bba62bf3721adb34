"""The Gaussian posterior q(z|x) and the rules for its KL term in the loss."""

from __future__ import annotations

import math
from typing import get_args

import torch
from torch import Tensor, nn
from torch.distributions import Independent, Normal

from llamavae.errors import UserError, unknown
from llamavae.modeling.names import KLRule


class DiagonalGaussian(Independent):
    """N(mean, diag exp(logvar)) over z: torch's `Independent(Normal)`, plus `logvar` and its KL.

    Args:
        mean: Shape (B, D).
        logvar: Natural logarithm of the variance, shape (B, D).
    """

    def __init__(self, mean: Tensor, logvar: Tensor) -> None:
        self.logvar = logvar
        super().__init__(Normal(mean, torch.exp(logvar / 2), validate_args=False), 1)

    def reparameterise(self, noise: Tensor) -> Tensor:
        """The draw z = mean + exp(logvar / 2) * noise, shape (B, D).

        Kingma and Welling, arXiv 1312.6114, section 2.4.

        Args:
            noise: eps ~ N(0, I), shape (B, D).
        """
        return self.mean + torch.exp(self.logvar / 2) * noise.to(self.mean)

    def kl(self) -> Tensor:
        """KL(q(z|x) || N(0, I)) in nats for each sentence and dimension, shape (B, D).

        Kingma and Welling, arXiv 1312.6114, appendix B, before the sum over dimensions.
        """
        return 0.5 * (self.mean.square() + self.logvar.exp() - 1 - self.logvar)


class Posterior(nn.Module):
    """Linear head from the sentence vector h (B, H_enc) to q(z|x), in float32.

    `initial_std` is the initial standard deviation for every sentence. The map from z to a frozen
    decoder learns to use z only if the noise is small compared with the spread of the means.

    Args:
        features: Size H_enc of the sentence vector.
        latent_dim: Size D of z.
        standardise: Standardise each feature of h before the linear map, with the statistics of
            `fit_statistics`; until then they are 0 and 1.
        initial_std: Standard deviation of q(z|x) before training; None for about 1.
    """

    features_mean: Tensor
    features_std: Tensor

    def __init__(
        self,
        features: int,
        latent_dim: int,
        standardise: bool = False,
        initial_std: float | None = None,
    ) -> None:
        super().__init__()
        self.linear = nn.Linear(features, 2 * latent_dim)
        if initial_std is not None:
            with torch.no_grad():
                self.linear.weight[latent_dim:].zero_()
                self.linear.bias[latent_dim:].fill_(2 * math.log(initial_std))
        self.standardise = standardise
        if standardise:
            self.register_buffer("features_mean", torch.zeros(features))
            self.register_buffer("features_std", torch.ones(features))

    @torch.no_grad()
    def fit_statistics(self, h: Tensor) -> None:
        """Set mean and standard deviation of each feature to those of vectors h (N, H_enc).

        A constant feature is not scaled.

        Raises:
            UserError: There are fewer than two vectors.
        """
        if len(h) < 2:
            raise UserError(f"expected at least 2 sentence vectors; got {len(h)}")
        h = h.to(self.features_mean)
        std = h.std(0, correction=0)
        self.features_mean.copy_(h.mean(0))
        self.features_std.copy_(torch.where(std > 1e-6, std, torch.ones_like(std)))

    def forward(self, h: Tensor) -> DiagonalGaussian:
        """q(z|x) with mean and logvar (B, D), of sentence vectors h (B, H_enc)."""
        dtype = self.linear.weight.dtype
        with torch.autocast(h.device.type, enabled=False):
            h = h.to(dtype)
            if self.standardise:
                h = (h - self.features_mean) / self.features_std
            both = self.linear(h).to(torch.promote_types(dtype, torch.float32))
        mean, logvar = both.chunk(2, dim=-1)
        return DiagonalGaussian(mean, logvar)


def kl_term(kl: Tensor, rule: KLRule = "none", threshold: float = 0.0) -> Tensor:
    """The KL part of the objective, in nats, averaged over sentences.

    Three rules known as "free bits" differ in scale and gradient, so each has its own name here.
    The raw KL (`rule="none"`) should be logged with all of them.

    Args:
        kl: KL per sentence and dimension, shape (B, D), in nats.
        rule: One of
            `"none"`: mean_b sum_i KL_bi;
            `"free_bits"`: sum_i max(threshold, mean_b KL_bi), Kingma et al., arXiv 1606.04934,
            eq. 15, over the whole batch of all processes;
            `"dimension_mask"`: mean_b sum_i [KL_bi > threshold] KL_bi, as in Optimus;
            `"sentence_threshold"`: mean_b [sum_i KL_bi > threshold] sum_i KL_bi, as in LangVAE.
        threshold: In nats; per dimension for `free_bits` and `dimension_mask`, per sentence for
            `sentence_threshold`; unused for `none`.

    Returns:
        A scalar.

    Example:
        >>> kl = torch.tensor([[0.1, 2.0], [0.3, 4.0]])
        >>> round(kl_term(kl, "free_bits", 0.5).item(), 4)
        3.5
        >>> round(kl_term(kl, "dimension_mask", 0.5).item(), 4)
        3.0
        >>> round(kl_term(kl, "sentence_threshold", 3.0).item(), 4)
        2.15
    """
    if threshold < 0:
        raise UserError(f"expected a KL threshold of at least 0 nats; got {threshold}")
    match rule:
        case "none":
            return kl.sum(-1).mean()
        case "free_bits":
            mean = kl.mean(0)
            active = _mean_over_processes(mean.detach().clone()) > threshold
            return torch.where(active, mean, torch.full_like(mean, threshold)).sum()
        case "dimension_mask":
            return torch.where(kl > threshold, kl, torch.zeros_like(kl)).sum(-1).mean()
        case "sentence_threshold":
            total = kl.sum(-1)
            return torch.where(total > threshold, total, torch.zeros_like(total)).mean()
        case _:
            raise unknown("KL rule", rule, get_args(KLRule))


def _mean_over_processes(x: Tensor) -> Tensor:
    """Average over the training processes, so that a rule applies to the global batch."""
    if torch.distributed.is_available() and torch.distributed.is_initialized():
        torch.distributed.all_reduce(x)
        return x / torch.distributed.get_world_size()
    return x
