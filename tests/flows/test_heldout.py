"""What is measured of a flow on held-out rows: the contrast between contexts."""

from __future__ import annotations

import math

import pytest
import torch
from zuko.distributions import DiagNormal

from llamavae.errors import UserError
from llamavae.flows import FitConfig, build_flow, fit_flow
from llamavae.flows.data import FlowData
from llamavae.flows.heldout import contrastive_loss, mean_contrastive_loss


def base(means: list[list[float]], rho: float = 1.0) -> DiagNormal:
    mean = torch.tensor(means)
    return DiagNormal(mean, torch.full_like(mean, rho))


def test_contrast_is_the_cross_entropy_of_bayes_rule() -> None:
    means, y = [[0.0], [2.0]], torch.tensor([[0.0], [2.0]])
    c = torch.tensor([[0.0], [1.0]])
    expected = math.log(1 + math.exp(-(2.0**2) / 2 / 0.5**2))
    assert contrastive_loss(base(means, 0.5), y, c).item() == pytest.approx(expected, rel=1e-4)


def test_a_temperature_flattens_the_densities() -> None:
    means, y = [[0.0], [2.0]], torch.tensor([[0.0], [2.0]])
    c = torch.tensor([[0.0], [1.0]])
    found = contrastive_loss(base(means, 0.5), y, c, temperature=4.0).item()
    assert found == pytest.approx(contrastive_loss(base(means, 1.0), y, c).item(), rel=1e-4)


def test_rows_of_one_context_are_no_rivals() -> None:
    y, c = torch.zeros(3, 1), torch.tensor([[1.0], [1.0], [2.0]])
    found = contrastive_loss(base([[0.0], [0.0], [0.0]]), y, c).item()
    assert found == pytest.approx((2 * math.log(3 / 2) + math.log(3)) / 3)


def test_several_means_of_each_context_have_the_mean_of_their_contrasts() -> None:
    torch.manual_seed(0)
    several, y, c = torch.randn(3, 8, 2), torch.randn(8, 2), torch.arange(8.0)[:, None]
    one_by_one = [contrastive_loss(base(mean.tolist()), y, c, 2.0) for mean in several]
    found = contrastive_loss(DiagNormal(several, torch.ones_like(several)), y, c, 2.0)
    torch.testing.assert_close(found, torch.stack(one_by_one).mean())


def test_contrast_agrees_with_the_densities_of_the_flow() -> None:
    torch.manual_seed(0)
    flow = build_flow("glow", features=3, context=5, form="reference", blocks=2)
    x, c = torch.randn(40, 3), torch.randn(40, 5)
    flow.initialise(x, c)
    flow.eval()
    with torch.no_grad():
        density = torch.stack([flow(c).log_prob(row.expand(40, -1)) for row in x])  # (row, context)
    expected = -density.log_softmax(1).diagonal().mean().item()
    assert mean_contrastive_loss(flow, FlowData(x, c), 40) == pytest.approx(expected, rel=1e-4)


def test_a_fit_with_contrast_tells_contexts_apart_better() -> None:
    torch.manual_seed(0)
    label = torch.randint(2, (900,))
    c = torch.nn.functional.one_hot(label, 2).float()
    angle = torch.rand(900) * 2 * torch.pi
    radius = 1.0 + label  # two rings: no linear map tells them apart
    x = torch.stack([radius * angle.cos(), radius * angle.sin(), torch.randn(900)], 1)
    x = x + 0.15 * torch.randn_like(x)
    found = {}
    for weight in (0.0, 20.0):
        torch.manual_seed(0)
        options = {"form": "reference", "blocks": 4, "hidden": (32,)}
        flow = build_flow("glow", features=3, context=2, **options)
        config = FitConfig(steps=200, eval_every=100, learning_rate=6e-3, contrastive_weight=weight)
        fit = fit_flow(flow, x[:600], c[:600], config=config, progress=False)
        assert ("contrastive_loss" in fit.history[-1]) == (weight > 0)
        found[weight] = mean_contrastive_loss(flow, FlowData(x[600:], c[600:]), 300)
    assert found[20.0] < 0.8 * found[0.0]


def test_a_closed_form_has_no_use_for_contrast() -> None:
    x, c = torch.randn(80, 3), torch.randn(80, 4)
    flow = build_flow("linear-gaussian", features=3, context=4, form="reference")
    fit = fit_flow(flow, x, c, config=FitConfig(contrastive_weight=5.0), progress=False)
    assert fit.stopped == "closed form"
    assert "contrastive_loss" not in fit.history[0]


@pytest.mark.parametrize(("context", "form"), [(0, "reference"), (4, "conditional")])
def test_contrast_needs_the_reference_form_and_a_context(context: int, form: str) -> None:
    flow = build_flow("glow", features=3, context=context, form=form)
    c = torch.randn(50, context) if context else None
    with pytest.raises(UserError, match="reference form"):
        fit_flow(
            flow, torch.randn(50, 3), c, config=FitConfig(contrastive_weight=1.0), progress=False
        )
