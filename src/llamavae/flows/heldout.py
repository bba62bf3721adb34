"""Held-out metrics of a flow."""

from __future__ import annotations

import torch
from torch import Tensor
from zuko.distributions import DiagNormal

from llamavae.flows.data import FlowData
from llamavae.flows.flow import Flow

_CHUNK = 4096  # number of rows per forward pass
_PROBE = 128  # number of rows on which the inverse is checked


@torch.no_grad()
def nll(flow: Flow, rows: FlowData) -> float:
    """Mean negative log-density in nats per dimension; lower is better."""
    total = 0.0
    for index in torch.arange(len(rows)).split(_CHUNK):
        part = rows.take(index)
        total -= flow(part.c).log_prob(part.x).cpu().double().sum().item()
    return total / len(rows) / flow.features


def contrastive_loss(
    base: DiagNormal, y: Tensor, c: Tensor, temperature: float | Tensor = 1.0
) -> Tensor:
    """Cross-entropy of recognising the context of each row among those of all rows, in nats.

    mean_i -log [ sum over j with c_j = c_i of p(x_i|c_j) / sum over all j of p(x_i|c_j) ]. With
    labels as contexts, it is the cross-entropy of the classifier that follows from the density by
    Bayes' rule. At temperature 1 it is L_Y of Ardizzone et al., arXiv 2001.06448, eq. 12 (IB-INN).
    Another temperature raises all densities to the power 1 / temperature, which preserves their
    order.

    Args:
        base: N(P c + m(c), rho^2 I) of a flow in the reference form, a row for each context
            (..., B, D); the loss is averaged over an ensemble. T does not depend on c, so all
            densities follow from one pass and the distances to all means.
        y: T(x) of the rows (B, D).
        c: Their contexts (B, C).
        temperature: A number above 0.
    """
    rho = base.stddev.flatten()[0]
    logits = -torch.cdist(y / rho, base.mean / rho).square() / (2 * temperature)  # (..., B, B)
    number = c.unique(dim=0, return_inverse=True)[1].to(logits.device)
    same = number[:, None] == number
    own = logits.masked_fill(~same, -torch.inf).logsumexp(-1)
    return (logits.logsumexp(-1) - own).mean()


@torch.no_grad()
def mean_contrastive_loss(
    flow: Flow, rows: FlowData, batch_size: int, temperature: float | Tensor = 1.0
) -> float:
    """Mean `contrastive_loss` over full batches, or the incomplete one if there is no other."""
    batches = [b for b in torch.arange(len(rows)).split(batch_size) if len(b) == batch_size]
    total = 0.0
    for index in batches or [torch.arange(len(rows))]:
        part = rows.take(index)
        assert part.c is not None
        p = flow(part.c)
        total += contrastive_loss(p.base, p.transform(part.x), part.c, temperature).item()
    return total / max(1, len(batches))


@torch.no_grad()
def invertibility(flow: Flow, rows: FlowData) -> dict[str, float]:
    """Numerical invertibility of the flow on the first rows.

    Returns:
        `inverse_error`, the largest |T^-1(T(x)) - x|; `log_scale_min` and `log_scale_max`, the
        extremes over maps and rows of log |det| of one map, per dimension.
    """
    part = rows.take(torch.arange(min(_PROBE, len(rows))))
    transform = flow(part.c).transform
    x = part.x.to(flow.affine.weight)
    low, high = transform.log_scales(x).aminmax()
    return {
        "inverse_error": (transform.inv(transform(x)) - x).abs().max().item(),
        "log_scale_min": low.item(),
        "log_scale_max": high.item(),
    }
