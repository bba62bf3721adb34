"""What is measured of a flow on held-out rows."""

from __future__ import annotations

from typing import Any

import torch

from llamavae.flows.flow import Flow
from llamavae.flows.rows import Rows

_CHUNK = 4096  # rows that pass a flow together
_PROBE = 128  # rows on which the inverse is checked


def given(flow: Flow, rows: Rows) -> Any:
    """p(x|c) for the contexts of these rows: zuko's `NormalizingFlow`."""
    return flow(None if rows.c is None else rows.c.to(flow.affine.weight))


@torch.no_grad()
def nll(flow: Flow, rows: Rows) -> float:
    """Mean negative log-density in nats per dimension; lower is better."""
    total = 0.0
    for index in torch.arange(len(rows)).split(_CHUNK):
        part = rows.take(index)
        total -= given(flow, part).log_prob(part.x).cpu().double().sum().item()
    return total / len(rows) / flow.features


@torch.no_grad()
def invertibility(flow: Flow, rows: Rows) -> dict[str, float]:
    """How far the flow is from being invertible, on the first rows.

    Returns:
        `inverse_error`, the largest |T^-1(T(x)) - x|; `log_scale_min` and `log_scale_max`, the
        extremes over maps and rows of log |det| of one map, per dimension.
    """
    part = rows.take(torch.arange(min(_PROBE, len(rows))))
    transform = given(flow, part).transform
    x = part.x.to(flow.affine.weight)
    low, high = transform.log_scales(x).aminmax()
    return {
        "inverse_error": (transform.inv(transform(x)) - x).abs().max().item(),
        "log_scale_min": low.item(),
        "log_scale_max": high.item(),
    }
