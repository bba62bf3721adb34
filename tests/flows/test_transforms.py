from __future__ import annotations

import pytest
import torch
from sklearn.linear_model import Ridge
from zuko.transforms import ComposedTransform

from llamavae.flows.transforms import (
    ActNorm,
    Affine,
    FullPrecision,
    LinearTransform,
    alignment,
    autoregressive_block,
    coupling_block,
    regression,
    spline_block,
)

BLOCKS = {
    "coupling": lambda: coupling_block(6, 2, hidden=(16,), clamp=2.0),
    "spline": lambda: spline_block(6, 2, hidden=(16,), bins=8),
    "autoregressive": lambda: autoregressive_block(6, 2, hidden=(16,), clamp=2.0),
}


def random(*shape):
    return torch.randn(*shape, dtype=torch.float64)


def test_a_linear_transform_by_hand():
    transform = LinearTransform(torch.tensor([[2.0, 1.0], [0.0, 3.0]]), torch.tensor([1.0, -1.0]))
    x = torch.tensor([[1.0, 0.0], [2.0, -1.0]])
    y = torch.tensor([[1.0, 3.0], [2.0, 0.0]])
    torch.testing.assert_close(transform(x), y)
    torch.testing.assert_close(transform.inv(y), x)
    log_det = transform.log_abs_det_jacobian(x, y)
    torch.testing.assert_close(log_det, torch.tensor([6.0, 6.0]).log())


@pytest.mark.parametrize("rows", [4000, 12])
def test_an_affine_map_whitens_what_the_regression_leaves(rows):
    c = random(rows, 2)
    c = (c - c.mean(0)) / c.std(0, correction=0)
    slope, factor = random(3, 2), torch.tensor([[1.0, 0, 0], [1, 2, 0], [-1, 1, 1]]).double()
    x = c @ slope.mT + random(rows, 3) @ factor.mT + 5
    affine = Affine(3, 2).double()
    affine.initialise(x, c)
    y = affine(c)(x)
    torch.testing.assert_close(y.mean(0), torch.zeros_like(y[0]), rtol=0, atol=1e-6)
    covariance = y.mT @ y / rows
    if rows == 4000:
        torch.testing.assert_close(covariance, torch.eye(3).double(), rtol=0, atol=0.05)
        assert affine.slope is not None
        torch.testing.assert_close(affine.slope.data, slope, rtol=0, atol=0.2)
    else:  # shrunk: with few rows the least variances of a sample are too small
        assert torch.linalg.eigvalsh(covariance)[0] < 0.95


def test_an_affine_map_without_slope_whitens_the_same_residual():
    c, x = random(50, 2), random(50, 3)
    c = c - c.mean(0)
    one, other = Affine(3, 2).double(), Affine(3).double()
    one.initialise(x, c)
    other.initialise(x, c)
    assert torch.equal(one.weight, other.weight)
    assert torch.equal(one.shift, other.shift)


@pytest.mark.parametrize("ridge", [0.01, 1.0, 100.0])
def test_regression_is_that_of_scikit_learn(ridge):
    c, y = random(30, 4), random(30, 3)
    expected = Ridge(alpha=ridge, fit_intercept=False).fit(c.numpy(), y.numpy()).coef_
    torch.testing.assert_close(regression(c, y, ridge), torch.from_numpy(expected))
    assert regression(c.float(), y.float(), ridge).dtype == torch.float64


def white(rows, size):
    y = random(rows, size)
    y = y - y.mean(0)
    factor = torch.linalg.cholesky(y.mT @ y / rows)
    return torch.linalg.solve_triangular(factor, y.mT, upper=False).mT


def aligned_nll(weight, rho, y, c):
    """Minus the log-likelihood of N(V y; c, rho^2 I) |det V|, in nats, less a constant."""
    quadratic = (y @ weight.mT - c).square().sum(1).mean() / (2 * rho**2)
    return quadratic + y.shape[1] * rho.log() - torch.linalg.slogdet(weight).logabsdet


def test_the_alignment_is_a_maximum_of_the_likelihood():
    y = white(200, 4)
    c = y @ random(4, 4) + random(200, 4)
    weight, rho = alignment(y, c, ridge=0.0)
    weight, rho = weight.requires_grad_(), torch.tensor(rho).double().requires_grad_()
    best = aligned_nll(weight, rho, y, c)
    for gradient in torch.autograd.grad(best, (weight, rho)):
        torch.testing.assert_close(gradient, torch.zeros_like(gradient), rtol=0, atol=1e-6)
    turned = torch.linalg.qr(random(4, 4)).Q @ weight
    assert aligned_nll(turned, rho, y, c) > best
    plain = torch.tensor(1e4).double()  # the Gaussian without context is a limit of this model
    assert aligned_nll(plain * torch.eye(4).double(), plain, y, c) > best


def test_the_alignment_finds_the_map_that_made_the_data():
    c = random(20_000, 3)
    output_linear = torch.linalg.qr(random(3, 3)).Q
    rho = 0.5
    y = (c + rho * random(20_000, 3)) @ output_linear  # white but for a factor
    scale = (1 + rho**2) ** 0.5
    weight, found = alignment(y / scale, c, ridge=0.0)
    assert found == pytest.approx(rho, rel=0.05)
    torch.testing.assert_close(weight, scale * output_linear, rtol=0, atol=0.05)


@pytest.mark.parametrize("kind", ["unrelated", "constant", "the same"])
def test_the_alignment_is_finite_at_the_ends(kind):
    y = white(100, 3)
    c = {"unrelated": y.flip(0) * 0, "constant": torch.zeros(100, 3), "the same": y}[kind]
    if kind == "unrelated":
        c = torch.cat([y[:50], -y[:50]])
        y = torch.cat([y[:50], y[:50]])
    weight, rho = alignment(y, c.double(), ridge=1.0)
    assert weight.isfinite().all()
    assert torch.linalg.slogdet(weight).logabsdet.isfinite()
    assert 1e-3 <= rho <= 1e3


def test_ridge_loosens_the_alignment():
    y = white(200, 3)
    c = y @ torch.linalg.qr(random(3, 3)).Q
    spreads = [alignment(y, c, ridge)[1] for ridge in (1.0, 100.0, 10_000.0)]
    assert spreads == sorted(spreads)


def test_actnorm_starts_as_the_identity_and_scales_each_dimension():
    norm, x = ActNorm(2), torch.randn(5, 2)
    assert torch.equal(norm()(x), x)
    with torch.no_grad():
        norm.shift.copy_(torch.tensor([1.0, 2.0]))
        norm.log_scale.copy_(torch.tensor([0.5, -1.0]))
    y = norm()(x)
    torch.testing.assert_close(y, (x - norm.shift) / norm.log_scale.exp())
    torch.testing.assert_close(norm().inv(y), x)
    torch.testing.assert_close(norm().log_abs_det_jacobian(x, y), torch.full((5,), 0.5))


@pytest.mark.parametrize("kind", BLOCKS)
@torch.no_grad()
def test_blocks_start_close_to_a_permutation_and_have_no_fixed_point(kind):
    x, c = torch.randn(50, 6), torch.randn(50, 2)
    transform = ComposedTransform(*(layer(c) for layer in BLOCKS[kind]()))
    y, log_det = transform.call_and_ladj(x)
    assert log_det.abs().max() < 0.1
    torch.testing.assert_close(y.sort(1).values, x.sort(1).values, rtol=0.1, atol=0.1)
    assert ((y - x).abs().max(0).values > 0).all()  # every dimension takes part


@pytest.mark.parametrize("kind", BLOCKS)
def test_blocks_depend_on_the_context(kind):
    layers = BLOCKS[kind]()
    x = torch.randn(6)
    one, other = (
        ComposedTransform(*(layer(c) for layer in layers))(x)
        for c in (torch.zeros(2), torch.ones(2))
    )
    assert (one != other).any()


def test_a_spline_is_the_identity_far_out():
    layers = spline_block(4, 0, hidden=(8,), bins=4)
    with torch.no_grad():
        for layer in layers:
            for parameter in layer.parameters():
                parameter += torch.randn_like(parameter)
            x = torch.full((4,), 5.5)
            if not isinstance(layer, ActNorm):
                torch.testing.assert_close(layer()(x), x)
                torch.testing.assert_close(layer()(-x), -x)


def test_log_scales_add_up_to_the_log_determinant():
    inner = ComposedTransform(
        *(layer(None) for layer in coupling_block(4, 0, hidden=(8,), clamp=1))
    )
    transform = FullPrecision(inner, torch.zeros(4))
    x = torch.randn(3, 5, 4)
    scales = transform.log_scales(x)
    assert scales.shape == (4, 3, 5)
    torch.testing.assert_close(4 * scales.sum(0), transform.call_and_ladj(x)[1])
