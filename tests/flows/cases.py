"""Small flows for the tests, with weights that are far from the start."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor

from llamavae.flows import Flow, build_flow, flow_names

FORMS = ("conditional", "reference")
GAUSSIANS = ("linear-gaussian", "gaussian")
LAYERED = [name for name in flow_names() if name not in GAUSSIANS]

every_flow = pytest.mark.parametrize("name", flow_names())
every_layered_flow = pytest.mark.parametrize("name", LAYERED)
both_forms = pytest.mark.parametrize("form", FORMS)


def random_flow(name: str, features: int, context: int = 0, scale: float = 0.4, **options) -> Flow:
    """A flow of two blocks in float64 whose maps are all far from the identity."""
    flow = build_flow(
        name, features, context, **{"blocks": 2, "hidden": (16,), "embedding": 4, **options}
    ).double()
    with torch.no_grad():
        for parameter in flow.parameters():
            parameter += (
                scale * torch.randn_like(parameter) / max(1, parameter.shape[-1:].numel()) ** 0.5
            )
        flow.context_mean.copy_(torch.randn(context))
        flow.context_scale.copy_(torch.rand(context) + 0.5)
    return flow


def contexts(rows: int, size: int) -> Tensor | None:
    """Random contexts (rows, size) in float64, or None for size 0."""
    return torch.randn(rows, size, dtype=torch.float64) if size else None


def linear_data(rows: int, features: int, context: int) -> tuple[Tensor, Tensor, Tensor]:
    """x (N, D) that is Gaussian given c (N, C), and its true NLL (N,) in nats per dimension."""
    c = 2 * torch.randn(rows, context) + 5
    slope = torch.randn(features, context) / context**0.5
    factor = torch.eye(features) / 2 + torch.randn(features, features).tril(-1) / features**0.5
    noise = torch.randn(rows, features)
    log_det = factor.diagonal().log().sum() / features
    truth = 0.5 * noise.square().mean(1) + log_det + 0.5 * math.log(2 * math.pi)
    return c @ slope.mT + noise @ factor.mT - 3, c, truth
