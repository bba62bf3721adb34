"""The amortisation gap: how much a posterior improves when it is optimised for its sentence."""

from __future__ import annotations

import time
from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from llamavae.errors import UserError
from llamavae.evaluation.evaluator import Evaluation, EvaluationData, Evaluator
from llamavae.evaluation.evaluators.reconstruction import decode_by_length
from llamavae.evaluation.predictions import PREDICTIONS, Prediction
from llamavae.evaluation.refined import RefinedSystem
from llamavae.metrics.control import derangement
from llamavae.metrics.metric import Metric, Rows
from llamavae.metrics.ngrams import bleu_counts, bleu_of_counts
from llamavae.modeling import DiagonalGaussian, LlaMaVAE, Refinement
from llamavae.modeling.likelihood import sentence_nll

Values = NDArray[np.float64]

ENCODER = "encoder"
"""Group of the rows of the encoder's own posteriors."""

_SHUFFLED = "The same metric when each sentence is paired with the posterior of another sentence."
_TEXTS = "The same metric when each sentence is compared with the text of another sentence's code."


class _Found(NamedTuple):
    """Per-sentence values (N,) of N posteriors; `foreign` is the control."""

    bound: Values
    nll: Values
    foreign_bound: Values
    foreign_nll: Values
    predictions: list[str]
    foreign: list[str]
    noisy: dict[float, Values]
    norm: Values
    seconds: float


class Amortisation(Evaluator):
    """Encoder posteriors compared with refined ones (`LlaMaVAE.refine`), and the cost of refining.

    Rows without a group are those of the largest number of steps; the groups are `encoder` and
    each number of steps. The noise is Gaussian, the same for all groups, in standard deviations of
    the encoder's codes of these sentences.

    Args:
        steps: Numbers of gradient steps.
        learning_rate: See `Refinement`.
        beta: Weight of the KL term, in refining and in the bound; 1 makes the bound the ELBO.
        confidence: See `Refinement`.
        noise: Standard deviations of the noise.
        limit: Maximum number of sentences, chosen at random.
        samples: Number of draws of z per sentence for the bound.
        batch_size: Number of sentences per forward pass of the encoder and of the decoder.
        resamples: Number of bootstrap samples.
    """

    name = "amortisation"
    needs = frozenset({"posterior", "likelihood", "decode"})
    metrics = (
        Metric(
            "amortisation gap",
            "nats per sentence",
            "lower",
            "Mean over sentences of the difference between the bound of the encoder's posterior "
            "and that of the refined posterior (Cremer et al., 2018, arXiv 1801.03558).",
        ),
        Metric(
            "bound",
            "nats per sentence",
            "lower",
            "Mean over sentences of E_q[−log p(x|z)] + beta · KL(q(z|x) ‖ N(0, I)), with the "
            "expectation estimated by draws from q; the negative ELBO for beta 1 (Kingma and "
            "Welling, 2014, arXiv 1312.6114).",
            _SHUFFLED,
        ),
        Metric(
            "NLL at the mean",
            "nats per sentence",
            "lower",
            "Mean over sentences of −log p(x|z) with teacher forcing, where z is the mean of q.",
            _SHUFFLED,
        ),
        Metric(
            "BLEU",
            "0 to 100",
            "higher",
            "Corpus BLEU of the texts decoded greedily from the means of q, computed by sacrebleu "
            "(13a tokenisation, cased; Post, 2018, W18-6319).",
            _TEXTS,
        ),
        Metric(
            "exact match",
            "0 to 1",
            "higher",
            "Proportion of the texts decoded greedily from the means of q that equal their "
            "sentence up to white space.",
            _TEXTS,
        ),
        Metric(
            "exact match after noise",
            "0 to 1",
            "higher",
            "Exact match after Gaussian noise is added to the codes. The group gives the standard "
            "deviation of the noise relative to that of the encoder's codes.",
        ),
        Metric("code norm", "Euclidean", "", "Mean over sentences of the norm of the mean of q."),
        Metric(
            "processor seconds",
            "seconds per sentence",
            "lower",
            "Processor time of encoding and refining, summed over threads and divided by the "
            "number of sentences. It depends on the machine.",
        ),
    )

    def __init__(
        self,
        steps: Sequence[int] = (5, 10, 20),
        learning_rate: float = Refinement.learning_rate,
        beta: float = Refinement.beta,
        confidence: float = Refinement.confidence,
        noise: Sequence[float] = (0.1, 0.3),
        limit: int = 100,
        samples: int = 8,
        batch_size: int = 32,
        resamples: int = 1000,
    ) -> None:
        self.steps, self.learning_rate, self.beta = sorted(steps), learning_rate, beta
        self.confidence, self.noise = confidence, list(noise)
        self.limit, self.samples = limit, samples
        self.batch_size, self.resamples = batch_size, resamples
        if not steps or self.steps[0] < 1 or limit < 2 or samples < 1:
            raise UserError(
                "expected steps of at least 1, at least 2 sentences and at least 1 sample; got "
                f"{self.steps}, {limit} and {samples}"
            )
        for count in self.steps:
            self._how(count, 0)  # raises an error for other settings out of range

    def _how(self, steps: int, seed: int) -> Refinement:
        return Refinement(
            steps, self.learning_rate, self.beta, confidence=self.confidence, seed=seed
        )

    @torch.no_grad()
    def evaluate(self, system: Any, data: EvaluationData) -> Evaluation:
        """All metrics for the encoder and for each number of steps, and their texts.

        The table `predictions-refined-STEPS` has the texts of the codes after so many steps, 0 for
        those of the encoder. Row: the fields of `llamavae.evaluation.predictions`, and `NLL` at the
        mean.
        """
        model = system.model if isinstance(system, RefinedSystem) else system
        sample = data.sample(self.limit)
        texts = list(sample.texts)
        rows: Rows = []
        tables: dict[str, Rows] = {}
        scale = model.encode(texts, self.batch_size).mean.double().cpu().std(0)
        base: Values | None = None
        for steps in (0, *self.steps):
            found = self._found(model, texts, steps, scale, data)
            base = found.bound if base is None else base
            gap = base - found.bound if steps else None
            group = f"{steps} steps" if steps else ENCODER
            tables[f"{PREDICTIONS}-refined-{steps}"] = [
                Prediction(id, prediction, (text,), control).fields() | {"NLL": nll}
                for id, prediction, text, control, nll in zip(
                    *(sample.ids, found.predictions, texts, found.foreign, found.nll.tolist()),
                    strict=True,
                )
            ]
            rows += self._rows(found, gap, texts, data.seed, group)
            if steps == self.steps[-1]:
                rows += self._rows(found, gap, texts, data.seed)
        order = [metric.name for metric in self.metrics]
        rows.sort(key=lambda row: (order.index(row["metric"]), bool(row["group"])))
        return Evaluation(rows, tables)

    def _found(
        self, model: LlaMaVAE, texts: list[str], steps: int, scale: Tensor, data: EvaluationData
    ) -> _Found:
        ids, _ = model.decoder.tokenize(texts)
        others = derangement(len(texts), data.generator(), texts)
        start = time.process_time()
        q = model.encode(texts, self.batch_size, refine=self._how(steps, data.seed))
        seconds = (time.process_time() - start) / len(texts)
        q = DiagonalGaussian(q.mean.double().cpu(), q.logvar.double().cpu())
        noise = scale * torch.randn(q.mean.shape, generator=data.generator(), dtype=torch.float64)
        predictions = self._predictions(model, ids, q.mean, data)
        foreign = DiagonalGaussian(q.mean[others], q.logvar[others])
        return _Found(
            *self._nats(model, ids, q, data),
            *self._nats(model, ids, foreign, data),
            predictions,
            [predictions[i] for i in others],
            {
                size: _exact(self._predictions(model, ids, q.mean + size * noise, data), texts)
                for size in self.noise
            },
            q.mean.norm(dim=1).numpy(),
            seconds,
        )

    def _rows(
        self, found: _Found, gap: Values | None, texts: list[str], seed: int, group: str = ""
    ) -> Rows:
        exact, foreign_exact = (_exact(x, texts) for x in (found.predictions, found.foreign))
        rows = [
            self.metric(name).mean(values, seed, control=control, group=group)
            for name, values, control in (
                ("amortisation gap", gap, None),
                ("bound", found.bound, found.foreign_bound),
                ("NLL at the mean", found.nll, found.foreign_nll),
                ("exact match", exact, foreign_exact),
                ("code norm", found.norm, None),
            )
            if values is not None
        ]
        rows += [
            self.metric("exact match after noise").mean(
                values, seed, group=f"{group}, noise {size:g}" if group else f"noise {size:g}"
            )
            for size, values in found.noisy.items()
        ]
        counts = bleu_counts(found.predictions, texts)
        bleu = self.metric("BLEU").bootstrap(
            lambda i: bleu_of_counts(counts[i]),
            len(texts),
            seed,
            resamples=self.resamples,
            control=bleu_of_counts(bleu_counts(found.foreign, texts)),
            group=group,
        )
        seconds = self.metric("processor seconds").row(found.seconds, len(texts), group=group)
        return [*rows, bleu, seconds]

    def _predictions(
        self, model: LlaMaVAE, ids: list[list[int]], z: Tensor, data: EvaluationData
    ) -> list[str]:
        return decode_by_length(model, z, list(map(len, ids)), self.batch_size, data.progress)

    def _nats(
        self, model: LlaMaVAE, ids: list[list[int]], q: DiagonalGaussian, data: EvaluationData
    ) -> tuple[Values, Values]:
        """Bound and NLL at the mean of each sentence, with the same random numbers for every q."""
        generator = data.generator()
        total = torch.zeros(len(ids), dtype=torch.float64)
        for _ in range(self.samples):
            noise = torch.randn(q.mean.shape, generator=generator, dtype=torch.float64)
            total += sentence_nll(model, ids, q.reparameterise(noise), self.batch_size)
        bound = total / self.samples + self.beta * q.kl().sum(1)
        return bound.numpy(), sentence_nll(model, ids, q.mean, self.batch_size).numpy()


def _exact(predictions: Sequence[str], texts: Sequence[str]) -> Values:
    same = [a.split() == b.split() for a, b in zip(predictions, texts, strict=True)]
    return np.array(same, dtype=float)
