from __future__ import annotations

from typing import Any

import pytest
import torch
from tests.flows.cases import (
    both_forms,
    contexts,
    every_flow,
    every_layered_flow,
    linear_data,
    random_flow,
)

from llamavae.errors import UserError
from llamavae.flows import FlowData, build_flow, load_flow, save_flow
from llamavae.flows.heldout import nll


@every_flow
@both_forms
def test_contexts_have_any_batch_shape(name, form):
    flow = random_flow(name, 3, 5, form=form)
    c = torch.randn(4, 5, 5)
    distribution = flow(c)
    assert distribution.batch_shape == (4, 5)
    assert distribution.event_shape == (3,)
    x = distribution.sample((6,))
    assert x.shape == (6, 4, 5, 3)
    log_prob = distribution.log_prob(x)
    assert log_prob.shape == (6, 4, 5)
    torch.testing.assert_close(flow(c[2, 1]).log_prob(x[3, 2, 1]), log_prob[3, 2, 1])
    assert flow(c[2, 1]).batch_shape == ()


@every_flow
@both_forms
def test_every_row_is_measured_under_every_context(name, form):
    flow = random_flow(name, 3, 5, form=form)
    x, c = torch.randn(6, 3), torch.randn(4, 5)
    table = flow(c).log_prob(x[:, None])
    assert table.shape == (6, 4)
    for j in range(4):
        torch.testing.assert_close(flow(c[j]).log_prob(x), table[:, j])


@every_flow
@both_forms
@torch.no_grad()
def test_without_context(name, form):
    distribution = random_flow(name, 3, form=form)()
    assert distribution.batch_shape == ()
    assert distribution.sample((7,)).shape == (7, 3)


@every_flow
@both_forms
@pytest.mark.parametrize("context", [2, 3])
@torch.no_grad()
def test_arithmetic_is_in_the_type_of_the_weights(name, form, context):
    flow = random_flow(name, 3, context, form=form).float()
    x, c = torch.randn(8, 3).bfloat16(), torch.randn(8, context).bfloat16()
    expected = flow(c.float()).log_prob(x.float())
    assert expected.dtype == torch.float32
    for dtype in (torch.bfloat16, torch.float64):
        assert torch.equal(flow(c.to(dtype)).log_prob(x.to(dtype)), expected)
    with torch.autocast("cpu", torch.bfloat16):
        assert torch.equal(flow(c).log_prob(x), expected)
        transform = flow(c).transform
        y = transform(x)
        assert torch.equal(transform.log_scales(x), flow(c).transform.log_scales(x.float()))
    assert torch.equal(transform(x.float()), y)
    assert y.dtype == torch.float32
    with torch.autocast("cpu", torch.bfloat16):
        back = transform.inv(y)
    assert torch.equal(back, transform.inv(y))
    torch.testing.assert_close(back, x.float(), rtol=1e-4, atol=1e-4)


@every_flow
@both_forms
@pytest.mark.parametrize("context", [0, 3, 5])
@torch.no_grad()
def test_double_works_throughout(name, form, context):
    flow = build_flow(name, 3, context, form=form, blocks=2, hidden=(8,), embedding=4).double()
    x, c = torch.randn(50, 3), contexts(50, context)
    flow.initialise(x, c)
    assert {t.dtype for t in flow.state_dict().values() if t.is_floating_point()} == {torch.float64}
    distribution = flow(c)
    assert distribution.log_prob(x).dtype == torch.float64
    assert distribution.sample().dtype == torch.float64
    transform = distribution.transform
    assert (transform.inv(transform(x)) - x).abs().max() < 1e-12


@every_flow
@both_forms
@pytest.mark.parametrize("context", [2, 3])
def test_samples_have_gradients(name, form, context):
    flow = random_flow(name, 3, context, form=form)
    c = torch.randn(8, context, requires_grad=True)
    flow(c).rsample().square().sum().backward()
    assert (c.grad is not None and bool(c.grad.any())) == (name != "gaussian")
    for parameter, value in flow.named_parameters():
        assert value.grad is not None, parameter
        assert value.grad.isfinite().all(), parameter


# ------------------------------------------------------------------------------- the mean


@pytest.mark.parametrize("context", [0, 2, 3])  # none, a learned P, the identity
def test_a_network_in_the_mean(context, tmp_path):
    """It bends the mean; T stays as it is, and so does a flow without context."""
    plain = random_flow("glow", 3, context, form="reference")
    bent = random_flow("glow", 3, context, form="reference", base_hidden=(6, 5), dropout=0.5)
    bent.load_state_dict(plain.state_dict(), strict=False)
    bent.eval()
    x, c = torch.randn(16, 3), contexts(16, context)
    torch.testing.assert_close(bent(c).transform(x), plain(c).transform(x))
    has_network = any("network" in name for name in bent.state_dict())
    assert has_network == (context > 0)
    if c is None:
        return

    def added(c: torch.Tensor) -> torch.Tensor:
        return bent(c).base.mean - plain(c).base.mean

    assert not torch.allclose(added((c[0] + c[1]) / 2), (added(c[0]) + added(c[1])) / 2)
    bent(c).log_prob(x).mean().backward()
    for name, value in bent.named_parameters():
        assert value.grad is not None, name
        assert value.grad.any(), name
    save_flow(bent, tmp_path / "flow.safetensors")
    again = load_flow(tmp_path / "flow.safetensors")
    assert torch.equal(again(c).log_prob(x), bent(c).log_prob(x))


@every_layered_flow
@both_forms
def test_dropout_is_for_training_alone(name, form):
    mean: dict[str, Any] = {"base_hidden": (32,)} if form == "reference" else {}
    flow = random_flow(name, 4, 5, form=form, hidden=(32,), dropout=0.5, **mean)
    x, c = torch.randn(8, 4), contexts(8, 5)
    parts = [lambda p: p.transform(x)] + [lambda p: p.base.mean] * (form == "reference")
    for part in parts:
        assert not torch.equal(part(flow(c)), part(flow(c)))
    flow.eval()
    for part in parts:
        assert torch.equal(part(flow(c)), part(flow(c)))


@pytest.mark.parametrize("context", [2, 3])
def test_several_networks_in_the_mean(context, tmp_path):
    """In training each answers alone, afterwards their mean does, which is no worse than they."""
    flow = random_flow("glow", 3, context, form="reference", base_hidden=(6,), ensemble_size=4)
    x, c = torch.randn(16, 3), contexts(16, context)
    flow.train()
    alone, log_prob = flow(c).base.mean, flow(c).log_prob(x)
    assert alone.shape == (4, 16, 3)
    assert len({row.sum().item() for row in alone}) == 4
    log_prob.mean().backward()
    for name, value in flow.named_parameters():
        assert value.grad is not None, name
        assert value.grad.any(), name
    flow.eval()
    torch.testing.assert_close(flow(c).base.mean, alone.mean(0))
    assert (flow(c).log_prob(x) >= log_prob.mean(0)).all()  # a Gaussian is log-concave in its mean
    assert flow(c).rsample().shape == x.shape
    save_flow(flow, tmp_path / "flow.safetensors")
    again = load_flow(tmp_path / "flow.safetensors")
    assert torch.equal(again(c).log_prob(x), flow(c).log_prob(x))


def test_a_network_in_the_mean_starts_where_the_linear_mean_does():
    x, c, _ = linear_data(200, 3, 5)
    found = {}
    for widths in ((), (16,)):
        torch.manual_seed(0)
        flow = build_flow("glow", 3, 5, form="reference", hidden=(16,), base_hidden=widths)
        flow.initialise(x, c)
        found[widths] = nll(flow, FlowData(x, c))
    assert found[()] == pytest.approx(found[16,], abs=1e-3)


# ------------------------------------------------------------------------------- initialise


def started(name, x, c, **options):
    flow = build_flow(name, x.shape[1], c.shape[1], hidden=(16,), **options)
    flow.initialise(x, c)
    return flow


@every_layered_flow
@both_forms
@pytest.mark.parametrize(
    ("rows", "features", "context"),
    [(2000, 1, 2), (2000, 4, 2), (60, 64, 3), (300, 8, 100)],
)
def test_a_flow_starts_at_the_linear_gaussian(name, form, rows, features, context):
    x, c, _ = linear_data(rows + 500, features, context)
    held_out = FlowData(x[rows:], c[rows:])
    flow = started(name, x[:rows], c[:rows], form=form)
    gaussian = started("linear-gaussian", x[:rows], c[:rows])
    assert abs(nll(flow, held_out) - nll(gaussian, held_out)) < 0.02


@every_layered_flow
@pytest.mark.parametrize("size", [1, 6])
def test_where_the_context_is_the_base_mean_a_flow_starts_between_the_gaussians(name, size):
    c = torch.randn(4000, size)
    slope = torch.eye(size) + torch.ones(size, size).triu() / 2
    x = c @ slope.mT + 0.5 * torch.randn(4000, size)
    held_out = FlowData(x[2000:], c[2000:])
    flow = started(name, x[:2000], c[:2000], form="reference")
    best, worst = (
        nll(started(other, x[:2000], c[:2000]), held_out)
        for other in ("linear-gaussian", "gaussian")
    )
    assert best - 0.02 < nll(flow, held_out) < worst - 0.02
    if size == 1:  # a correlation says it all
        assert abs(nll(flow, held_out) - best) < 0.02


@torch.no_grad()
def test_where_the_context_is_the_base_mean_the_map_leads_to_it():
    c = torch.randn(4000, 5)
    output_linear = torch.linalg.qr(torch.randn(5, 5)).Q
    x = (c + 0.1 * torch.randn(4000, 5)) @ output_linear.mT * 3 + 7
    flow = build_flow("glow", 5, 5, form="reference", hidden=(8,))
    flow.initialise(x, 10 * c + 4)
    distribution = flow(10 * c + 4)
    error = (distribution.transform(x) - distribution.base.mean).std()
    assert error == pytest.approx(0.1, rel=0.2)
    assert distribution.base.stddev[0, 0] == pytest.approx(0.1, rel=0.2)


@pytest.mark.parametrize("name", ["linear-gaussian", "glow"])
@torch.no_grad()
def test_units_of_contexts_do_not_matter(name):
    x, c, _ = linear_data(200, 3, 2)
    one, other = (build_flow(name, 3, 2, blocks=1, hidden=(8,)) for _ in range(2))
    other.load_state_dict(one.state_dict())
    one.initialise(x, c)
    other.initialise(x, c * torch.tensor([1e-3, 1e3]) + 4)
    expected = one(c).log_prob(x)
    found = other(c * torch.tensor([1e-3, 1e3]) + 4).log_prob(x)
    torch.testing.assert_close(found, expected, rtol=1e-3, atol=1e-3)


@every_flow
@both_forms
@pytest.mark.parametrize("constant", [0.0, 0.1, 12345.678])
@torch.no_grad()
def test_constant_columns_of_contexts_are_harmless(name, form, constant):
    x, c, _ = linear_data(500, 2, 2)
    c = torch.cat([c, torch.full((500, 1), constant)], 1)
    flow = started(name, x, c, form=form)
    log_prob = flow(c).log_prob(x)
    assert log_prob.isfinite().all()
    other = c + torch.tensor([0.0, 0.0, 1.0])  # such as a label that the data did not have
    torch.testing.assert_close(flow(other).log_prob(x), log_prob, rtol=0.1, atol=0.1)


@torch.no_grad()
def test_a_column_of_contexts_that_is_rounding_noise_is_ignored():
    x, c, _ = linear_data(500, 2, 2)
    noise = 1e-20 * torch.randn(500, 1)
    flow = started("glow", x, torch.cat([c, noise], 1), form="reference")
    again = flow(torch.cat([c, 1e3 * noise], 1)).log_prob(x)  # as on another machine
    torch.testing.assert_close(again, flow(torch.cat([c, noise], 1)).log_prob(x))


@every_flow
@both_forms
@pytest.mark.parametrize("context", [0, 2, 3])
@torch.no_grad()
def test_degenerate_data_gives_a_finite_density(name, form, context):
    for x in (
        torch.tensor([[1.0, 2.0, 3.0], [3.0, 2.0, 1.0]]),
        torch.tensor([1.0, -1.0, 0.0]).expand(50, 3),
        torch.cat([torch.randn(50, 2), torch.ones(50, 1)], 1),
        torch.randn(50, 1).expand(50, 3),
    ):
        c = torch.randn(len(x), context) if context else None
        flow = build_flow(name, 3, context, form=form, hidden=(8,), blocks=2)
        flow.initialise(x, c)
        transform = flow(c).transform
        assert flow(c).log_prob(x).isfinite().all()
        assert (transform.inv(transform(x)) - x).abs().max() < 1e-3


# ------------------------------------------------------------------------------- Gaussians


@pytest.mark.parametrize("name", ["gaussian", "linear-gaussian"])
@torch.no_grad()
def test_gaussians_are_those_of_torch(name):
    x, c, _ = linear_data(300, 4, 2)
    flow = build_flow(name, 4, 2).double()
    flow.initialise(x, c)
    inverse = torch.linalg.inv(flow.affine.weight)
    standard = (c - flow.context_mean) / flow.context_scale
    mean = flow.affine.shift.expand(300, 4)
    if name == "linear-gaussian":
        assert flow.affine.slope is not None
        mean = mean + standard @ flow.affine.slope.mT
    expected = torch.distributions.MultivariateNormal(mean, inverse @ inverse.mT)
    torch.testing.assert_close(flow(c).log_prob(x), expected.log_prob(x.double()))
    samples = flow(c[:2]).sample((50_000,))
    for i in range(2):
        torch.testing.assert_close(samples[:, i].mean(0), mean[i], rtol=0, atol=0.1)
        torch.testing.assert_close(samples[:, i].T.cov(), inverse @ inverse.mT, rtol=0.05, atol=0.1)


@torch.no_grad()
def test_the_gaussian_has_the_moments_of_the_data():
    x, _, _ = linear_data(20_000, 3, 1)
    flow = build_flow("gaussian", 3)
    flow.initialise(x)
    samples = flow().sample((50_000,))
    torch.testing.assert_close(samples.mean(0), x.mean(0), rtol=0, atol=0.1)
    torch.testing.assert_close(samples.T.cov(), x.T.cov(), rtol=0.05, atol=0.1)


# ------------------------------------------------------------------------------- bad input


@every_flow
@both_forms
def test_contexts_that_do_not_fit_are_refused(name, form):
    flow = build_flow(name, 2, 3, form=form, blocks=1, hidden=(8,))
    with pytest.raises(UserError, match=r"expected a context c of shape \(..., 3\)"):
        flow()
    with pytest.raises(UserError, match=r"of shape \(..., 3\); got \(5, 2\)"):
        flow(torch.zeros(5, 2))
    with pytest.raises(UserError, match="expected a context c"):
        flow.initialise(torch.randn(5, 2))
    flow = build_flow(name, 2, form=form, blocks=1, hidden=(8,))
    with pytest.raises(UserError, match="expected no context"):
        flow(torch.zeros(5, 1))


@every_flow
def test_vectors_of_another_size_are_refused(name):
    distribution = build_flow(name, 3, blocks=1, hidden=(8,))()
    for wrong in (torch.zeros(5, 1), torch.zeros(2), torch.zeros(())):
        for use in (distribution.log_prob, distribution.transform, distribution.transform.inv):
            with pytest.raises(UserError, match=r"vectors of shape \(..., 3\); got"):
                use(wrong)
