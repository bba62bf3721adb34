"""Similarities of a teacher for the posterior mean: who is near whom, not where they lie.

A sentence encoder that was trained for similarity places sentences in a space of its own, of
another size. What can be taken over from it is the cosine of each pair of sentences.
"""

from __future__ import annotations

import torch
from torch import Tensor

from llamavae.metrics.correlation import cosines


def similarity_loss(mean: Tensor, teacher: Tensor) -> Tensor:
    """Mean squared difference between the cosines of means and a teacher's centred ones; a scalar.

    mean over i != j of (cos(mu_i, mu_j) - (cos(t_i, t_j) - c))^2, with c the mean of the teacher's
    cosines: from 0 to 9, and 0 for less than two sentences. It does not change when mu is turned or
    scaled: where the sentences lie, and how far from the origin, is left to the evidence lower
    bound.

    The vectors of most teachers point to one side: their cosines are positive on average. Means
    mu that copied this would lie to one side of the origin, where N(0, I) has little mass. If
    all cosines of mu were free to differ from the teacher's by a constant, mu would go there
    too, since a large vector that all share makes their cosines alike.

    Similarity-preserving distillation (Tung and Mori, arXiv 1907.09682) with cosines in place of
    rows of inner products; a relation-wise loss in the sense of relational knowledge distillation
    (Park et al., arXiv 1904.05068).

    Args:
        mean: Posterior means mu (B, D).
        teacher: The teacher's vectors t of the same sentences (B, K).
    """
    rows, columns = torch.triu_indices(len(mean), len(mean), 1, device=mean.device)
    ours, theirs = cosines(mean)[rows, columns], cosines(teacher).to(mean.device)[rows, columns]
    if not len(ours):
        return ours.sum()
    return (ours - (theirs - theirs.mean())).square().mean()
