"""Metrics of a VAE on held-out sentences during training, with shuffled controls.

The evaluators are not used here: they need a sentence encoder, encode the texts again, and
bootstrap intervals.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

import numpy as np
import torch

from llamavae.data.sentences import SentenceData
from llamavae.errors import UserError
from llamavae.evaluation.evaluators.latent_usage import LatentUsage
from llamavae.evaluation.evaluators.likelihood import Likelihood
from llamavae.evaluation.evaluators.reconstruction import Reconstruction
from llamavae.metrics.control import derangement
from llamavae.metrics.correlation import similarity_correlation
from llamavae.metrics.latent import active_units, mutual_information, posterior_variance
from llamavae.metrics.metric import Metric, Rows
from llamavae.metrics.ngrams import corpus_bleu, exact_match
from llamavae.modeling import LlaMaVAE
from llamavae.modeling.likelihood import sentence_nll
from llamavae.modes import evaluating

_PAIRED = 500  # sentences whose pairs are compared with the teacher's
_DECODED = ("bleu", "exact_match")

METRICS: dict[str, Metric] = {
    "nll": Likelihood().metric("NLL"),
    "bleu": Reconstruction().metric("BLEU"),
    "exact_match": Reconstruction().metric("exact match"),
    "kl": LatentUsage().metric("KL"),
    "elbo": Likelihood().metric("negative ELBO"),
    "active_units": LatentUsage().metric("active units"),
    "mutual_information": LatentUsage().metric("mutual information"),
    "posterior_variance": LatentUsage().metric("posterior variance"),
    "similarity": Metric(
        "similarity to the teacher",
        "-1 to 1",
        "higher",
        "Pearson correlation, over pairs of sentences, between the cosines of the posterior means "
        "and those of the teacher's vectors.",
    ),
}
"""Key in the result of `measure` -> its metric."""


def metric_rows(found: Mapping[str, Any], decoded: int) -> Rows:
    """The result of `measure` as rows of `Metric.row`, with the actual limits in their units.

    Args:
        found: The result.
        decoded: The argument of `measure`.
    """
    n = found.get("sentences", 0)
    units = {
        "active_units": f"0 to {len(found.get('kl_per_dimension', ()))}",
        "mutual_information": f"nats, at most log N = {math.log(n or 1):.2f}",
    }
    return [
        metric.row(
            found[key],
            min(n, decoded) if key in _DECODED else n,
            control=found.get(f"{key}_shuffled"),
        )
        | {"unit": units.get(key, metric.unit)}
        for key, metric in METRICS.items()
        if key in found
    ]


@torch.no_grad()
def measure(
    model: LlaMaVAE, data: SentenceData, decoded: int = 100, seed: int = 0, batch_size: int = 64
) -> dict[str, Any]:
    """Rate, distortion, usage of the latent, and free-running reconstruction.

    The shuffled control gives each sentence the latent code of another one. A model that decodes
    from z is much worse then. A model that ignores z is not.

    Args:
        model: The VAE.
        data: N held-out sentences.
        decoded: How many of them are decoded freely, greedily, from the posterior mean.
        seed: Seed of the draws from the posterior and of the shuffle.
        batch_size: Number of sentences per forward pass.

    Returns:
        `nll`, `nll_shuffled`, `kl` and `elbo` (negative, at beta 1) in nats per sentence;
        `kl_per_dimension`; `active_units`; `mutual_information` in nats, with its N;
        `posterior_variance`; `bleu`, `bleu_shuffled` and `exact_match`; where the data have a
        teacher's vectors, `similarity`, see `similarity_correlation`, of the first 500 sentences.

    Raises:
        UserError: NLL or KL is not finite.
    """
    with evaluating(model):
        return _measure(model, data, decoded, seed, batch_size)


def _measure(
    model: LlaMaVAE, data: SentenceData, decoded: int, seed: int, batch_size: int
) -> dict[str, Any]:
    posterior = model.encode(data.inputs(), batch_size)
    generator = torch.Generator().manual_seed(seed)
    mean, logvar = posterior.mean, posterior.logvar
    z = posterior.reparameterise(torch.randn(mean.shape, generator=generator))
    other = derangement(len(z), generator)
    kl = posterior.kl().mean(0)
    ids = [data[i]["ids"] for i in range(len(data))]
    nll = sentence_nll(model, ids, z, batch_size).mean().item()
    if not math.isfinite(nll + kl.sum().item()):
        raise UserError("the NLL or the KL of the held-out sentences is not finite")
    result: dict[str, Any] = {
        "nll": nll,
        "nll_shuffled": sentence_nll(model, ids, z[other], batch_size).mean().item(),
        "kl": kl.sum().item(),
        "elbo": nll + kl.sum().item(),
        "active_units": active_units(mean),
        "mutual_information": mutual_information(mean, logvar, z),
        "mutual_information_n": len(z),
        "posterior_variance": posterior_variance(logvar),
        "sentences": len(z),
        "kl_per_dimension": kl.tolist(),
    }
    if data.teacher is not None:
        teacher = torch.from_numpy(np.array(data.teacher[:_PAIRED]))
        result["similarity"] = similarity_correlation(mean[:_PAIRED], teacher)
    if decoded:
        texts = list(data.texts[:decoded])
        codes = mean[: len(texts)]
        # a few more tokens than the longest reference, so that overlong predictions are visible
        longest = int(data.lengths[: len(texts)].max())
        options = {"max_new_tokens": min(model.config.max_tokens, longest + 8)}
        predictions = model.decode(codes, batch_size, **options)
        shuffled = model.decode(codes[derangement(len(texts), generator)], batch_size, **options)
        result["bleu"] = corpus_bleu(predictions, texts)
        result["bleu_shuffled"] = corpus_bleu(shuffled, texts)
        result["exact_match"] = exact_match(predictions, texts)
    return result
