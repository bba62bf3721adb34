"""Likelihood of held-out sentences under the model, with z integrated out."""

from __future__ import annotations

import math
from typing import Any, TypeAlias

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from tqdm.auto import tqdm

from llamavae.errors import UserError
from llamavae.evaluation.evaluator import Evaluation, EvaluationData, Evaluator, Plot
from llamavae.evaluation.evaluators.reconstruction import length_groups
from llamavae.metrics.control import derangement
from llamavae.metrics.latent import importance_weighted_bound
from llamavae.metrics.metric import AGGREGATES, Items, Metric, Rows, perplexity
from llamavae.modeling import LlaMaVAE
from llamavae.modeling.likelihood import sentence_nll
from llamavae.modeling.posterior import DiagonalGaussian
from llamavae.modeling.tokenizing import unknown_bytes

Values: TypeAlias = dict[str, NDArray[np.float64]]
"""Maps metrics to the nats of each sentence (N,)."""

Indices: TypeAlias = NDArray[np.intp]
"""Indices of sentences."""

_CONTROL = "The same metric when each sentence is paired with the posterior of another sentence."
_IMPORTANCE = (
    "the importance-weighted bound with K draws from the posterior (Burda et al., 2016, arXiv "
    "1509.00519, eq. 8)"
)


class Likelihood(Evaluator):
    """Likelihood of held-out sentences: with z from the posterior, and with z integrated out.

    NLL is summed over the tokens of a sentence, including eos and given bos. A text truncated to
    the decoder's limit has no eos, and its rest is ignored by all metrics.

    Args:
        samples: Number K of draws for the importance-weighted bound. The bound is loose if K is
            much smaller than exp(KL); published results use K = 500 or more.
        batch_size: Number of sentences per forward pass of the decoder.
        resamples: Number of bootstrap samples.
    """

    name = "likelihood"
    needs = frozenset({"posterior", "likelihood"})
    metrics = (
        Metric(
            "perplexity",
            "per token of the decoder",
            "lower",
            "Exponential of the mean negative log-likelihood −log p(x) per token, including eos, "
            f"where log p(x) is estimated by {_IMPORTANCE}. It is comparable only between models "
            "with the same tokenizer.",
            _CONTROL,
            "perplexity",
        ),
        Metric(
            "bits per byte",
            "bits",
            "lower",
            "Negative log-likelihood −log2 p(x) divided by the number of UTF-8 bytes, plus one "
            f"for the end of each text, where log p(x) is estimated by {_IMPORTANCE}. Truncated "
            "texts are excluded. Each word that is unknown to the tokenizer adds 8 bits for each "
            "of its bytes and for its end. It is comparable between tokenizers.",
            _CONTROL,
            "ratio",
        ),
        Metric(
            "IW-NLL",
            "nats per sentence",
            "lower",
            f"Mean over sentences of −log p(x), estimated by {_IMPORTANCE}.",
            _CONTROL,
        ),
        Metric(
            "K",
            "draws per sentence",
            "",
            "Number of draws of z for the importance-weighted bound. The estimated perplexity "
            "decreases with K.",
        ),
        Metric(
            "negative ELBO",
            "nats per sentence",
            "lower",
            "Mean over sentences of NLL + KL(q(z|x) ‖ N(0, I)), with beta 1 (Kingma and Welling, "
            "2014, arXiv 1312.6114).",
            _CONTROL,
        ),
        Metric(
            "NLL",
            "nats per sentence",
            "lower",
            "Mean over sentences of −log p(x|z) with teacher forcing and one z drawn from q(z|x).",
            _CONTROL,
        ),
        Metric(
            "NLL at the mean",
            "nats per sentence",
            "lower",
            "Mean over sentences of −log p(x|z) with teacher forcing, where z is the mean of "
            "q(z|x).",
            _CONTROL,
        ),
        Metric(
            "texts cut",
            "0 to 1",
            "lower",
            "Proportion of sentences that are truncated to the decoder's maximum number of tokens.",
        ),
    )

    def __init__(self, samples: int = 10, batch_size: int = 64, resamples: int = 1000) -> None:
        if samples < 1:
            raise UserError(f"expected at least 1 sample for the bound; got {samples}")
        self.samples, self.batch_size, self.resamples = samples, batch_size, resamples

    @torch.no_grad()
    def evaluate(self, system: LlaMaVAE, data: EvaluationData) -> Evaluation:
        """All metrics, perplexity and bits per byte also by length, and two tables.

        Row of `bound`: `K`, `perplexity` and `IW-NLL` with that many draws, which shows how the
        bound tightens. Row of `sentences`: `text`, `tokens`, and the metrics in nats.
        """
        texts = list(data.texts)
        ids, cut = system.decoder.tokenize(texts)
        posterior = system.encode(texts)
        mean, logvar = (x.double().cpu() for x in (posterior.mean, posterior.logvar))
        others = derangement(len(texts), data.generator(), texts)
        with tqdm(
            total=2 * (self.samples + 1), desc="likelihood", disable=not data.progress, leave=False
        ) as bar:
            (values, bounds), (control, _) = (
                self._nats(
                    system,
                    ids,
                    DiagonalGaussian(mean[rows], logvar[rows]),
                    data.generator(),  # the same draws for value and control
                    bar,
                )
                for rows in (torch.arange(len(texts)), others)
            )
        tokens = np.array([len(row) - 1 for row in ids])  # bos is given
        size = np.array([len(text.encode()) + 1 for text in texts])
        spelled = 8 * np.array(unknown_bytes(system.decoder.tokenizer, texts))  # bits

        def per_sentence(nats: Values) -> dict[str, NDArray[np.float64]]:
            bits = nats["IW-NLL"] / math.log(2) + spelled
            return {
                "perplexity": np.stack([nats["IW-NLL"], tokens], 1),
                "bits per byte": np.stack([bits, size], 1),
            }

        ours, theirs = per_sentence(values), per_sentence(control)

        def add(name: str, group: str, items: Indices) -> None:
            metric, of = self.metric(name), AGGREGATES[self.metric(name).aggregate]
            kept, exchanged = ours[name][items], theirs[name][items]
            row = metric.bootstrap(
                lambda i: of(kept[i]),
                len(items),
                data.seed,
                resamples=self.resamples,
                control=of(exchanged),
                group=group,
                items=Items(kept, exchanged),
            )
            rows.append(row)

        rows: Rows = []
        everything = np.arange(len(texts))
        groups = {"": everything} | length_groups(texts)
        whole = np.array([row[-1] == system.decoder.tokens.eos for row in ids])
        for group, items in groups.items():
            add("perplexity", group, items)
        for group, items in groups.items():
            if len(kept := items[whole[items]]):
                add("bits per byte", group, kept)
        rows += [
            *(
                self.metric(name).mean(
                    nats, data.seed, resamples=self.resamples, control=control[name]
                )
                for name, nats in values.items()
            ),
            self.metric("K").row(self.samples, len(texts)),
            self.metric("texts cut").row(cut / len(texts), len(texts), items=Items(1 - whole)),
        ]
        table = [
            {
                "K": k,
                "perplexity": perplexity(np.stack([nats, tokens], 1)),
                "IW-NLL": float(nats.mean()),
            }
            for k, nats in bounds.items()
        ]
        sentences = [
            {
                "text": text,
                "tokens": int(tokens[i]),
                **{name: round(float(nats[i]), 4) for name, nats in values.items()},
            }
            for i, text in enumerate(texts)
        ]
        plot = Plot("curve", ("K", "perplexity"), "bound: perplexity by K")
        return Evaluation(rows, {"bound": table, "sentences": sentences}, plots={"bound": plot})

    def _nats(
        self,
        model: LlaMaVAE,
        ids: list[list[int]],
        q: DiagonalGaussian,
        generator: torch.Generator,
        bar: tqdm[Any],
    ) -> tuple[Values, dict[int, NDArray[np.float64]]]:
        """Maps metrics to values (N,) for posteriors q, and K to IW-NLL (N,) with K draws."""
        prior = DiagonalGaussian(torch.zeros_like(q.mean), torch.zeros_like(q.mean))

        def log_likelihood(z: Tensor) -> Tensor:
            nll = sentence_nll(model, ids, z, self.batch_size)
            bar.update()
            return -nll

        draws = []
        for _ in range(self.samples):
            z = q.reparameterise(torch.randn(q.mean.shape, generator=generator))
            draws.append((log_likelihood(z), prior.log_prob(z), q.log_prob(z)))
        terms = [torch.stack(term) for term in zip(*draws, strict=True)]  # (K, N) each
        first = -terms[0][0]
        few = [k for k in (2**i for i in range(30)) if k < self.samples]
        bounds = {
            k: -importance_weighted_bound(*(x[:k] for x in terms)).numpy()
            for k in (*few, self.samples)
        }
        values = {
            "IW-NLL": bounds[self.samples],
            "negative ELBO": (first + q.kl().sum(1)).numpy(),
            "NLL": first.numpy(),
            "NLL at the mean": -log_likelihood(q.mean).numpy(),
        }
        return values, bounds
