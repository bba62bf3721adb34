from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.decomposition import PCA
from sklearn.metrics.pairwise import cosine_similarity
from tests.metrics.gaussians import draws, posterior
from torch.distributions import MultivariateNormal, kl_divergence

from llamavae.errors import UserError
from llamavae.metrics import latent
from llamavae.metrics.latent import (
    active_units,
    gaussian_kl,
    importance_weighted_bound,
    iso_score,
    mean_cosine,
    mutual_information,
    posterior_variance,
)


def cloud(seed=0, n=30, dims=5):
    rng = np.random.default_rng(seed)
    return rng.normal(size=(n, dims)) * rng.uniform(0.1, 3, dims) + rng.normal(size=dims)


@given(st.integers(0, 1000))
def test_mean_cosine_is_that_of_all_pairs(seed):
    points = cloud(seed)
    pairs = cosine_similarity(points)[np.triu_indices(30, 1)]
    assert mean_cosine(points) == pytest.approx(pairs.mean())


def test_mean_cosine_of_a_sample_has_no_pair_of_a_point_with_itself():
    points, items = cloud(), np.array([3, 3, 5, 7, 7, 7])
    matrix = cosine_similarity(points)
    pairs = [matrix[i, j] for i in items for j in items if i != j]
    assert mean_cosine(points, items) == pytest.approx(np.mean(pairs))
    assert mean_cosine(points, np.array([2, 2, 2])) == 0


def test_mean_cosine_by_hand():
    assert mean_cosine(np.array([[1.0, 0], [-2, 0], [0, 0]])) == pytest.approx(-1 / 3)
    assert mean_cosine(np.ones((4, 3))) == pytest.approx(1)


@given(st.integers(0, 1000))
def test_iso_score_is_that_of_its_algorithm(seed):
    points = cloud(seed)
    size = points.shape[1]
    variance = np.var(PCA().fit_transform(points), axis=0, ddof=1)
    normed = variance * np.sqrt(size) / np.linalg.norm(variance)
    defect = np.linalg.norm(normed - 1) / np.sqrt(2 * (size - np.sqrt(size)))
    used = (size - defect**2 * (size - np.sqrt(size))) ** 2 / size**2
    assert iso_score(points) == pytest.approx((size * used - 1) / (size - 1))


def test_iso_score_ends():
    even = np.vstack([np.eye(4), -np.eye(4)])
    assert iso_score(even) == pytest.approx(1)
    line = np.linspace(0, 1, 20)[:, None] * [1.0, 2.0, 3.0]
    assert iso_score(line) == pytest.approx(0, abs=1e-9)
    assert iso_score(np.ones((5, 3))) == 0
    # two of four dimensions in use: (2 - 1) / (4 - 1)
    assert iso_score(even * [1, 1, 0, 0]) == pytest.approx(1 / 3)


@given(st.floats(0.01, 100), st.floats(-10, 10), st.integers(0, 100))
def test_iso_score_does_not_see_scale_place_and_rotation(scale, shift, seed):
    points = cloud()
    turn = np.linalg.qr(np.random.default_rng(seed).normal(size=(5, 5)))[0]
    assert iso_score(scale * points @ turn + shift) == pytest.approx(iso_score(points))


def test_too_little():
    with pytest.raises(UserError, match=r"at least 2 vectors \(N, D\); got shape \(1, 3\)"):
        mean_cosine(np.ones((1, 3)))
    with pytest.raises(UserError, match="at least 2 dimensions; got 1"):
        iso_score(np.ones((4, 1)))
    with pytest.raises(UserError, match="more than 3 latent codes"):
        gaussian_kl(draws(3, 3))


# ------------------------------------------------------------------------------- use of z


def test_active_units_counts_dimensions_that_vary():
    mean, _, _ = posterior(2000, [1.0, 0.0, 0.3, 0.05], [1.0] * 4)
    assert active_units(mean) == 2
    assert active_units(mean, threshold=0.001) == 3
    assert active_units(mean + 100) == 2
    assert active_units(mean[:1]) == 0


@pytest.mark.parametrize("gains", [[0.0], [0.5], [2.0], [1.0, 0.5, 0.0]])
def test_information_of_a_linear_gaussian_channel(gains):
    mean, logvar, z = posterior(3000, gains, [0.5] * len(gains))
    exact = sum(0.5 * math.log(1 + gain**2 / 0.5) for gain in gains)
    assert mutual_information(mean, logvar, z) == pytest.approx(exact, abs=0.06)


def test_information_of_separate_points_is_log_n():
    mean, logvar, z = posterior(50, [1.0] * 16, [1e-10] * 16)
    assert mutual_information(mean, logvar, z) == pytest.approx(math.log(50), abs=1e-6)


@given(st.integers(1, 40), st.integers(1, 5), st.floats(0, 30), st.floats(1e-6, 100))
def test_information_never_exceeds_log_n(n, dim, gain, variance):
    mean, logvar, z = posterior(n, [gain] * dim, [variance] * dim)
    assert mutual_information(mean, logvar, z) <= math.log(n) + 1e-9


def test_information_does_not_depend_on_blocks(monkeypatch):
    values = posterior(37, [1.0, 0.5], [0.3, 2.0])
    whole = mutual_information(*values)
    monkeypatch.setattr(latent, "_CHUNK", 100)
    assert mutual_information(*values) == pytest.approx(whole, abs=1e-12)
    assert mutual_information(*(x.float() for x in values)) == pytest.approx(whole, abs=1e-4)


def test_information_needs_matching_shapes():
    with pytest.raises(ValueError, match="one shape"):
        mutual_information(torch.zeros(3, 2), torch.zeros(3, 2), torch.zeros(4, 2))


def test_posterior_variance():
    assert posterior_variance(torch.zeros(4, 3)) == 1
    assert posterior_variance(torch.tensor([[0.5, 1.5]]).log()) == pytest.approx(1)


# ------------------------------------------------------------------------------- the prior


@settings(max_examples=20)
@given(seed=st.integers(0, 99), d=st.integers(1, 4))
def test_gaussian_kl_is_torchs(seed, d):
    z = (draws(9, d, seed) @ draws(d, d, seed + 1) + seed / 50).double()
    covariance = torch.from_numpy(np.cov(z.numpy().T, ddof=0).reshape(d, d))
    ours = MultivariateNormal(z.mean(0), covariance)
    prior = MultivariateNormal(torch.zeros(d).double(), torch.eye(d).double())
    assert gaussian_kl(z) == pytest.approx(kl_divergence(ours, prior).item(), rel=1e-6, abs=1e-8)


def test_what_a_perfect_match_shows():
    expected = np.mean([gaussian_kl(draws(500, 8, seed)) for seed in range(20)])
    assert expected == pytest.approx(8 * 11 / (4 * 500), rel=0.15)


# ------------------------------------------------------------------------------- likelihood


@given(st.lists(st.floats(-2000, 2000), min_size=1, max_size=8))
def test_mean_of_weights_in_the_log(weights):
    log_weights = torch.tensor(weights)
    zero = torch.zeros(len(weights))
    bound = importance_weighted_bound(log_weights, zero, zero).item()
    assert bound <= max(weights) + 1e-3
    assert bound >= max(weights) - math.log(len(weights)) - 1e-3
    moved = importance_weighted_bound(log_weights, zero + 3, zero - 2).item()
    assert moved == pytest.approx(bound + 5, abs=1e-3)
