from __future__ import annotations

import math

import pytest
import torch
from tests.flows.cases import random_flow

from llamavae.flows import Rows, build_flow
from llamavae.flows.heldout import invertibility, nll


def test_nll_by_hand():
    x = torch.tensor([[1.0, -1.0], [0.0, 2.0]])
    expected = 0.5 * math.log(2 * math.pi) + 0.5 * (1 + 1 + 0 + 4) / 4
    assert nll(build_flow("gaussian", 2), Rows(x)) == pytest.approx(expected)


def test_nll_is_the_mean_over_all_rows(monkeypatch):
    flow = random_flow("glow", 3, 2)
    x, c = torch.randn(10, 3), torch.randn(10, 2)
    expected = -flow(c).log_prob(x).mean().item() / 3
    assert nll(flow, Rows(x, c)) == pytest.approx(expected)
    monkeypatch.setattr("llamavae.flows.heldout._CHUNK", 3)
    assert nll(flow, Rows(x, c)) == pytest.approx(expected)


def test_invertibility_of_a_linear_map():
    flow = build_flow("gaussian", 2)
    with torch.no_grad():
        flow.affine.weight.copy_(torch.diag(torch.tensor([math.exp(3), math.exp(-1)])))
    found = invertibility(flow, Rows(torch.randn(5, 2)))
    assert found["log_scale_min"] == found["log_scale_max"] == pytest.approx((3 - 1) / 2)
    assert found["inverse_error"] < 1e-5
    with torch.no_grad():
        flow.affine.weight[1, 1] = 1e-30
    assert invertibility(flow, Rows(torch.full((5, 2), 1e-3)))["inverse_error"] < 1e-5
