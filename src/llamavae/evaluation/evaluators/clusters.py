"""Clustering of the latent space by label: projections, clusters and nearest neighbours."""

from __future__ import annotations

from collections.abc import Callable, Hashable, Mapping, Sequence
from typing import Any, get_args

import numpy as np
import torch
from numpy.typing import ArrayLike, NDArray
from sklearn.metrics import pairwise_distances

from llamavae.errors import UserError, unknown
from llamavae.evaluation.evaluator import Evaluation, EvaluationData, Evaluator, Plot, latent_codes
from llamavae.evaluation.labels import MAX_CLASSES, classes, left_out_table, listed
from llamavae.latent import nearest_neighbours
from llamavae.metrics.clusters import (
    Projection,
    Vector,
    k_means,
    neighbour_agreement,
    project,
    pure,
    silhouette,
)
from llamavae.metrics.metric import Metric, Rows

_LISTED = 5  # neighbours of an example


def neighbours(z: ArrayLike, k: int) -> tuple[Vector, NDArray[np.intp]]:
    """The `k` nearest neighbours of each code by cosine.

    Args:
        z: Latent codes (N, D).
        k: Number of neighbours.

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


# ------------------------------------------------------------------------------- the evaluator

_RANDOM = "The same metric with the labels shuffled."

SILHOUETTE = Metric(
    "silhouette",
    "−1 to 1",
    "higher",
    "Mean silhouette coefficient of the posterior means with respect to the label, with Euclidean "
    "distances (Rousseeuw, 1987). Without a group, it is the mean over label columns.",
    _RANDOM,
    library="scikit-learn",
)
PURITY = Metric(
    "purity",
    "0 to 1",
    "higher",
    "Proportion of sentences that have the most frequent label of their cluster; k-means with as "
    "many clusters as there are classes (Manning et al., 2008, section 16.3). Without a group, it "
    "is the mean over label columns.",
    _RANDOM,
    library="scikit-learn",
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
        limit: Maximum number of sentences, chosen at random; time and memory grow with its square.
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
        data = data.sample(self.limit)
        texts = list(data.texts)
        labels, left_out = classes(data.labels, maximum=min(MAX_CLASSES, len(texts) - 1))
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
                row = metric.mean(
                    ours[group],
                    seed,
                    resamples=self.resamples,
                    control=random[group],
                    group=group,
                )
                rows.append(row)
        return rows
