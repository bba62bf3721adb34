"""Do sentences of one label lie together? Maps of the space, clusters and neighbours.

Throughout, points are (N, D) and labels are N, one for each point.
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
from llamavae.evaluation.evaluator import Evaluation, EvaluationData, Evaluator, latent_codes
from llamavae.evaluation.evaluators.probes import (
    MOST_CLASSES,
    classes,
    label_codes,
    left_out_table,
    listed,
)
from llamavae.latent import nearest_neighbours
from llamavae.metrics.bootstrap import bootstrap_interval
from llamavae.metrics.metric import Metric, Rows

Projection = Literal["pca", "tsne", "umap"]
"""A way from D dimensions to a map."""

Vector = NDArray[np.float64]

_LISTED = 5  # neighbours of an example


# ------------------------------------------------------------------------------- maps


def project(z: ArrayLike, method: Projection = "pca", seed: int = 0) -> Vector:
    """Points on a map, shape (N, 2).

    Args:
        z: Points (N, D), at least 4.
        method: `pca` (linear, keeps large distances), `tsne` (van der Maaten and Hinton 2008) or
            `umap` (1802.03426); the latter two keep neighbours, and their distances and sizes of
            clusters mean nothing.
        seed: Seed of t-SNE and UMAP.

    Raises:
        UserError: Unknown method, too few points, or umap-learn is missing.
    """
    z = np.asarray(z, dtype=float)
    if z.ndim != 2 or len(z) < 4:
        raise UserError(f"a map needs at least 4 points (N, D); got shape {z.shape}")
    if not np.ptp(z, axis=0).any():  # a collapsed space has no directions
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
    """Silhouette of each point with respect to its label, −1 to 1, shape (N,).

    (b − a) / max(a, b), where a is the mean distance to the other points of the same label, and b
    the least mean distance to those of another label (Rousseeuw 1987); 0 for a point whose label
    is its alone. The silhouette of the labels is the mean.

    Args:
        distances: Distance of each two points (N, N).
        labels: Between 2 and N - 1 different ones.
    """
    return np.asarray(silhouette_samples(distances, label_codes(labels), metric="precomputed"))


def k_means(z: ArrayLike, n: int, seed: int = 0) -> NDArray[np.intp]:
    """A cluster for each point by k-means, from 0 to n - 1, shape (N,).

    Of less than `n` different points, each is a cluster.
    """
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ConvergenceWarning)
        return KMeans(n, random_state=seed).fit_predict(z)


def pure(clusters: ArrayLike, labels: Sequence[Hashable]) -> NDArray[np.bool_]:
    """Whether each point has the most frequent label of its cluster, shape (N,).

    Their share is the purity of the clusters (Manning et al. 2008, section 16.3).

    Example:
        >>> pure([0, 0, 0, 1], ["a", "a", "b", "b"]).tolist()
        [True, True, False, True]
    """
    codes, clusters = label_codes(labels), np.asarray(clusters)
    main = {c: np.bincount(codes[clusters == c]).argmax() for c in np.unique(clusters).tolist()}
    return codes == np.array([main[c] for c in clusters.tolist()])


def neighbours(z: ArrayLike, k: int) -> tuple[Vector, NDArray[np.intp]]:
    """The `k` other points with the highest cosine to each point.

    Returns:
        Cosines and row numbers, each (N, min(k, N − 1)), best first.
    """
    z = torch.as_tensor(np.asarray(z, dtype=float))
    cosine, rows = nearest_neighbours(z, z, k + 1)
    # leave out the point itself, or the last one where others that equal it stand before it
    itself = rows == torch.arange(len(z))[:, None]
    itself[~itself.any(1), -1] = True
    shape = (len(z), rows.shape[1] - 1)
    return cosine[~itself].reshape(shape).numpy(), rows[~itself].reshape(shape).numpy()


def neighbour_agreement(nearest: ArrayLike, labels: Sequence[Hashable]) -> Vector:
    """Share of the neighbours of each point that have its label, shape (N,).

    Args:
        nearest: Row numbers of the k neighbours of each point (N, k).
        labels: One for each point.

    Example:
        >>> neighbour_agreement([[1, 2], [0, 2], [0, 1]], ["a", "a", "b"]).tolist()
        [0.5, 0.5, 0.0]
    """
    codes = label_codes(labels)
    return (codes[np.asarray(nearest)] == codes[:, None]).mean(1)


# ------------------------------------------------------------------------------- the evaluator

_RANDOM = "the same with the labels shuffled"

SILHOUETTE = Metric(
    "silhouette",
    "−1 to 1",
    "higher",
    "how much nearer posterior means lie to others of their label than to those of the nearest "
    "other label, Euclidean, mean over sentences (Rousseeuw 1987); without a group the mean over "
    "labels",
    _RANDOM,
)
PURITY = Metric(
    "purity",
    "0 to 1",
    "higher",
    "share of sentences with the most frequent label of their cluster; as many clusters by "
    "k-means as there are labels; without a group the mean over labels",
    _RANDOM,
)
AGREEMENT = Metric(
    "neighbour agreement",
    "0 to 1",
    "higher",
    "share of the nearest neighbours by cosine (10 by default) that have the label of the "
    "sentence, mean over sentences; without a group the mean over labels",
    _RANDOM,
)


class Clusters(Evaluator):
    """Whether sentences of one label lie together, and maps to look at.

    Args:
        projections: Maps that are drawn: `pca`, `tsne`, `umap` (needs `llamavae[umap]`).
        k: Neighbours of each sentence that are looked at.
        examples: Sentences whose neighbours are listed.
        limit: Most sentences; time and memory grow with its square.
        resamples: Bootstrap samples of an interval.
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
        """The measures for each label, maps, neighbours, and the labels that were left out.

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
            raise UserError(f"no label sorts the sentences into classes: {listed(left_out)}")
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
            self._rows(z, nearest, labels, data.seed), tables | left_out_table(left_out)
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
                values = ours[group]
                interval = bootstrap_interval(
                    lambda i, values=values: values[i].mean(),
                    len(values),
                    resamples=self.resamples,
                    seed=seed,
                )
                rows.append(
                    metric.row(
                        values.mean(),
                        len(values),
                        control=random[group].mean(),
                        interval=interval,
                        group=group,
                    )
                )
        return rows
