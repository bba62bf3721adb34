"""Distillation of a teacher's sentence similarities into the posterior means."""

from __future__ import annotations

import torch
from torch import Tensor

from llamavae.metrics.correlation import pairwise_cosines


def similarity_loss(mean: Tensor, teacher: Tensor) -> Tensor:
    """Mean squared difference between the cosines of means and a teacher's centred ones; a scalar.

    mean over i != j of (cos(mu_i, mu_j) - (cos(t_i, t_j) - c))^2, with c the mean of the teacher's
    cosines: from 0 to 9, and 0 for fewer than two sentences. It is invariant to rotation and
    scaling of mu. The cosines are centred because those of most teachers are positive on average:
    means mu with the same cosines would lie to one side of the origin, where N(0, I) has little
    mass. An additive constant that is learned would allow that as well.

    Similarity-preserving distillation (Tung and Mori, arXiv 1907.09682) with cosines in place of
    rows of inner products; a relation-wise loss (Park et al., arXiv 1904.05068).

    Args:
        mean: Posterior means mu (B, D).
        teacher: The teacher's vectors t of the same sentences (B, K).
    """
    rows, columns = torch.triu_indices(len(mean), len(mean), 1, device=mean.device)
    ours = pairwise_cosines(mean)[rows, columns]
    theirs = pairwise_cosines(teacher).to(mean.device)[rows, columns]
    if not len(ours):
        return ours.sum()
    return (ours - (theirs - theirs.mean())).square().mean()
