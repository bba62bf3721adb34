from __future__ import annotations

import sys
import types

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from sklearn.decomposition import PCA
from sklearn.metrics import pairwise_distances, silhouette_score
from sklearn.metrics.cluster import contingency_matrix

from llamavae.errors import UserError
from llamavae.metrics.clusters import k_means, neighbour_agreement, project, pure, silhouette

RNG = np.random.default_rng(0)

# ------------------------------------------------------------------------------- labels


def test_silhouette_by_hand():
    z = np.array([[0.0], [2.0], [10.0]])
    # of the first: 1 - 2/10; of the second: 1 - 2/8; the third is alone
    found = silhouette(pairwise_distances(z), ["a", "a", "b"])
    assert found == pytest.approx([0.8, 0.75, 0])


def test_silhouette_is_scikit_learns():
    z, labels = RNG.normal(size=(30, 4)), RNG.integers(3, size=30)
    found = silhouette(pairwise_distances(z), labels.tolist())
    assert found.mean() == pytest.approx(silhouette_score(z, labels))


def test_purity_by_hand():
    # the example of Manning et al., figure 16.4: (5 + 4 + 3) / 17
    clusters = [0] * 6 + [1] * 6 + [2] * 5
    labels = "xxxxxo" + "xoooo◇" + "xx◇◇◇"
    assert pure(clusters, labels).mean() == pytest.approx(12 / 17)


@given(st.lists(st.tuples(st.integers(0, 3), st.sampled_from("abc")), min_size=1, max_size=40))
def test_purity_is_that_of_the_contingency_table(pairs):
    clusters, labels = map(list, zip(*pairs, strict=True))
    table = contingency_matrix(labels, clusters)
    assert pure(clusters, labels).sum() == table.max(0).sum()
    assert pure(labels, labels).all()


def test_k_means():
    z = np.repeat(np.eye(3), 4, 0) + 0.01 * RNG.normal(size=(12, 3))
    assert pure(k_means(z, 3), [0] * 4 + [1] * 4 + [2] * 4).all()
    assert len(set(k_means(np.ones((6, 2)), 3).tolist())) == 1


def test_agreement_of_planted_neighbours():
    labels = ["a"] * 6 + ["b"] * 6
    rows = [[(i // 6) * 6 + (i + step) % 6 for step in (1, 2, 3)] for i in range(12)]
    assert neighbour_agreement(rows, labels).tolist() == [1] * 12
    assert neighbour_agreement(rows, ["a", "b"] * 6) == pytest.approx(1 / 3)


# ------------------------------------------------------------------------------- projections


def test_pca_map():
    z = RNG.normal(size=(20, 5))
    assert np.abs(project(z, "pca")) == pytest.approx(np.abs(PCA(2).fit_transform(z)))


@pytest.mark.parametrize("method", ["pca", "tsne"])
@pytest.mark.parametrize("size", [(4, 3), (12, 1), (30, 6)])
def test_maps(method, size):
    z = RNG.normal(size=size)
    found = project(z, method, seed=1)
    assert found.shape == (size[0], 2)
    assert np.isfinite(found).all()
    assert (project(z, method, seed=1) == found).all()


@pytest.mark.parametrize("method", ["pca", "tsne"])
def test_maps_of_points_that_are_all_the_same(method):
    assert np.isfinite(project(np.ones((10, 3)), method)).all()


def test_umap(monkeypatch):
    class UMAP:
        def __init__(self, **options):
            assert options == {"n_neighbors": 9, "random_state": 3, "n_jobs": 1}

        def fit_transform(self, z):
            return z[:, :2].astype(np.float32)

    module = types.ModuleType("umap")
    module.UMAP = UMAP  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "umap", module)
    z = RNG.normal(size=(10, 5))
    assert project(z, "umap", seed=3) == pytest.approx(z[:, :2])


def test_umap_is_missing(monkeypatch):
    monkeypatch.setitem(sys.modules, "umap", None)
    with pytest.raises(UserError, match=r"pip install llamavae\[umap\]"):
        project(RNG.normal(size=(10, 5)), "umap")


def test_bad_maps():
    with pytest.raises(UserError, match="at least 4 latent codes"):
        project(np.ones((3, 2)))
    with pytest.raises(UserError, match=r"unknown projection 'tsnee'\. Did you mean 'tsne'"):
        project(np.eye(5), "tsnee")  # type: ignore[arg-type]
