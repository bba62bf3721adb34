"""Clusters of latent codes by label: projections, silhouette, purity and neighbours.

Throughout, `z` are latent codes (N, D) and `labels` are N labels, one for each code.
"""

from __future__ import annotations

import warnings
from collections.abc import Hashable, Sequence
from typing import Any, Literal, get_args

import numpy as np
from numpy.typing import ArrayLike, NDArray

from llamavae.errors import UserError, unknown
from llamavae.metrics.control import label_codes

Projection = Literal["pca", "tsne", "umap"]
"""Method of projecting D dimensions onto two."""

Vector = NDArray[np.float64]

# ------------------------------------------------------------------------------- projections


def project(z: ArrayLike, method: Projection = "pca", seed: int = 0) -> Vector:
    """Project latent codes to two dimensions, shape (N, 2).

    Args:
        z: Latent codes (N, D), at least 4.
        method: `pca` (linear, preserves large distances), `tsne` (van der Maaten and Hinton 2008)
            or `umap` (1802.03426). The latter two preserve neighbourhoods; distances between
            clusters and cluster sizes are not meaningful.
        seed: Seed of t-SNE and UMAP.

    Raises:
        UserError: Unknown method, too few codes, or umap-learn is missing.
    """
    z = np.asarray(z, dtype=float)
    if z.ndim != 2 or len(z) < 4:
        raise UserError(f"a projection needs at least 4 latent codes (N, D); got shape {z.shape}")
    if not np.ptp(z, axis=0).any():  # all codes are equal
        return np.zeros((len(z), 2))
    if z.shape[1] == 1:
        z = np.hstack([z, np.zeros_like(z)])
    match method:
        case "pca":
            from sklearn.decomposition import PCA  # slow import

            model = PCA(2, random_state=seed)
        case "tsne":
            from sklearn.manifold import TSNE  # slow import

            model = TSNE(perplexity=min(30.0, (len(z) - 1) / 3), random_state=seed)
        case "umap":
            model = _umap()(n_neighbors=min(15, len(z) - 1), random_state=seed, n_jobs=1)
        case _:
            raise unknown("projection", method, get_args(Projection))
    return np.asarray(model.fit_transform(z), dtype=float)


def as_projection(name: str) -> Projection:
    """A method of projection by name.

    Raises:
        UserError: Unknown method.
    """
    for method in get_args(Projection):
        if name == method:
            return method
    raise unknown("projection", name, get_args(Projection))


def _umap() -> Any:
    try:
        from umap import UMAP  # pyright: ignore[reportMissingImports]
    except ImportError as error:
        raise UserError("UMAP projections need umap-learn: pip install llamavae[umap]") from error
    return UMAP


# ------------------------------------------------------------------------------- labels


def silhouette(distances: ArrayLike, labels: Sequence[Hashable]) -> Vector:
    """Silhouette of each code with respect to its label, −1 to 1, shape (N,).

    (b − a) / max(a, b), where a is the mean distance to the other codes of the same label, and b
    the smallest mean distance to the codes of another label (Rousseeuw 1987). It is 0 for the only
    code of a label. The silhouette score is the mean.

    Args:
        distances: Pairwise distances (N, N).
        labels: Labels with between 2 and N - 1 distinct values.
    """
    from sklearn.metrics import silhouette_samples  # slow import

    return np.asarray(silhouette_samples(distances, label_codes(labels), metric="precomputed"))


def k_means(z: ArrayLike, n: int, seed: int = 0) -> NDArray[np.intp]:
    """Cluster of each code by k-means, from 0 to n - 1, shape (N,).

    If there are fewer than `n` distinct codes, each is its own cluster.
    """
    from sklearn.cluster import KMeans
    from sklearn.exceptions import ConvergenceWarning  # slow import

    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ConvergenceWarning)
        return KMeans(n, random_state=seed).fit_predict(z)


def pure(clusters: ArrayLike, labels: Sequence[Hashable]) -> NDArray[np.bool_]:
    """Whether each code has the most frequent label of its cluster, shape (N,).

    The mean is the purity of the clusters (Manning et al. 2008, section 16.3).

    Example:
        >>> pure([0, 0, 0, 1], ["a", "a", "b", "b"]).tolist()
        [True, True, False, True]
    """
    codes, clusters = label_codes(labels), np.asarray(clusters)
    main = {c: np.bincount(codes[clusters == c]).argmax() for c in np.unique(clusters).tolist()}
    return codes == np.array([main[c] for c in clusters.tolist()])


def neighbour_agreement(nearest: ArrayLike, labels: Sequence[Hashable]) -> Vector:
    """Proportion of the neighbours of each code that have its label, shape (N,).

    Args:
        nearest: Row indices of the k neighbours of each code (N, k).
        labels: Label of each code.

    Example:
        >>> neighbour_agreement([[1, 2], [0, 2], [0, 1]], ["a", "a", "b"]).tolist()
        [0.5, 0.5, 0.0]
    """
    codes = label_codes(labels)
    return (codes[np.asarray(nearest)] == codes[:, None]).mean(1)
