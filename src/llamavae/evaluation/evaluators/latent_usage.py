"""How a posterior uses the latent space, and how well all posteriors together match the prior.

Arguments are posteriors of N sentences: `mean` and `logvar`, both (N, D). Information is in nats.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from torch import Tensor

from llamavae.evaluation.evaluator import Evaluation, EvaluationData, Evaluator
from llamavae.metrics.bootstrap import Statistic, bootstrap_interval
from llamavae.metrics.latent import (
    ACTIVE_THRESHOLD,
    active_units,
    gaussian_kl,
    mutual_information,
    posterior_variance,
)
from llamavae.metrics.metric import Metric, Rows
from llamavae.modeling import DiagonalGaussian


def dimensions(mean: Tensor, logvar: Tensor) -> Rows:
    """What each dimension of z does, those with the largest KL first.

    Row: `dimension`; `kl` (to N(0, 1), mean over sentences); `active`; `variance of means` (over
    sentences) and `posterior variance` (mean over sentences), whose sum is `aggregate variance`,
    and `aggregate mean`: those of the draws of all posteriors together, 1 and 0 under the prior.
    """
    mean, logvar = mean.double(), logvar.double()
    kl = 0.5 * (mean.square() + logvar.exp() - 1 - logvar).mean(0)
    between, within = mean.var(0, correction=0), logvar.exp().mean(0)
    return [
        {
            "dimension": i,
            "kl": kl[i].item(),
            "active": bool(between[i] > ACTIVE_THRESHOLD),
            "variance of means": between[i].item(),
            "posterior variance": within[i].item(),
            "aggregate mean": mean[:, i].mean().item(),
            "aggregate variance": (between[i] + within[i]).item(),
        }
        for i in kl.argsort(descending=True, stable=True).tolist()
    ]


class Usage(Evaluator):
    """Whether z is used, by how many dimensions, and whether the prior covers it.

    KL = I(x; z) + KL(q(z) || p(z)), Hoffman and Johnson, "ELBO surgery" (2016): of the nats that a
    sentence pays for z, the first part tells sentences apart and the second is the distance of the
    aggregate posterior q(z), the mean of q(z|x) over sentences, from the prior. The distance is
    held between two numbers: `KL − information` is at least the distance, far above it where
    information comes near its limit log N; `Gaussian KL` sees mean and covariance alone.

    Args:
        resamples: Bootstrap samples of an interval.
    """

    name = "usage"
    needs = frozenset({"posterior"})
    metrics = (
        Metric(
            "active units",
            "0 to D",
            "higher",
            "dimensions whose posterior mean has a variance above 0.01 over sentences (1509.00519, "
            "section 5.2)",
        ),
        Metric(
            "KL",
            "nats per sentence",
            "",
            "KL(q(z|x) ‖ N(0, I)), summed over dimensions, mean over sentences, without threshold "
            "or beta: the rate",
        ),
        Metric(
            "mutual information",
            "nats",
            "higher",
            "mean of log q(z|x) − log of the mean of q(z|x') over the N sentences (Hoffman and "
            "Johnson 2016); at most log N",
        ),
        Metric(
            "KL − information",
            "nats",
            "lower",
            "KL − mutual information: at least the KL from the aggregate posterior to the prior "
            "(Hoffman and Johnson 2016)",
        ),
        Metric(
            "Gaussian KL",
            "nats",
            "lower",
            "KL to the prior of the Gaussian with mean and covariance of one draw from each "
            "posterior: what the KL from aggregate posterior to prior is at least",
            "the same of as many draws from the prior: what so few draws show of a perfect match",
        ),
        Metric(
            "posterior variance",
            "",
            "",
            "variance of q(z|x), mean over sentences and dimensions; the prior's is 1, a plain "
            "code's 0",
        ),
    )

    def __init__(self, resamples: int = 1000) -> None:
        self.resamples = resamples

    @torch.no_grad()
    def evaluate(self, system: Any, data: EvaluationData) -> Evaluation:
        """All measures, and the table `dimensions`, see the function of that name.

        The Gaussian KL is left out where there are not more sentences than dimensions.
        """
        posterior = system.encode(list(data.texts))
        mean, logvar = (x.double().cpu() for x in (posterior.mean, posterior.logvar))
        n, d = mean.shape
        generator = data.generator()
        z = DiagonalGaussian(mean, logvar).reparameterise(torch.randn(n, d, generator=generator))
        kl = posterior.kl().sum(1).double().cpu().numpy()
        information = mutual_information(mean, logvar, z)
        variance = logvar.exp().mean(1).numpy()
        centred = (mean - mean.mean(0)).numpy()
        square = centred**2

        def active(items: Any) -> float:
            weights = np.bincount(items, minlength=n) / n  # as rows of the table, but quicker
            return float(np.sum(weights @ square - (weights @ centred) ** 2 > ACTIVE_THRESHOLD))

        def interval(statistic: Statistic) -> tuple[float, float]:
            return bootstrap_interval(statistic, n, resamples=self.resamples, seed=data.seed)

        metric = self.metric
        rows = [
            metric("active units").row(active_units(mean), n, interval=interval(active)),
            metric("KL").row(kl.mean(), n, interval=interval(lambda i: float(kl[i].mean()))),
            metric("mutual information").row(information, n),
            metric("KL − information").row(kl.mean() - information, n),
        ]
        if n > d:
            prior = torch.randn(n, d, generator=generator)
            row = metric("Gaussian KL").row(gaussian_kl(z), n, control=gaussian_kl(prior))
            rows.append(row)
        rows.append(
            metric("posterior variance").row(
                posterior_variance(logvar),
                n,
                interval=interval(lambda i: float(variance[i].mean())),
            )
        )
        return Evaluation(rows, {"dimensions": dimensions(mean, logvar)})
