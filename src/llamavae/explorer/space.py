"""Sentences in the latent space of a model, and their places on a map of it."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Hashable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from functools import partial
from importlib.metadata import PackageNotFoundError, version
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from numpy.typing import ArrayLike, NDArray
from torch import Tensor

from llamavae.errors import UserError
from llamavae.latent.paths import nearest_neighbours
from llamavae.metrics.control import label_codes
from llamavae.metrics.latent import ACTIVE_THRESHOLD

if TYPE_CHECKING:
    from llamavae.metrics.clusters import Projection
    from llamavae.modeling import LlaMaVAE

Points = NDArray[np.float64]

_MIN_CODES = 4  # for a projection
_NEAREST = 5  # points whose codes, or places, are averaged


class Layout:
    """A map of N latent codes: two coordinates for each code, and a way back.

    PCA is linear, so every place of its map has an exact code in the plane of the map, and every
    code has a place. Other projections have no inverse. There, the code of a place is the mean of
    the codes of the nearest points, weighted by the inverse of their distance, and the place of a
    code is the weighted mean of the places of the nearest codes.

    Args:
        codes: Latent codes (N, D), at least 4.
        method: `pca`, `tsne` or `umap`.
        seed: Seed of t-SNE and UMAP.
        cached: Keep the result of t-SNE and UMAP, which take long, in the cache on disk.

    Attributes:
        points: Places of the codes (N, 2).
        exact: Whether places and codes correspond exactly in the plane of the map.
        explained: For PCA, the proportions of the variance along both axes.

    Raises:
        UserError: Unknown method, too few codes, or umap-learn is missing.
    """

    def __init__(
        self, codes: Points, method: Projection = "pca", seed: int = 0, cached: bool = False
    ) -> None:
        self.exact = method == "pca"
        self.explained: list[float] | None = None
        self._codes = codes
        if not self.exact:
            from llamavae.metrics.clusters import project  # slow import

            compute = partial(project, codes, method, seed)
            self.points = _cached(codes, method, seed, compute) if cached else compute()
            return
        if len(codes) < _MIN_CODES or codes.shape[1] < 2:
            raise UserError(
                f"a map needs at least {_MIN_CODES} latent codes of at least 2 dimensions; got "
                f"shape {codes.shape}"
            )
        self._centre = codes.mean(0)
        variances, vectors = np.linalg.eigh(np.cov(codes.T))  # in ascending order
        axes: Points = vectors.T[:-3:-1]
        largest = np.abs(axes).argmax(1)
        self._axes = axes * np.sign(axes[[0, 1], largest])[:, None]  # no arbitrary signs
        self.points = (codes - self._centre) @ self._axes.T
        self.explained = (variances[:-3:-1] / (variances.sum() or 1)).tolist()

    def code(self, place: ArrayLike) -> Points:
        """The code (D,) of a place (2,)."""
        place = np.asarray(place, dtype=float)
        if self.exact:
            return self._centre + place @ self._axes
        return _weighted(self._codes, np.linalg.norm(self.points - place, axis=1))

    def places(self, codes: ArrayLike) -> Points:
        """The places (B, 2) of codes (B, D)."""
        codes = np.asarray(codes, dtype=float)
        if self.exact:
            return (codes - self._centre) @ self._axes.T
        distances = (np.linalg.norm(self._codes - code, axis=1) for code in codes)
        return np.stack([_weighted(self.points, each) for each in distances])


def _cached(codes: Points, method: str, seed: int, compute: Callable[[], Points]) -> Points:
    """The map of codes from the cache on disk."""
    from llamavae.data.sentences import cached_array

    package = {"tsne": "scikit-learn", "umap": "umap-learn"}.get(method, "llamavae")
    key = hashlib.blake2b(np.ascontiguousarray(codes).tobytes(), digest_size=12)
    with suppress(PackageNotFoundError):  # `compute` names a missing package
        key.update(f"{codes.shape} {seed} {version(package)}".encode())
    return cached_array(f"map-{method}-{key.hexdigest()}", compute)


def _weighted(rows: Points, distances: Points) -> Points:
    """Mean (K,) of the rows (N, K) with the smallest distances, weighted by their inverse."""
    nearest = np.argsort(distances)[:_NEAREST]
    weights = 1 / (distances[nearest] + 1e-9)
    return weights @ rows[nearest] / weights.sum()


@dataclass(eq=False)
class Space:
    """Sentences with their posteriors, labels and maps.

    Args:
        texts: N sentences.
        mean: Posterior means (N, D).
        logvar: Logarithms of the posterior variances (N, D).
        labels: Columns of N labels.
        projections: Methods of projection, the first one shown first.
        seed: Seed of the projections.
        cached: Keep maps that take long in the cache on disk.

    Attributes:
        layouts: The map of each method of projection.

    Raises:
        UserError: There are too few sentences for a map, or umap-learn is missing.
    """

    texts: Sequence[str]
    mean: Tensor
    logvar: Tensor
    labels: Mapping[str, Sequence[Hashable]] = field(default_factory=dict)
    projections: Sequence[Projection] = ("pca",)
    seed: int = 0
    cached: bool = False

    def __post_init__(self) -> None:
        codes = self.mean.double().numpy()
        if len(codes) < _MIN_CODES:
            raise UserError(f"a map needs at least {_MIN_CODES} sentences; got {len(codes)}")
        self.layouts = {
            method: Layout(codes, method, self.seed, self.cached)
            for method in dict.fromkeys(self.projections)
        }

    def __getstate__(self) -> dict[str, Any]:
        """Arrays instead of tensors, which torch would pass to another process by shared memory."""
        return self.__dict__ | {"mean": self.mean.numpy(), "logvar": self.logvar.numpy()}

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__dict__ |= state
        self.mean, self.logvar = torch.from_numpy(self.mean), torch.from_numpy(self.logvar)

    @classmethod
    def of_model(
        cls,
        model: LlaMaVAE,
        texts: Sequence[str],
        labels: Mapping[str, Sequence[Hashable]] | None = None,
        projections: Sequence[Projection] = ("pca",),
        seed: int = 0,
        progress: bool = False,
        say: Callable[[str], None] = lambda _: None,
    ) -> Space:
        """Encode sentences; their sentence vectors and maps are cached on disk.

        Args:
            model: A model with a sentence encoder.
            texts: N sentences.
            labels: Columns of N labels.
            projections: Methods of projection.
            seed: Seed of the projections.
            progress: Show a progress bar on stderr.
            say: Called with what is being done, in words.
        """
        from llamavae.data.sentences import sentence_vectors  # slow import

        if model.encoder is None:
            raise UserError("expected a model with a sentence encoder; this model has none")

        def report(done: int, total: int) -> None:
            say(f"encoding the sentences, {done:,} of {total:,}")

        vectors = sentence_vectors(texts, model.encoder, progress, report)
        h = torch.from_numpy(np.array(vectors))
        with torch.inference_mode():
            posterior = model.encode(h)
        mean, logvar = posterior.mean.float().cpu(), posterior.logvar.float().cpu()
        say("computing the map")
        return cls(
            texts, mean.clone(), logvar.clone(), labels or {}, projections, seed, cached=True
        )

    def __len__(self) -> int:
        return len(self.texts)

    def usage(self) -> dict[str, list[float] | list[bool] | float]:
        """KL divergence (nats), standard deviation of the means, and activity per dimension.

        A dimension is active if the variance of its posterior mean over the sentences is above
        `threshold` (Burda et al., arXiv 1509.00519).
        """
        mean, logvar = self.mean.double(), self.logvar.double()
        variance = mean.var(0, correction=0)
        kl = 0.5 * (mean.square() + logvar.exp() - 1 - logvar).mean(0)
        return {
            "kl": kl.tolist(),
            "deviation": variance.sqrt().tolist(),
            "active": (variance > ACTIVE_THRESHOLD).tolist(),
            "threshold": ACTIVE_THRESHOLD,
        }

    def neighbours(self, z: Tensor, k: int = 10) -> list[tuple[int, float]]:
        """Indices of the sentences nearest to a code (D,), with the cosines of their codes."""
        cosines, rows = nearest_neighbours(z[None].float(), self.mean, k)
        return list(zip(rows[0].tolist(), cosines[0].tolist(), strict=True))

    def places(self, z: Tensor) -> list[dict[str, list[float]]]:
        """Place on each map of codes (B, D)."""
        codes = z.double().numpy()
        found = {method: layout.places(codes) for method, layout in self.layouts.items()}
        return [{m: places[i].tolist() for m, places in found.items()} for i in range(len(z))]

    def clearest(self) -> str | None:
        """The column of labels that explains most of the variance of the places on the first map.

        The variance within the labels counts with its degrees of freedom (adjusted R squared), so
        that columns with many values have no advantage. None if there are no labels.
        """
        points = next(iter(self.layouts.values())).points
        points = points - points.mean(0)

        def explained(values: Sequence[Hashable]) -> float:
            codes = label_codes(values)
            counts = np.bincount(codes)
            if 2 * len(counts) > len(points):  # names rather than labels
                return -np.inf
            sums = np.stack([np.bincount(codes, axis) for axis in points.T], 1)
            within = np.square(points).sum() - (np.square(sums).sum(1) / counts).sum()
            return -within / (len(points) - len(counts))

        return max(self.labels, key=lambda name: explained(self.labels[name]), default=None)
