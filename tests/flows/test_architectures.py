"""What holds for every flow by its name, in both forms."""

from __future__ import annotations

import pytest
import torch
from tests.flows.cases import GAUSSIANS, both_forms, contexts, every_flow, random_flow

from llamavae.errors import UserError
from llamavae.flows import build_flow

# D, C: one dimension, no context, one that is embedded, one of the same size as the data
sizes = pytest.mark.parametrize(("features", "context"), [(1, 0), (1, 1), (2, 5), (5, 0), (4, 4)])


@every_flow
@both_forms
@sizes
def test_the_inverse_undoes_the_map(name, form, features, context):
    c = contexts(6, context)
    transform = random_flow(name, features, context, form=form)(c).transform
    x = 2 * torch.randn(6, features, dtype=torch.float64)
    y = transform(x)
    assert not torch.allclose(x, y)
    torch.testing.assert_close(transform.inv(y), x)
    torch.testing.assert_close(transform(transform.inv(x)), x)


@every_flow
@both_forms
@sizes
def test_the_log_determinant_is_that_of_the_jacobian(name, form, features, context):
    flow = random_flow(name, features, context, form=form)
    for x in torch.randn(3, features, dtype=torch.float64):
        transform = flow(None if not context else torch.randn(context)).transform
        jacobian = torch.autograd.functional.jacobian(transform, x)
        expected = torch.linalg.slogdet(jacobian).logabsdet
        y, together = transform.call_and_ladj(x)
        torch.testing.assert_close(together, expected)
        torch.testing.assert_close(transform.log_abs_det_jacobian(x, y), expected)
        torch.testing.assert_close(transform.inv.log_abs_det_jacobian(y, x), -expected)


@every_flow
@both_forms
@pytest.mark.parametrize(("features", "context"), [(1, 0), (1, 1), (2, 0), (2, 1), (2, 2)])
@torch.no_grad()
def test_densities_integrate_to_one(name, form, features, context):
    c = None if not context else torch.randn(context)
    distribution = random_flow(name, features, context, scale=0.2, form=form)(c)
    low, high = distribution.sample((2000,)).aminmax(dim=0)
    points = 20_001 if features == 1 else 351
    lines = torch.stack([torch.linspace(-1, 2, points, dtype=torch.float64)] * features)
    lines = low[:, None] + (high - low)[:, None] * lines  # thrice as wide as the samples
    grid = torch.cartesian_prod(*lines).reshape(-1, features)
    cell = (lines[:, 1] - lines[:, 0]).prod()
    assert distribution.log_prob(grid).exp().sum() * cell == pytest.approx(1, abs=0.01)


@every_flow
@both_forms
@sizes
def test_every_parameter_gets_a_gradient(name, form, features, context):
    flow = random_flow(name, features, context, form=form)
    x = torch.randn(16, features)
    flow(contexts(16, context)).log_prob(x).mean().backward()
    for parameter, value in flow.named_parameters():
        assert value.grad is not None, parameter
        assert value.grad.isfinite().all(), parameter
        assert value.grad.any(), parameter


@every_flow
@both_forms
@sizes
@torch.no_grad()
def test_samples_come_from_the_density(name, form, features, context):
    """The mean of exp(-log p) over samples inside a box is the volume of the box."""
    c = None if not context else torch.randn(context)
    distribution = random_flow(name, features, context, form=form)(c)
    x = distribution.sample((20_000,))
    low, high = x.quantile(0.3, dim=0), x.quantile(0.7, dim=0)
    inside = ((x > low) & (x < high)).all(1)
    weight = torch.where(inside, (-distribution.log_prob(x)).exp(), 0)
    error = 5 * (weight.std() / len(x) ** 0.5).item()
    assert weight.mean().item() == pytest.approx((high - low).prod().item(), abs=error)


@every_flow
@both_forms
def test_settings_make_the_same_flow(name, form):
    flow = build_flow(name, 3, 5, form=form, hidden=(8,), embedding=2)
    again = build_flow(**flow.settings)
    assert again.settings == flow.settings
    again.load_state_dict(flow.state_dict())
    x, c = torch.randn(4, 3), torch.randn(4, 5)
    assert torch.equal(again(c).log_prob(x), flow(c).log_prob(x))


@every_flow
def test_only_the_gaussian_ignores_the_context(name):
    c = torch.randn(2, 3, dtype=torch.float64)
    one, other = random_flow(name, 2, 3)(c).log_prob(torch.ones(2))
    assert (one == other) == (name == "gaussian")


@pytest.mark.parametrize("name", GAUSSIANS)
def test_gaussians_have_no_blocks_and_one_form(name):
    options = {"base_hidden": (8,), "ensemble_size": 2}
    flow = build_flow(name, 3, 3, form="reference", blocks=7, **options)
    assert flow.settings["blocks"] == 0
    assert flow.settings["base_hidden"] == []
    assert flow.settings["ensemble_size"] == 1
    assert len(flow.blocks) == 0
    assert set(flow.state_dict()) == set(build_flow(name, 3, 3).state_dict())


@both_forms
@pytest.mark.parametrize("name", ["glow", "maf"])
def test_clamp_bounds_the_log_scales(name, form):
    flow = random_flow(name, 4, form=form, clamp=0.5)
    with torch.no_grad():
        for parameter in flow.blocks.parameters():
            parameter *= 100
        for block in flow.blocks:
            if not hasattr(block, "log_scale"):
                x = torch.randn(50, 4, dtype=torch.float64)
                log_det = block(None).log_abs_det_jacobian(x, block(None)(x))
                assert log_det.abs().max() < 4 * 0.5


def test_options_have_defaults_and_are_kept():
    assert build_flow("glow", 2).settings["clamp"] == 2
    assert build_flow("glow", 2, clamp=1.5).settings["clamp"] == 1.5
    assert build_flow("spline", 2).settings["bins"] == 8
    assert build_flow("spline", 2, bins=3).settings["bins"] == 3


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"name": "glo"}, "unknown flow 'glo'. Did you mean 'glow'"),
        ({"form": "conditonal"}, "unknown form 'conditonal'. Did you mean 'conditional'"),
        ({"clmap": 1.0}, "unknown option of glow 'clmap'. Did you mean 'clamp'"),
        ({"bins": 4}, "unknown option of glow 'bins'. Known: clamp"),
        ({"name": "gaussian", "clamp": 1.0}, "it has none"),
        ({"features": 0}, "features must be at least 1; got 0"),
        ({"context": -1}, "context must be at least 0; got -1"),
        ({"blocks": 0}, "blocks must be at least 1; got 0"),
        ({"hidden": (8, 0)}, "hidden must be at least 1; got 0"),
        ({"base_hidden": (8, 1)}, "base_hidden must be at least 2; got 1"),
        (
            {"base_hidden": (8,), "form": "conditional"},
            "base_hidden is only for the reference form",
        ),
        ({"ensemble_size": 0}, "ensemble_size must be at least 1; got 0"),
        ({"ensemble_size": 2}, "ensemble_size needs the widths of the networks"),
        ({"dropout": 1.0}, "dropout must be at least 0 and below 1; got 1.0"),
        ({"embedding": -2}, "embedding must be at least 0; got -2"),
        ({"clamp": 0.0}, "clamp must be at least 0.001; got 0.0"),
        ({"clamp": float("nan")}, "clamp must be at least 0.001; got nan"),
        ({"name": "spline", "bins": 1}, "bins must be at least 2; got 1"),
    ],
)
def test_what_cannot_be_built_is_refused(changes, message):
    with pytest.raises(UserError, match=message):
        build_flow(**{"name": "glow", "features": 2, **changes})
