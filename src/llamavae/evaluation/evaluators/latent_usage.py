"""Use of the latent space by the posteriors, and the match of aggregate posterior and prior.

Arguments are posteriors of N sentences: `mean` and `logvar`, both (N, D). Information is in nats.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from torch import Tensor

from llamavae.evaluation.evaluator import Evaluation, EvaluationData, Evaluator, Plot
from llamavae.metrics.bootstrap import Statistic, bootstrap_interval
from llamavae.metrics.latent import (
    ACTIVE_THRESHOLD,
    active_units,
    gaussian_kl,
    mutual_information,
    posterior_variance,
)
from llamavae.metrics.metric import Items, Metric, Rows
from llamavae.modeling import DiagonalGaussian


def dimensions(mean: Tensor, logvar: Tensor) -> Rows:
    """Statistics of each dimension of z, in descending order of KL.

    Row: `dimension`; `kl` (to N(0, 1), mean over sentences); `active`; `variance of means` (over
    sentences) and `posterior variance` (mean over sentences), whose sum is `aggregate variance`;
    and `aggregate mean`. The last two are the moments of the aggregate posterior, which are 1 and
    0 if it matches the prior.
    """
    mean, logvar = mean.double(), logvar.double()
    kl = DiagonalGaussian(mean, logvar).kl().mean(0)
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


class LatentUsage(Evaluator):
    """Latent usage: whether z is used, in how many dimensions, and whether the prior covers it.

    KL = I(x; z) + KL(q(z) || p(z)), Hoffman and Johnson, "ELBO surgery" (2016). The first term is
    the information about the sentence; the second is the divergence of the aggregate posterior
    q(z), the mean of q(z|x) over sentences, from the prior. Two metrics bound this divergence:
    `KL − information` is an upper bound, which is loose if the information is close to its limit
    log N; `Gaussian KL`, which uses only mean and covariance, is a lower bound.

    Args:
        resamples: Number of bootstrap samples.
    """

    name = "latent_usage"
    needs = frozenset({"posterior"})
    metrics = (
        Metric(
            "active units",
            "0 to D",
            "higher",
            "Number of dimensions whose posterior mean has a variance above 0.01 over sentences "
            "(Burda et al., 2016, arXiv 1509.00519, section 5.2).",
        ),
        Metric(
            "KL",
            "nats per sentence",
            "",
            "Rate of the VAE: the mean over sentences of KL(q(z|x) ‖ N(0, I)), summed over "
            "dimensions, without free bits or beta (Kingma and Welling, 2014, arXiv 1312.6114).",
        ),
        Metric(
            "mutual information",
            "nats",
            "higher",
            "Mean over N sentences of log q(z|x) minus the logarithm of the mean of q(z|x') over "
            "all sentences x', with one z drawn from q(z|x) (Hoffman and Johnson, 2016). It is at "
            "most log N.",
        ),
        Metric(
            "KL − information",
            "nats",
            "lower",
            "KL minus mutual information, an upper bound of the KL divergence from the aggregate "
            "posterior to the prior (Hoffman and Johnson, 2016).",
        ),
        Metric(
            "Gaussian KL",
            "nats",
            "lower",
            "KL divergence to the prior of a Gaussian with the mean and covariance of one draw "
            "from each posterior. It is a lower bound of the KL divergence from the aggregate "
            "posterior to the prior.",
            "The same metric for as many draws from the prior, which is the value of a perfect "
            "match for this sample size.",
        ),
        Metric(
            "posterior variance",
            "",
            "",
            "Mean over sentences and dimensions of the variance of q(z|x). It is 1 for the prior "
            "and 0 for a deterministic code.",
        ),
    )

    def __init__(self, resamples: int = 1000) -> None:
        self.resamples = resamples

    @torch.no_grad()
    def evaluate(self, system: Any, data: EvaluationData) -> Evaluation:
        """All metrics, and the table `dimensions`, see the function of that name.

        The Gaussian KL is skipped if there are not more sentences than dimensions.
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
            weights = np.bincount(items, minlength=n) / n  # the same as resampling rows, but faster
            return float(np.sum(weights @ square - (weights @ centred) ** 2 > ACTIVE_THRESHOLD))

        def interval(statistic: Statistic) -> tuple[float, float]:
            return bootstrap_interval(statistic, n, resamples=self.resamples, seed=data.seed)

        metric = self.metric
        rows = [
            metric("active units").row(active_units(mean), n, interval=interval(active)),
            metric("KL").mean(kl, data.seed, resamples=self.resamples),
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
                items=Items(variance),
            )
        )
        plot = Plot("bars", ("kl", "active"), "KL of each dimension")
        return Evaluation(
            rows, {"dimensions": dimensions(mean, logvar)}, plots={"dimensions": plot}
        )
