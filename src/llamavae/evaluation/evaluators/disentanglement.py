"""Disentanglement: whether single dimensions of the latent space encode labelled factors."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, ClassVar, NamedTuple

import numpy as np
from scipy.stats import ortho_group, t

from llamavae.errors import UserError
from llamavae.evaluation.evaluator import (
    Evaluation,
    EvaluationData,
    Evaluator,
    Need,
    Plot,
    latent_codes,
)
from llamavae.metrics.bootstrap import bootstrap_interval
from llamavae.metrics.disentanglement import (
    BINS,
    DCI,
    Factors,
    Floats,
    Integers,
    code_factors,
    dci,
    entropies,
    information_matrix,
    mig,
    modularity,
    sap,
)
from llamavae.metrics.interventions import z_diff, z_min_var
from llamavae.metrics.metric import Metric, Rows

_RESAMPLES = 200
_CONTROL = "The same metric with the labels shuffled over sentences, mean over seeds."
_SEEDS = " The value is the mean over seeds, and the interval is over seeds, not sentences."

_DEFINITIONS = {
    "MIG": (
        "Mutual information gap: the mean over factors of the difference between the two highest "
        "values of mutual information of a dimension and the factor, divided by the entropy of "
        "the factor (Chen et al., 2018, arXiv 1802.04942). Dimensions are discretised into bins "
        "of equal width, as in disentanglement_lib."
    ),
    "DCI disentanglement": (
        "Mean over dimensions, weighted by importance, of 1 minus the normalised entropy of the "
        "dimension's importance over factors, from random forests (Eastwood and Williams, 2018)."
        + _SEEDS
    ),
    "DCI completeness": (
        "Mean over factors of 1 minus the normalised entropy of the importance of the dimensions "
        "for the factor, from random forests (Eastwood and Williams, 2018)." + _SEEDS
    ),
    "DCI informativeness": (
        "Mean over factors of the held-out accuracy of random forests that predict the factor "
        "from the latent code (Eastwood and Williams, 2018)." + _SEEDS
    ),
    "SAP": (
        "Separated attribute predictability: the mean over factors of the difference in balanced "
        "held-out accuracy between the two single dimensions that predict the factor best by "
        "thresholds (Kumar et al., 2018, arXiv 1711.00848)." + _SEEDS
    ),
    "modularity": (
        "Mean over dimensions of 1 minus the squared mutual information with all factors but the "
        "best, divided by (K − 1) times that with the best of K factors (Ridgeway and Mozer, "
        "2018, arXiv 1802.05312). It is also high for random labels."
    ),
    "z-diff": (
        "Accuracy of a linear classifier that predicts, from the mean absolute difference of "
        "pairs that share the value of one factor, which factor this is (Higgins et al., 2017)."
        + _SEEDS
    ),
    "z-min-var": (
        "Accuracy of a majority-vote classifier that predicts, from the dimension with the lowest "
        "relative variance in a batch, which factor is fixed in the batch (Kim and Mnih, 2018, "
        "arXiv 1802.05983)." + _SEEDS
    ),
}
"""Maps metrics to their definitions."""

ROTATED = "after a random rotation"
"""Group of the MIG after a random rotation of the codes. If it is as high as the MIG itself, the
axes of the space are not aligned with the factors."""


class Disentanglement(Evaluator):
    """Disentanglement metrics on the latent codes of labelled sentences.

    Continuous labels are binned; excluded labels are listed, with the reason, in the table
    `factors`. With one factor, only MIG, completeness, informativeness and SAP are defined.

    MIG and modularity do not depend on a seed. Their intervals use 200 bootstrap samples of
    sentences; since repeated sentences increase the estimated information, the interval is
    shifted to be centred on the value. The other metrics are means over seeds (of splits, forests
    and draws), and their intervals are Student's t intervals over the seeds.

    Args:
        limit: Maximum number of sentences, chosen at random.
        seeds: Number of seeds of the random metrics and of the controls.
        bins: Number of bins of a dimension and of a continuous label.
        trees: Number of trees in each forest of DCI.
        votes: Number of votes of z-diff and z-min-var.
    """

    name = "disentanglement"
    needs: ClassVar[frozenset[Need]] = frozenset({"encode", "labels"})
    metrics = tuple(
        Metric(name, "0 to 1", "higher", definition, _CONTROL)
        for name, definition in _DEFINITIONS.items()
    )

    def __init__(
        self,
        limit: int = 500,
        seeds: int = 3,
        bins: int = BINS,
        trees: int = 20,
        votes: int = 1000,
    ) -> None:
        if min(limit, seeds, trees, votes) < 1 or bins < 2:
            raise UserError(
                "expected a limit, seeds, trees and votes of at least 1 and at least 2 bins; got "
                f"{limit}, {seeds}, {trees}, {votes} and {bins}"
            )
        self.limit, self.seeds = limit, seeds
        self.bins, self.trees, self.votes = bins, trees, votes

    def evaluate(self, system: Any, data: EvaluationData) -> Evaluation:
        """All metrics with the controls for shuffled labels, and two tables.

        Row of `factors`: `factor`, its number of `values`, its `entropy` in nats, its `MIG`, `SAP`
        and `accuracy` (held-out, of the forests), the best `dimension`, and for an excluded label
        the reason, `left_out`. Row of `dimensions`: `dimension`, `factor`, their mutual
        `information` in nats, and the `importance` of the dimension in the forests.

        Raises:
            UserError: No label is usable, or the space has one dimension.
        """
        data = data.sample(self.limit)
        found = code_factors(data.labels, self.bins)
        if not found.names:
            reasons = "; ".join(f"{name}: {why}" for name, why in found.left_out.items())
            raise UserError(f"expected at least one usable label; found none. {reasons}")
        x = latent_codes(system, data.texts).double().numpy()
        seeds = [data.seed + i for i in range(self.seeds)]
        right = [self._scores(x, found.codes, seed) for seed in seeds]
        control = [self._scores(x, _shuffled(found.codes, seed), seed) for seed in seeds]
        rows = [
            metric.row(
                float(np.mean(values)),
                len(x),
                control=float(np.mean([scores.named()[metric.name] for scores in control])),
                interval=self._interval(metric.name, values, x, found.codes, data.seed),
            )
            for metric in self.metrics
            if metric.name in right[0].named()
            for values in [[scores.named()[metric.name] for scores in right]]
        ]
        rotated = [
            mig(x @ ortho_group.rvs(x.shape[1], random_state=seed), found.codes, self.bins).mean()
            for seed in seeds
        ]
        rows.insert(1, self.primary.row(float(np.mean(rotated)), len(x), group=ROTATED))
        plot = Plot(
            "squares",
            ("dimension", "factor", "information"),
            "Mutual information of each dimension and each factor, in nats",
        )
        return Evaluation(
            rows,
            _tables(found, right, information_matrix(x, found.codes, self.bins)),
            plots={"dimensions": plot},
        )

    def _scores(self, x: Floats, codes: Integers, seed: int) -> _Scores:
        several = codes.shape[1] > 1
        return _Scores(
            mig(x, codes, self.bins),
            dci(x, codes, trees=self.trees, seed=seed),
            sap(x, codes, seed=seed),
            modularity(x, codes, self.bins) if several else None,
            z_diff(x, codes, votes=self.votes, seed=seed) if several else None,
            z_min_var(x, codes, votes=self.votes, seed=seed) if several else None,
        )

    def _interval(
        self, name: str, values: list[float], x: Floats, codes: Integers, seed: int
    ) -> tuple[float, float] | None:
        score: dict[str, Callable[[Floats, Integers, int], Any]] = {
            "MIG": mig,
            "modularity": modularity,
        }
        mean = float(np.mean(values))
        if name in score:
            low, high = bootstrap_interval(
                lambda i: float(np.mean(score[name](x[i], codes[i], self.bins))),
                len(x),
                resamples=_RESAMPLES,
                seed=seed,
            )
            half = (high - low) / 2
        elif len(values) > 1:
            half = t.ppf(0.975, len(values) - 1) * np.std(values, ddof=1) / len(values) ** 0.5
        else:
            return None
        return mean - float(half), mean + float(half)


class _Scores(NamedTuple):
    """All metrics for one seed; the last three need at least two factors."""

    mig: Floats
    dci: DCI
    sap: Floats
    modularity: float | None
    z_diff: float | None
    z_min_var: float | None

    def named(self) -> dict[str, float]:
        """Values by name of the metric, without those that are undefined for one factor."""
        several = self.modularity is not None
        scores = {
            "MIG": float(self.mig.mean()),
            "DCI disentanglement": self.dci.disentanglement if several else None,
            "DCI completeness": self.dci.completeness,
            "DCI informativeness": self.dci.informativeness,
            "SAP": float(self.sap.mean()),
            "modularity": self.modularity,
            "z-diff": self.z_diff,
            "z-min-var": self.z_min_var,
        }
        return {name: score for name, score in scores.items() if score is not None}


def _shuffled(codes: Integers, seed: int) -> Integers:
    """Labels shuffled over sentences; the labels of one sentence stay together."""
    return codes[np.random.default_rng(seed).permutation(len(codes))]


def _tables(found: Factors, scores: list[_Scores], information: Floats) -> dict[str, Rows]:
    """Tables behind the means: one row per factor, and one per dimension and factor."""
    entropy = entropies(found.codes)
    separated = np.mean([s.sap for s in scores], axis=0)
    accuracy = np.mean([s.dci.accuracy for s in scores], axis=0)
    importance = np.mean([s.dci.importance for s in scores], axis=0)
    factors: Rows = [
        {
            "factor": name,
            "values": int(found.codes[:, k].max()) + 1,
            "entropy": float(entropy[k]),
            "MIG": float(scores[0].mig[k]),
            "SAP": float(separated[k]),
            "accuracy": float(accuracy[k]),
            "dimension": int(information[:, k].argmax()),
            "left_out": "",
        }
        for k, name in enumerate(found.names)
    ]
    nothing = dict.fromkeys(list(factors[0])[1:-1])
    factors += [{"factor": f, **nothing, "left_out": why} for f, why in found.left_out.items()]
    dimensions: Rows = [
        {
            "dimension": d,
            "factor": name,
            "information": float(information[d, k]),
            "importance": float(importance[d, k]),
        }
        for d in range(len(information))
        for k, name in enumerate(found.names)
    ]
    return {"factors": factors, "dimensions": dimensions}
