"""Clustering of the latent space by label: projections, clusters and nearest neighbours.

Throughout, `z` are latent codes (N, D) and `labels` are N labels, one for each code.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable, Hashable, Mapping, Sequence
from typing import Any, Literal, get_args

import numpy as np
import torch
from numpy.typing import ArrayLike, NDArray
from sklearn.cluster import KMeans
from sklearn.decomposition import PCA
from sklearn.exceptions import ConvergenceWarning
from sklearn.manifold import TSNE
from sklearn.metrics import pairwise_distances, silhouette_samples

from llamavae.errors import UserError, unknown
from llamavae.evaluation.evaluator import Evaluation, EvaluationData, Evaluator, Plot, latent_codes
from llamavae.evaluation.labels import MOST_CLASSES, classes, left_out_table, listed
from llamavae.latent import nearest_neighbours
from llamavae.metrics.control import label_codes
from llamavae.metrics.metric import Metric, Rows

Projection = Literal["pca", "tsne", "umap"]
"""Method of projecting D dimensions onto two."""

Vector = NDArray[np.float64]

_LISTED = 5  # neighbours of an example


# ------------------------------------------------------------------------------- maps


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
            model = PCA(2, random_state=seed)
        case "tsne":
            model = TSNE(perplexity=min(30.0, (len(z) - 1) / 3), random_state=seed)
        case "umap":
            model = _umap()(n_neighbors=min(15, len(z) - 1), random_state=seed, n_jobs=1)
        case _:
            raise unknown("projection", method, get_args(Projection))
    return np.asarray(model.fit_transform(z), dtype=float)


def _umap() -> Any:
    try:
        from umap import UMAP  # pyright: ignore[reportMissingImports]
    except ImportError as error:
        raise UserError("UMAP maps need umap-learn: pip install llamavae[umap]") from error
    return UMAP


# ------------------------------------------------------------------------------- measures


def silhouette(distances: ArrayLike, labels: Sequence[Hashable]) -> Vector:
    """Silhouette of each code with respect to its label, −1 to 1, shape (N,).

    (b − a) / max(a, b), where a is the mean distance to the other codes of the same label, and b
    the smallest mean distance to the codes of another label (Rousseeuw 1987). It is 0 for the only
    code of a label. The silhouette score is the mean.

    Args:
        distances: Pairwise distances (N, N).
        labels: Labels with between 2 and N - 1 distinct values.
    """
    return np.asarray(silhouette_samples(distances, label_codes(labels), metric="precomputed"))


def k_means(z: ArrayLike, n: int, seed: int = 0) -> NDArray[np.intp]:
    """Cluster of each code by k-means, from 0 to n - 1, shape (N,).

    If there are fewer than `n` distinct codes, each is its own cluster.
    """
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


def neighbours(z: ArrayLike, k: int) -> tuple[Vector, NDArray[np.intp]]:
    """The `k` nearest neighbours of each code by cosine.

    Returns:
        Cosines and row indices, each (N, min(k, N − 1)), in descending order of cosine.
    """
    z = torch.as_tensor(np.asarray(z, dtype=float))
    cosine, rows = nearest_neighbours(z, z, k + 1)
    # exclude the code itself, or the last neighbour if equal codes come before it
    itself = rows == torch.arange(len(z))[:, None]
    itself[~itself.any(1), -1] = True
    shape = (len(z), rows.shape[1] - 1)
    return cosine[~itself].reshape(shape).numpy(), rows[~itself].reshape(shape).numpy()


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


# ------------------------------------------------------------------------------- the evaluator

_RANDOM = "The same metric with the labels shuffled."

SILHOUETTE = Metric(
    "silhouette",
    "−1 to 1",
    "higher",
    "Mean silhouette coefficient of the posterior means with respect to the label, with Euclidean "
    "distances (Rousseeuw, 1987). Without a group, it is the mean over label columns.",
    _RANDOM,
)
PURITY = Metric(
    "purity",
    "0 to 1",
    "higher",
    "Proportion of sentences that have the most frequent label of their cluster; k-means with as "
    "many clusters as there are classes (Manning et al., 2008, section 16.3). Without a group, it "
    "is the mean over label columns.",
    _RANDOM,
)
AGREEMENT = Metric(
    "neighbour agreement",
    "0 to 1",
    "higher",
    "Mean over sentences of the proportion of the k nearest neighbours by cosine (k = 10 by "
    "default) that have the label of the sentence. Without a group, it is the mean over label "
    "columns.",
    _RANDOM,
)


class Clusters(Evaluator):
    """Clustering of sentences by label, and two-dimensional projections of the latent space.

    Args:
        projections: Projections to compute: `pca`, `tsne`, `umap` (needs `llamavae[umap]`).
        k: Number of neighbours of each sentence.
        examples: Number of sentences whose neighbours are listed.
        limit: Maximum number of sentences; time and memory grow with its square.
        resamples: Number of bootstrap samples.
    """

    name = "clusters"
    needs = frozenset({"encode", "labels"})
    metrics = (SILHOUETTE, PURITY, AGREEMENT)

    def __init__(
        self,
        projections: Sequence[Projection] = ("pca", "tsne"),
        k: int = 10,
        examples: int = 5,
        limit: int = 1000,
        resamples: int = 1000,
    ) -> None:
        for method in projections:
            if method not in get_args(Projection):
                raise unknown("projection", method, get_args(Projection))
        if k < 1:
            raise UserError(f"k must be at least 1; got {k}")
        self.projections, self.k, self.examples = tuple(projections), k, examples
        self.limit, self.resamples = limit, resamples

    def evaluate(self, system: Any, data: EvaluationData) -> Evaluation:
        """The metrics for each label, projections, neighbours, and the excluded labels.

        Raises:
            UserError: No label has between 2 and 50 classes.
        """
        rng = np.random.default_rng(data.seed)
        chosen = [int(i) for i in rng.permutation(len(data.texts))[: self.limit]]
        texts = [data.texts[i] for i in chosen]
        labels, left_out = classes(
            {name: [values[i] for i in chosen] for name, values in data.labels.items()},
            most=min(MOST_CLASSES, len(texts) - 1),
        )
        if not labels:
            raise UserError(
                f"expected a label with 2 to 50 classes; found none. {listed(left_out)}"
            )
        z = latent_codes(system, texts).double().numpy()
        cosine, nearest = neighbours(z, self.k)
        columns = [
            dict(zip(labels, own, strict=True)) for own in zip(*labels.values(), strict=True)
        ]
        tables = {
            f"map {method}": [
                {"x": x, "y": y, **own, "text": text}
                for (x, y), own, text in zip(
                    project(z, method, data.seed).tolist(), columns, texts, strict=True
                )
            ]
            for method in self.projections
        }
        plots = {name: Plot("map", tuple(labels)) for name in tables}
        tables["neighbours"] = [
            {
                "text": texts[i],
                "rank": rank + 1,
                "neighbour": texts[j],
                "cosine": float(cosine[i, rank]),
            }
            for i in range(min(self.examples, len(texts)))
            for rank, j in enumerate(nearest[i, :_LISTED])
        ]
        return Evaluation(
            self._rows(z, nearest, labels, data.seed),
            tables | left_out_table(left_out),
            plots=plots,
        )

    def _rows(
        self,
        z: Vector,
        nearest: NDArray[np.intp],
        labels: Mapping[str, Sequence[Hashable]],
        seed: int,
    ) -> Rows:
        distances = pairwise_distances(z)
        sizes = {len(set(values)) for values in labels.values()}
        clusters = {n: k_means(z, n, seed) for n in sizes}
        measured: dict[str, Callable[[Sequence[Hashable]], Vector]] = {
            SILHOUETTE.name: lambda values: silhouette(distances, values),
            PURITY.name: lambda values: pure(clusters[len(set(values))], values).astype(float),
            AGREEMENT.name: lambda values: neighbour_agreement(nearest, values),
        }
        order = np.random.default_rng(seed).permutation(len(z))
        rows: Rows = []
        for metric in self.metrics:
            of = measured[metric.name]
            ours = {name: of(values) for name, values in labels.items()}
            random = {name: of([values[i] for i in order]) for name, values in labels.items()}
            for column in (ours, random):
                column[""] = np.mean(list(column.values()), axis=0)
            for group in ("", *labels):
                row = metric.bootstrap(
                    lambda i, values=ours[group]: values[i].mean(),
                    len(z),
                    seed,
                    resamples=self.resamples,
                    control=random[group].mean(),
                    group=group,
                )
                rows.append(row)
        return rows
