"""Metrics of a reverse dictionary, which retrieves the word or word vector for a definition."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn import functional as F

from llamavae.errors import UserError
from llamavae.metrics.control import derangement
from llamavae.metrics.metric import AGGREGATES, Items, Metric, Rows

_CUTS = (1, 10, 100)
_BLOCK = 1024
"""Number of rows of the cosine matrix that are in memory at a time."""

SCORES = {
    score.name: score
    for score in (
        Metric(
            "median rank",
            "1 to V",
            "lower",
            "Median over items of the rank of the correct word among the V candidates; with ties, "
            "the worst rank counts (Hill et al., 2016, arXiv 1504.00548).",
            aggregate="median",
        ),
        Metric(
            "MRR",
            "0 to 1",
            "higher",
            "Mean reciprocal rank: the mean over items of 1 / rank of the correct word (Voorhees, "
            "1999).",
        ),
        *(
            Metric(
                f"recall@{cut}",
                "0 to 1",
                "higher",
                f"Proportion of items whose correct word has rank {cut} or better.",
            )
            for cut in _CUTS
        ),
        Metric(
            "MSE",
            "squared unit of the vectors",
            "lower",
            "Mean squared error between predicted and gold word vectors, over items and dimensions "
            "(CODWOE; Mickus et al., 2022, arXiv 2205.13858).",
        ),
        Metric(
            "cosine",
            "−1 to 1",
            "higher",
            "Mean over items of the cosine between predicted and gold word vector (CODWOE; Mickus "
            "et al., 2022, arXiv 2205.13858).",
        ),
        Metric(
            "rank",
            "0 to 1",
            "lower",
            "Mean over items of the proportion of the N gold vectors whose cosine with the "
            "prediction is at least that of the correct one (CODWOE; Mickus et al., 2022, arXiv "
            "2205.13858).",
        ),
    )
}
"""The metrics of this module by name."""


# ------------------------------------------------------------------------------- ranks


def rank_of_truth(scores: Tensor, truth: Tensor) -> Tensor:
    """Rank of the correct candidate of each item, from 1, shape (N,).

    The rank is the number of candidates that score at least as high as the correct one, itself
    included. Ties therefore give the worst rank: equal scores for all candidates give rank V.

    Args:
        scores: Score of each candidate for each item, higher is better (N, V).
        truth: Index of the correct candidate (N,).

    Raises:
        UserError: Shapes do not match, an index is out of range, or a score is NaN.

    Example:
        >>> scores = torch.tensor([[0.1, 0.7, 0.2], [0.5, 0.5, 0.0]])
        >>> rank_of_truth(scores, torch.tensor([1, 0])).tolist()
        [1, 2]
    """
    if scores.ndim != 2 or truth.shape != scores.shape[:1]:
        raise UserError(
            "expected scores (N, V) and the index of the correct candidate of each row (N,); got "
            f"{tuple(scores.shape)} and {tuple(truth.shape)}"
        )
    if ((truth < 0) | (truth >= scores.shape[1])).any():
        raise UserError(
            f"expected indices of correct candidates from 0 to {scores.shape[1] - 1}; got "
            f"{int(truth.min())} to {int(truth.max())}"
        )
    if bad := int(scores.isnan().any(1).sum()):
        raise UserError(
            f"expected scores without NaN; {bad} of {len(scores)} rows contain NaN. Use -inf for a "
            "candidate that is excluded"
        )
    return (scores >= scores.gather(1, truth[:, None])).sum(1)


def score_ranks(ranks: Tensor, candidates: int, seed: int = 0) -> Rows:
    """Median rank, mean reciprocal rank, and recall at 1, 10 and 100.

    Rows are those of `Metric.row`, with per-item values; `metric` is a name of `SCORES`. The
    interval has the percentiles of 1,000 bootstrap samples of the items. The control is the
    expected value for uniformly random ranks.

    Args:
        ranks: Rank of the correct candidate of each item, from 1 (N,).
        candidates: Number V of candidates.
        seed: Seed of the bootstrap.
    """
    values = ranks.cpu().numpy()
    if values.ndim != 1 or not len(values) or values.min() < 1 or values.max() > candidates:
        raise UserError(
            f"expected at least one rank (N,) from 1 to the {candidates} candidates; got shape "
            f"{tuple(ranks.shape)}" + (f", {values.min()} to {values.max()}" if values.size else "")
        )
    guess = _of_ranks(np.arange(1, candidates + 1))  # each rank once, as often as a random guess
    rows: Rows = []
    for name, items in _of_ranks(values).items():
        metric, of = SCORES[name], AGGREGATES[SCORES[name].aggregate]
        row = metric.bootstrap(
            lambda i, of=of, items=items: of(items[i]),
            len(items),
            seed,
            control=of(guess[name]),
            items=Items(items),
        )
        rows.append(row)
    return rows


def _of_ranks(ranks: NDArray[np.integer]) -> dict[str, NDArray[Any]]:
    """The value of each rank, by metric."""
    recalls = {f"recall@{cut}": (ranks <= cut).astype(int) for cut in _CUTS}
    return {"median rank": ranks, "MRR": 1 / ranks, **recalls}


# ------------------------------------------------------------------------------- vectors


@torch.no_grad()
def score_vectors(predicted: Tensor, gold: Tensor, seed: int = 0) -> Rows:
    """MSE, cosine and rank of predicted word vectors, as CODWOE's scorer computes them.

    SemEval-2022 task 1 (Mickus et al., arXiv 2205.13858). The rank is the proportion of all N gold
    vectors that are at least as close to the prediction as the correct one, so the vector of a
    word with several definitions counts several times. The scorer normalises only the gold
    vectors, since the norm of a prediction is the same for all candidates and does not change the
    ranks.

    Rows are those of `Metric.row`, with per-item values; `metric` is a name of `SCORES`. The
    interval has the percentiles of 1,000 bootstrap samples of the items. In the control, each item
    receives the prediction of another item, where possible of one with another gold vector.

    Args:
        predicted: Predicted vectors (N, C).
        gold: Vectors of the correct words (N, C).
        seed: Seed of the shuffled control and of the bootstrap.
    """
    if predicted.ndim != 2 or predicted.shape != gold.shape or len(gold) < 2:
        raise UserError(
            "expected predicted and gold vectors of one shape (N, C), N at least 2 for the "
            f"shuffled control; got {tuple(predicted.shape)} and {tuple(gold.shape)}"
        )
    words = gold.unique(dim=0, return_inverse=True)[1].tolist()
    other = derangement(len(gold), torch.Generator().manual_seed(seed), words)
    right, exchanged = (_compare(x, gold) for x in (predicted, predicted[other]))
    return [
        SCORES[name].mean(values, seed, control=exchanged[name]) for name, values in right.items()
    ]


def _compare(predicted: Tensor, gold: Tensor) -> dict[str, NDArray[np.float64]]:
    """The metrics of each item (N,)."""
    unit = F.normalize(gold)
    truth = torch.arange(len(gold), device=gold.device)
    blocks = zip(predicted.split(_BLOCK), truth.split(_BLOCK), strict=True)
    ranks = torch.cat([rank_of_truth(part @ unit.T, rows) for part, rows in blocks])
    items = {
        "MSE": F.mse_loss(predicted, gold, reduction="none").mean(1),
        "cosine": F.cosine_similarity(predicted, gold),
        "rank": ranks.double() / len(gold),
    }
    return {name: values.double().cpu().numpy() for name, values in items.items()}
