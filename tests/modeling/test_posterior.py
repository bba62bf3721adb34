from __future__ import annotations

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch.distributions import Distribution, Independent, Normal, kl_divergence

from llamavae.errors import UserError
from llamavae.modeling import DiagonalGaussian, Posterior, kl_term

RULES = ["none", "free_bits", "dimension_mask", "sentence_threshold"]


def gaussian(seed=0, batch=4, dim=3):
    generator = torch.Generator().manual_seed(seed)
    mean, logvar = torch.randn(2, batch, dim, dtype=torch.float64, generator=generator)
    return DiagonalGaussian(mean, logvar)


@given(st.integers(0, 2**31), st.integers(1, 5), st.integers(1, 5))
def test_kl_is_that_of_torch(seed, batch, dim):
    q = gaussian(seed, batch, dim)
    prior = Independent(Normal(torch.zeros_like(q.mean), torch.ones_like(q.mean)), 1)
    torch.testing.assert_close(q.kl().sum(-1), kl_divergence(q, prior))
    assert (q.kl() >= -1e-12).all()


def test_kl_of_the_prior_is_zero():
    q = DiagonalGaussian(torch.zeros(2, 3), torch.zeros(2, 3))
    assert torch.equal(q.kl(), torch.zeros(2, 3))


def test_it_is_a_torch_distribution():
    q = gaussian()
    assert isinstance(q, Distribution)
    assert (q.batch_shape, q.event_shape) == ((4,), (3,))
    torch.testing.assert_close(q.variance, q.logvar.exp())
    assert q.sample().shape == (4, 3)
    assert q.log_prob(q.mean).shape == (4,)
    expected = Normal(q.mean, q.stddev).log_prob(q.mean + 1).sum(-1)
    torch.testing.assert_close(q.log_prob(q.mean + 1), expected)
    draws = q.sample((20_000,))
    torch.testing.assert_close(draws.mean(0), q.mean, rtol=0, atol=0.06)
    torch.testing.assert_close(draws.std(0), q.stddev, rtol=0.05, atol=0)


def test_samples_carry_gradients():
    mean, logvar = torch.zeros(1, 2, requires_grad=True), torch.zeros(1, 2, requires_grad=True)
    DiagonalGaussian(mean, logvar).rsample().sum().backward()
    assert mean.grad is not None
    assert logvar.grad is not None


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float64])
def test_the_head_is_linear_and_at_least_single_precision(dtype):
    head = Posterior(5, 3).to(dtype)
    h = torch.randn(4, 5).to(torch.bfloat16)
    q = head(h)
    both = h.to(dtype) @ head.linear.weight.T + head.linear.bias
    expected = torch.float64 if dtype == torch.float64 else torch.float32
    assert q.mean.dtype == q.logvar.dtype == expected
    tolerance = 0.02 if dtype == torch.bfloat16 else 1e-5
    torch.testing.assert_close(
        torch.cat([q.mean, q.logvar], 1), both.to(expected), rtol=tolerance, atol=tolerance
    )


def test_autocast_does_not_reach_the_posterior():
    head = Posterior(5, 3)
    h = torch.randn(4, 5)
    with torch.autocast("cpu", torch.bfloat16):
        q = head(h)
        assert q.kl().dtype == torch.float32
    assert torch.equal(q.mean, head(h).mean)


# KL of two sentences in two dimensions; each expected value is worked out by hand
KL = [[0.1, 2.0], [0.3, 4.0]]


@pytest.mark.parametrize(
    ("rule", "threshold", "value", "gradient"),
    [
        ("none", 0.0, 3.2, [[0.5, 0.5], [0.5, 0.5]]),  # (2.1 + 4.3) / 2
        ("free_bits", 0.5, 3.5, [[0.0, 0.5], [0.0, 0.5]]),  # max(.5, .2) + max(.5, 3)
        ("free_bits", 0.1, 3.2, [[0.5, 0.5], [0.5, 0.5]]),
        ("dimension_mask", 0.2, 3.15, [[0.0, 0.5], [0.5, 0.5]]),  # (2 + .3 + 4) / 2
        ("dimension_mask", 3.0, 2.0, [[0.0, 0.0], [0.0, 0.5]]),
        ("sentence_threshold", 3.0, 2.15, [[0.0, 0.0], [0.5, 0.5]]),  # 4.3 / 2
        ("sentence_threshold", 9.0, 0.0, [[0.0, 0.0], [0.0, 0.0]]),
    ],
)
def test_rules_by_hand(rule, threshold, value, gradient):
    kl = torch.tensor(KL, requires_grad=True)
    term = kl_term(kl, rule, threshold)
    assert term.item() == pytest.approx(value)
    term.backward()
    assert kl.grad is not None
    torch.testing.assert_close(kl.grad, torch.tensor(gradient))


@given(st.integers(0, 2**31), st.sampled_from(RULES))
def test_a_threshold_of_zero_is_the_raw_kl(seed, rule):
    kl = gaussian(seed).kl().clamp(min=1e-9)
    torch.testing.assert_close(kl_term(kl, rule, 0.0), kl.sum(-1).mean())


@given(st.integers(0, 2**31), st.floats(0, 5))
def test_free_bits_hold_up_and_masks_hold_down(seed, threshold):
    kl = gaussian(seed).kl()
    raw = kl_term(kl)
    assert kl_term(kl, "free_bits", threshold) >= torch.maximum(raw, raw * 0 + 3 * threshold) - 1e-9
    assert kl_term(kl, "dimension_mask", threshold) <= raw + 1e-9
    assert kl_term(kl, "sentence_threshold", threshold) <= raw + 1e-9


@given(st.integers(0, 2**31), st.sampled_from(RULES), st.floats(0, 3))
def test_the_order_of_sentences_does_not_matter(seed, rule, threshold):
    kl = gaussian(seed).kl()
    torch.testing.assert_close(kl_term(kl.flip(0), rule, threshold), kl_term(kl, rule, threshold))


def test_free_bits_count_the_batch_of_all_processes(monkeypatch):
    kl = torch.tensor([[0.4, 3.0]], requires_grad=True)  # the other process has [[0.8, 1.0]]

    def all_reduce(x):
        x += torch.tensor([0.8, 1.0])

    monkeypatch.setattr(torch.distributed, "is_initialized", lambda: True)
    monkeypatch.setattr(torch.distributed, "get_world_size", lambda: 2)
    monkeypatch.setattr(torch.distributed, "all_reduce", all_reduce)
    term = kl_term(kl, "free_bits", 0.5)  # means are 0.6 and 2.0: both above the threshold
    term.backward()
    assert term.item() == pytest.approx(3.4)  # this process's own share
    assert kl.grad is not None
    assert kl.grad.tolist() == [[1.0, 1.0]]


@pytest.mark.parametrize(
    ("rule", "threshold", "message"),
    [("free_bit", 1.0, "Did you mean 'free_bits'"), ("free_bits", -1.0, "at least 0 nats")],
)
def test_bad_rules_are_refused(rule, threshold, message):
    with pytest.raises(UserError, match=message):
        kl_term(torch.ones(1, 1), rule, threshold)


# ------------------------------------------------------------------------------- how it starts


def test_it_starts_as_narrow_as_it_is_told():
    h = 5 * torch.randn(20, 6)
    q = Posterior(6, 3, initial_std=0.05)(h)
    torch.testing.assert_close(q.stddev, torch.full((20, 3), 0.05))
    assert q.mean.std() > 0.1
    assert Posterior(6, 3)(h).stddev.std() > 0


def test_standardised_features_have_mean_0_and_standard_deviation_1():
    h = torch.tensor([3.0, -2.0, 7.0]) + torch.tensor([0.01, 5.0, 0.0]) * torch.randn(500, 3)
    posterior = Posterior(3, 2, standardise=True)
    posterior.fit_statistics(h)
    with torch.no_grad():
        posterior.linear.weight[:2] = torch.eye(3)[:2]
        posterior.linear.bias.zero_()
    mean = posterior(h).mean
    torch.testing.assert_close(mean.mean(0), torch.zeros(2), atol=2e-3, rtol=0)
    torch.testing.assert_close(mean.std(0, correction=0), torch.ones(2), atol=2e-3, rtol=0)
    assert posterior.features_std[2] == 1  # a constant feature keeps its scale


def test_statistics_do_not_depend_on_the_scale_of_the_encoder():
    torch.manual_seed(0)
    h = torch.randn(50, 4)
    found = []
    for factor in (1.0, 1000.0):
        torch.manual_seed(1)
        posterior = Posterior(4, 2, standardise=True)
        posterior.fit_statistics(factor * h)
        found.append(posterior(factor * h).mean)
    torch.testing.assert_close(*found, rtol=1e-4, atol=1e-4)


def test_statistics_need_two_vectors():
    with pytest.raises(UserError, match="at least 2 sentence vectors; got 1"):
        Posterior(4, 2, standardise=True).fit_statistics(torch.randn(1, 4))
