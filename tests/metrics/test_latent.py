from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from sklearn.decomposition import PCA
from sklearn.metrics.pairwise import cosine_similarity

from llamavae.errors import UserError
from llamavae.metrics.latent import iso_score, mean_cosine


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
