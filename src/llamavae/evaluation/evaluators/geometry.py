"""Geometry of the latent space: consistency of directions, analogies and isotropy."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, ClassVar

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from llamavae.errors import UserError
from llamavae.evaluation.analogies import analogy_rows, draw_analogies, has_factors, score_analogies
from llamavae.evaluation.encoders import EncoderSource
from llamavae.evaluation.evaluator import Evaluation, EvaluationData, Evaluator, Need, latent_codes
from llamavae.evaluation.paths import sentence_vectors
from llamavae.latent import arithmetic
from llamavae.metrics.latent import iso_score, mean_cosine
from llamavae.metrics.metric import Metric, Rows
from llamavae.metrics.offset_similarity import move, offset_concentration

SHARED = "random directions"
"""Group of the consistency of random directions, each shared by all sentences."""
UNCHANGED = "c itself"
"""Group of the analogies decoded from the code of c."""
CEILING = "answer itself"
"""Group of the analogies decoded from the code of the correct answer."""


class Geometry(Evaluator):
    """Traversal, analogies and isotropy.

    *Traversal consistency* measures whether a dimension changes all sentences in the same way.
    From each of S sentences, coordinate d is moved from the 2.5 % to the 97.5 % quantile of all
    codes, and e is the difference between the sentence embeddings of the texts at both ends. The
    consistency is the mean cosine of e over pairs of sentences, which is the offset concentration
    of Fournier et al. (arXiv 2010.03446) for texts instead of words. An unchanged text has
    cosine 0. The dimensions with the largest variance are traversed. In the control, each sentence
    has its own random direction of equal length. If one random direction shared by all sentences
    is as consistent as the dimensions are, the axes of the space are not special. Sentence
    embeddings are those of `encoder`, or of the system's own sentence encoder. Two systems are
    comparable only if these are the same; the table `settings` names them.

    *Analogies* are evaluated if the sentences are those of the grammar `factors` with all its
    labels, see `analogies`.

    Intervals are bootstrap intervals over starts, analogies or codes. IsoScore has none, since
    repeated codes in a bootstrap sample lower it.

    Args:
        limit: Maximum number of sentences, chosen at random.
        dimensions: Number of dimensions to traverse.
        starts: Number of sentences from which they are traversed.
        analogies: Number of analogies.
        factors: Factors that the analogies change, names of `analogies.FREE`.
        encoder: Sentence encoder: a hub id, a folder or any object with `encode`. None uses the
            system's own.
    """

    name = "geometry"
    needs: ClassVar[frozenset[Need]] = frozenset({"encode", "decode"})
    metrics = (
        Metric(
            "traversal consistency",
            "−1 to 1",
            "higher",
            "Mean cosine, over dimensions and pairs of start sentences, between the changes of the "
            "sentence embedding that a traversal of the dimension causes (offset concentration; "
            "Fournier et al., 2020, arXiv 2010.03446).",
            "The same metric with a different random direction of equal length for each start.",
        ),
        Metric(
            "unmoved traversals",
            "0 to 1",
            "lower",
            "Proportion of traversals with the same text at both ends.",
            "The same metric for random directions of equal length.",
        ),
        Metric(
            "analogy exact match",
            "0 to 1",
            "higher",
            "Proportion of analogies for which the text decoded from a − b + c is the one correct "
            "sentence (vector offsets as in Mikolov et al., 2013, N13-1090).",
            "The same metric with a random sentence as b.",
        ),
        Metric(
            "analogy factor",
            "0 to 1",
            "higher",
            "Proportion of analogies for which the text decoded from a − b + c is a sentence of "
            "the grammar and the factor has the required value.",
            "The same metric with a random sentence as b.",
        ),
        Metric(
            "analogy rest",
            "0 to 1",
            "higher",
            "Mean over analogies of the proportion of the other ten factors that are as in c; 0 "
            "for a text outside the grammar.",
            "The same metric with a random sentence as b.",
        ),
        Metric(
            "IsoScore",
            "0 to 1",
            "higher",
            "Uniformity of the variance of the latent codes over principal components (Rudman et "
            "al., 2022, arXiv 2108.07344).",
            "The same metric for as many standard Gaussian vectors of the same dimension.",
        ),
        Metric(
            "mean cosine",
            "−1 to 1",
            "lower",
            "Mean cosine between two different latent codes; 0 for an isotropic space (anisotropy; "
            "Ethayarajh, 2019, arXiv 1909.00512).",
            "The same metric for as many standard Gaussian vectors of the same dimension.",
        ),
    )

    def __init__(
        self,
        limit: int = 500,
        dimensions: int = 6,
        starts: int = 12,
        analogies: int = 120,
        factors: Sequence[str] = ("tense", "negation", "number"),
        encoder: EncoderSource | None = None,
    ) -> None:
        if min(dimensions, analogies, len(factors)) < 1 or min(limit, starts) < 2:
            raise UserError(
                "expected at least 2 sentences, 1 dimension, 2 starts, 1 analogy and 1 "
                f"factor; got {limit}, {dimensions}, {starts}, {analogies} and {len(factors)}"
            )
        self.limit = limit
        self.dimensions, self.starts = dimensions, starts
        self.analogies, self.factors = analogies, tuple(factors)
        self.encoder = encoder

    def evaluate(self, system: Any, data: EvaluationData) -> Evaluation:
        """All metrics that the data allow, and the decoded texts.

        Row of `traversals`: `dimension`, `start` (from 1), `value`, `text`. Row of `consistency`:
        `dimension`, `variance` of the codes, `consistency`. Row of `analogies`: `factor`, `a`,
        `b`, `c`, `answer`, `text`, and whether it is `exact`, the factor `changed` and the rest
        `kept`. Row of `settings`: `setting`, `value`.
        """
        data = data.sample(self.limit)
        texts = list(data.texts)
        x = latent_codes(system, texts)
        encode, encoder_name = sentence_vectors(system, self.encoder)
        rows, tables = self._traverse(system, x, encode, data)
        if has_factors(data.labels, texts):
            answered, tables["analogies"] = self._answer(system, x, texts, data)
            rows += answered
        rows += self._isotropy(x.double().numpy(), data)
        tables["settings"] = [{"setting": "sentence vectors", "value": encoder_name}]
        return Evaluation(rows, tables)

    def _traverse(
        self,
        system: Any,
        x: Tensor,
        encode: Callable[[Sequence[str]], Tensor],
        data: EvaluationData,
    ) -> tuple[Rows, dict[str, Rows]]:
        generator = data.generator()
        start = x[torch.randperm(len(x), generator=generator)[: self.starts]]
        variance = x.var(0, correction=0)
        dims = variance.argsort(descending=True, stable=True)[: self.dimensions]
        low, high = torch.quantile(x, torch.tensor([0.025, 0.975]), dim=0)
        axes = torch.eye(x.shape[1])[dims][:, None].expand(-1, len(start), -1)
        random = torch.randn(axes.shape, generator=generator)
        moves = [
            move(start, directions, centre, (high - low)[dims])
            for directions, centre in (
                (axes, (high + low) / 2),
                (random, x.mean(0)),
                (random[:, :1].expand(axes.shape), x.mean(0)),
            )
        ]
        shape = (len(moves), *moves[0].shape[:3])  # which, end, dimension, start
        texts = system.decode(torch.stack(moves).reshape(-1, x.shape[1]))
        vectors = encode(texts).double().cpu().numpy().reshape(*shape, -1)
        ends = np.array(texts, dtype=object).reshape(shape)
        change, of_own, of_shared = vectors[:, 1] - vectors[:, 0]
        unmoved, unmoved_own, _ = (ends[:, 1] == ends[:, 0]).astype(float)
        consistency = self.metric("traversal consistency")
        rows = [
            _consistency_row(consistency, change, data, of_own),
            _consistency_row(consistency, of_shared, data, group=SHARED),
            self.metric("unmoved traversals").mean(unmoved.mean(0), data.seed, control=unmoved_own),
        ]
        traversals: Rows = [
            {
                "dimension": int(dim),
                "start": s + 1,
                "value": round(float(moves[0][end, d, s, dim]), 2) + 0.0,
                "text": ends[0, end, d, s],
            }
            for d, dim in enumerate(dims)
            for s in range(len(start))
            for end in range(2)
        ]
        each: Rows = [
            {"dimension": int(dim), "variance": float(variance[dim]), "consistency": float(value)}
            for dim, value in zip(dims, offset_concentration(change), strict=True)
        ]
        return rows, {"traversals": traversals, "consistency": each}

    def _answer(
        self, system: Any, x: Tensor, texts: Sequence[str], data: EvaluationData
    ) -> tuple[Rows, Rows]:
        analogies = draw_analogies(texts, self.factors, self.analogies, data.seed)
        a, b, c, answer = (
            latent_codes(system, [getattr(analogy, part) for analogy in analogies])
            for part in ("a", "b", "c", "answer")
        )
        other = x[torch.randint(len(x), (len(analogies),), generator=data.generator())]
        n = len(analogies)
        predictions = system.decode(
            torch.cat([arithmetic(a, b, c), arithmetic(a, other, c), c, answer])
        )
        scores, control, unchanged, ceiling = (
            score_analogies(analogies, predictions[i * n : (i + 1) * n]) for i in range(4)
        )
        rows: Rows = []
        for field, name in _ANALOGIES.items():
            metric, value = self.metric(name), getattr(scores, field)
            rows.append(metric.mean(value, data.seed, control=getattr(control, field)))
            for factor in self.factors:
                here = np.array([analogy.factor == factor for analogy in analogies])
                if here.any():
                    held = getattr(control, field)[here]
                    rows.append(metric.mean(value[here], data.seed, control=held, group=factor))
            rows += [
                metric.mean(getattr(unchanged, field), data.seed, group=UNCHANGED),
                metric.mean(getattr(ceiling, field), data.seed, group=CEILING),
            ]
        return rows, analogy_rows(analogies, predictions[:n], scores)

    def _isotropy(self, x: NDArray[np.float64], data: EvaluationData) -> Rows:
        gaussian = np.random.default_rng(data.seed).normal(size=x.shape)
        cosine = self.metric("mean cosine").bootstrap(
            lambda i: mean_cosine(x, i), len(x), data.seed, control=mean_cosine(gaussian)
        )
        if x.shape[1] < 2:
            return [cosine]
        spread = self.metric("IsoScore")
        return [spread.row(iso_score(x), len(x), control=iso_score(gaussian)), cosine]


_ANALOGIES = {
    "exact": "analogy exact match",
    "changed": "analogy factor",
    "kept": "analogy rest",
}
"""Maps fields of `Scores` to names of metrics."""


def _consistency_row(
    metric: Metric,
    change: NDArray[np.float64],
    data: EvaluationData,
    control: NDArray[np.float64] | None = None,
    group: str = "",
) -> dict[str, Any]:
    """The mean over dimensions, with a bootstrap interval over starts."""
    return metric.bootstrap(
        lambda i: float(offset_concentration(change, i).mean()),
        change.shape[1],
        data.seed,
        control=None if control is None else float(offset_concentration(control).mean()),
        group=group,
    )
