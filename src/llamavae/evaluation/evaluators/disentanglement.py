"""Disentanglement: do single dimensions of the latent space stand for labelled factors?"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, ClassVar, NamedTuple

import numpy as np
from scipy.stats import ortho_group, t

from llamavae.errors import UserError
from llamavae.evaluation.evaluator import Evaluation, EvaluationData, Evaluator, Need, latent_codes
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
_CONTROL = "the same of labels that are dealt out to other sentences, mean over seeds"
_SEEDS = "; mean over seeds, and the interval is of seeds, not of sentences"

ROTATED = "after a random rotation"
"""Group of the MIG of the same points on other axes: those of the space are none special if it
is as high."""


class Disentanglement(Evaluator):
    """Scores of `factor_scores` on the points of labelled sentences.

    Labels with decimals are binned; labels that cannot be measured are named, with the reason,
    in the table `factors`. With one factor there is nothing to tell apart, so only MIG,
    completeness, informativeness and SAP are measured.

    MIG and modularity do not depend on a seed, and their intervals are of 200 bootstrap samples
    of sentences; since repeated sentences raise the information that is estimated, the interval
    is moved to have the value as its centre. The others are means over seeds (of splits, forests
    and draws), and their intervals are Student's t over the seeds.

    Args:
        sentences: Most sentences that are measured.
        seeds: Seeds of the random scores and of the controls.
        bins: Bins of a dimension and of a continuous label.
        trees: Trees of each forest of DCI.
        votes: Votes of z-diff and z-min-var.
    """

    name = "disentanglement"
    needs: ClassVar[frozenset[Need]] = frozenset({"encode", "labels"})
    metrics = (
        Metric(
            "MIG",
            "0 to 1",
            "higher",
            "mutual information gap: information on a factor in its best dimension minus that in "
            "the second best, over the factor's entropy, mean over factors; dimensions in "
            "equal bins (1802.04942, as in disentanglement_lib)",
            _CONTROL,
        ),
        Metric(
            "DCI disentanglement",
            "0 to 1",
            "higher",
            "1 − entropy of a dimension's importance over factors, mean weighted by importance; "
            "random forests (Eastwood and Williams 2018)" + _SEEDS,
            _CONTROL,
        ),
        Metric(
            "DCI completeness",
            "0 to 1",
            "higher",
            "1 − entropy of a factor's importance over dimensions, mean over factors; random "
            "forests (Eastwood and Williams 2018)" + _SEEDS,
            _CONTROL,
        ),
        Metric(
            "DCI informativeness",
            "0 to 1",
            "higher",
            "share of held-out labels that random forests predict, mean over factors (Eastwood "
            "and Williams 2018)" + _SEEDS,
            _CONTROL,
        ),
        Metric(
            "SAP",
            "0 to 1",
            "higher",
            "balanced held-out accuracy of thresholds on a factor's best dimension minus that on "
            "the second best, mean over factors (1711.00848)" + _SEEDS,
            _CONTROL,
        ),
        Metric(
            "modularity",
            "0 to 1",
            "higher",
            "1 − squared information of a dimension on other factors relative to that on its "
            "best, mean over dimensions (1802.05312); high for random labels too",
            _CONTROL,
        ),
        Metric(
            "z-diff",
            "0 to 1",
            "higher",
            "accuracy of a linear classifier that sees the mean difference of pairs that share "
            "one factor and names that factor (beta-VAE, Higgins et al. 2017)" + _SEEDS,
            _CONTROL,
        ),
        Metric(
            "z-min-var",
            "0 to 1",
            "higher",
            "accuracy of the majority vote that names the factor that is fixed in a batch by the "
            "dimension with the least relative variance (FactorVAE, 1802.05983)" + _SEEDS,
            _CONTROL,
        ),
    )

    def __init__(
        self,
        sentences: int = 500,
        seeds: int = 3,
        bins: int = BINS,
        trees: int = 20,
        votes: int = 1000,
    ) -> None:
        if min(sentences, seeds, trees, votes) < 1 or bins < 2:
            raise UserError(
                "sentences, seeds, trees and votes must be at least 1 and bins at least 2; got "
                f"{sentences}, {seeds}, {trees}, {votes} and {bins}"
            )
        self.sentences, self.seeds = sentences, seeds
        self.bins, self.trees, self.votes = bins, trees, votes

    def evaluate(self, system: Any, data: EvaluationData) -> Evaluation:
        """All scores beside those of random labels, and two tables.

        Row of `factors`: `factor`, its number of `values`, its `entropy` in nats, its `MIG`, `SAP`
        and `accuracy` (held-out, of the forests), the best `dimension`, and where it could not be
        measured, why it was `left_out`. Row of `dimensions`: `dimension`, `factor`, the
        `information` of one on the other in nats, and its `importance` to the forests.

        Raises:
            UserError: None of the labels can be measured, or the space has one dimension.
        """
        texts = list(data.texts)[: self.sentences]
        labels = {name: list(column)[: len(texts)] for name, column in data.labels.items()}
        found = code_factors(labels, self.bins)
        if not found.names:
            reasons = "; ".join(f"{name}: {why}" for name, why in found.left_out.items())
            raise UserError(f"none of the labels can be measured. {reasons}")
        x = latent_codes(system, texts).double().numpy()
        seeds = [data.seed + i for i in range(self.seeds)]
        right = [self._scores(x, found.codes, seed) for seed in seeds]
        control = [self._scores(x, _dealt(found.codes, seed), seed) for seed in seeds]
        rows = [
            metric.row(
                float(np.mean(values)),
                len(texts),
                control=float(np.mean([scores.named()[metric.name] for scores in control])),
                interval=self._interval(metric.name, values, x, found.codes, data.seed),
            )
            for metric in self.metrics
            if metric.name in right[0].named()
            for values in [[scores.named()[metric.name] for scores in right]]
        ]
        rows.insert(1, self._rotated(x, found.codes, seeds))
        return Evaluation(
            rows, _tables(found, right, information_matrix(x, found.codes, self.bins))
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

    def _rotated(self, x: Floats, codes: Integers, seeds: list[int]) -> dict[str, Any]:
        scores = [
            mig(x @ ortho_group.rvs(x.shape[1], random_state=seed), codes, self.bins).mean()
            for seed in seeds
        ]
        return self.primary.row(float(np.mean(scores)), len(x), group=ROTATED)

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
    """All scores under one seed; the last three are of two factors or more."""

    mig: Floats
    dci: DCI
    sap: Floats
    modularity: float | None
    z_diff: float | None
    z_min_var: float | None

    def named(self) -> dict[str, float]:
        """Score by name of its measure, without those that one factor cannot have."""
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


def _dealt(codes: Integers, seed: int) -> Integers:
    """The labels of other sentences, those of one sentence together."""
    return codes[np.random.default_rng(seed).permutation(len(codes))]


def _tables(found: Factors, scores: list[_Scores], information: Floats) -> dict[str, Rows]:
    """What stands behind the means: each factor, and each dimension with each factor."""
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
