"""Samples from a prior: their diversity, novelty, fluency and length.

Words are split at white space throughout.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from functools import partial
from typing import Any, Protocol, runtime_checkable

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from llamavae.errors import UserError
from llamavae.evaluation.encoders import EncoderSource, sentence_encoder
from llamavae.evaluation.evaluator import Evaluation, EvaluationData, Evaluator, latent_codes
from llamavae.metrics.bootstrap import bootstrap_interval
from llamavae.metrics.fluency import KneserNey, load_language_model, text_nll, token_ids
from llamavae.metrics.metric import AGGREGATES, Items, Metric, Rows, perplexity
from llamavae.metrics.ngrams import (
    distinct_n,
    duplicates,
    nearest_texts,
    reference_bleu,
    self_bleu,
)
from llamavae.metrics.semantic import Loaded, Scorer, mauve
from llamavae.modeling import LlaMaVAE
from llamavae.modeling.backbones import fingerprint
from llamavae.modeling.likelihood import sentence_nll
from llamavae.modeling.prior import Prior as VAEPrior
from llamavae.modeling.prior import choose_prior, prior_names

Values = NDArray[np.float64]

ALL = "all"
"""In place of a prior: all priors of the model."""


@runtime_checkable
class Prior(Protocol):
    """Any object that draws latent codes."""

    def sample(self, n: int, *, seed: int) -> Tensor:
        """Latent codes (n, D)."""
        ...


# ------------------------------------------------------------------------------- the evaluator

_CONTROL = "The same metric for as many held-out sentences."


class Samples(Evaluator):
    """Texts decoded greedily from codes of a prior, compared with as many held-out sentences.

    Good samples are close to the held-out sentences in every metric. A lower perplexity together
    with a higher self-BLEU means that the samples are frequent phrases that repeat. No single
    metric is sufficient, since meaningless text can also be diverse. Self-BLEU is the primary
    metric because it is defined for every system.

    To choose between priors, compare their fluency (plain perplexity; closer to that of the
    held-out sentences is better) at similar diversity (self-BLEU, distinct-2) and novelty. The
    held-out NLL of codes, in the report of a prior, shows which prior fits the codes best.

    Args:
        n: Number of samples; at most the number of held-out sentences.
        prior: Prior of the codes. None uses the system's own prior, for a `LlaMaVAE` its default.
            Otherwise the result of `fit_prior`; for a `LlaMaVAE` also any `prior` of
            `LlaMaVAE.sample`, or `all` for its default prior followed by the others as groups.
        judge: Causal language model for forward and reverse perplexity: a hub id, a folder, or a
            name of the catalogue such as `smollm2-135m-instruct`. It must be reported with them.
            None skips both.
        mauve: Sentence encoder for MAUVE, see `llamavae.metrics.semantic.mauve`: a hub id, a folder
            or any object with `encode`. None skips it.
        batch_size: Number of sentences per forward pass of the decoder, for perplexity.
        resamples: Number of bootstrap samples.
    """

    name = "samples"
    needs = frozenset({"decode"})
    metrics = (
        Metric(
            "self-BLEU",
            "0 to 1",
            "lower",
            "Mean over texts of the BLEU-4 of the text with all other texts as references, with "
            "smoothing method 1 (Zhu et al., 2018, arXiv 1802.01886).",
            _CONTROL,
            settings="order:4|tok:split|smooth:method1",
        ),
        *(
            Metric(
                f"distinct-{n}",
                "0 to 1",
                "higher",
                f"Number of distinct {grams} divided by the number of all {grams} in the texts (Li "
                "et al., 2016, arXiv 1510.03055).",
                _CONTROL,
            )
            for n, grams in ((1, "words"), (2, "bigrams"))
        ),
        Metric(
            "duplicates",
            "0 to 1",
            "lower",
            "Proportion of texts that equal an earlier text up to white space.",
            _CONTROL,
        ),
        Metric(
            "plain perplexity",
            "per token of the decoder",
            "lower",
            "Exponential of the mean NLL per token, including eos, under the VAE's own decoder "
            "without z. The decoder was trained with z, so the value is comparable only with the "
            "control and between models with the same decoder.",
            _CONTROL,
            "perplexity",
        ),
        Metric(
            "forward perplexity",
            "per token of the language model",
            "lower",
            "Exponential of the mean NLL per token of the texts, without their ends, under a named "
            "language model that was trained on neither them nor z (Cífka et al., 2018, arXiv "
            "1804.07972). It is also low if the texts are all alike.",
            _CONTROL,
            "perplexity",
            library="transformers",
        ),
        Metric(
            "reverse perplexity",
            "per token of the language model",
            "lower",
            "Perplexity of as many held-out sentences under a trigram model that is fitted to the "
            "samples with interpolated Kneser–Ney smoothing, over the tokens of the named language "
            "model and the ends of texts (Zhao et al., 2018, arXiv 1706.04223, with a recurrent "
            "model). It is low if the samples are fluent and diverse.",
            "The same metric with as many training sentences in place of the samples.",
            "perplexity",
            settings="order:3|discount:0.75",
        ),
        Metric(
            "BLEU against held-out text",
            "0 to 1",
            "higher",
            "Mean over texts of the BLEU-4 of the text with all held-out sentences as references, "
            "with smoothing method 1 (Zhu et al., 2018, arXiv 1802.01886).",
            "The same metric with as many training sentences in place of the samples.",
            settings="order:4|tok:split|smooth:method1",
        ),
        Metric(
            "novelty",
            "0 to 1",
            "higher",
            "Proportion of texts that do not occur among the training sentences.",
            _CONTROL + " It is 1 if training sentences are excluded from these.",
        ),
        Metric(
            "nearest training text",
            "0 to 1",
            "",
            "Mean over texts of the highest Jaccard index between the sets of words of the text "
            "and of a training sentence.",
            _CONTROL,
        ),
        Metric("words", "words", "", "Mean number of words per text.", _CONTROL),
        Metric(
            "deviation of words",
            "words",
            "",
            "Standard deviation of the number of words per text.",
            _CONTROL,
            "deviation",
        ),
        Metric(
            "MAUVE",
            "0 to 1",
            "higher",
            "Area under the divergence frontier between samples and held-out sentences (Pillutla "
            "et al., 2021, arXiv 2102.01454). The encoder must be reported with it.",
            "The same metric with as many training sentences in place of the samples.",
            library="mauve-text",
        ),
    )

    def __init__(
        self,
        n: int = 500,
        prior: Prior | str | None = None,
        judge: Scorer | None = None,
        mauve: EncoderSource | None = None,
        batch_size: int = 64,
        resamples: int = 1000,
    ) -> None:
        if n < 2:
            raise UserError(
                f"expected n of at least 2, since samples are compared in pairs; got {n}"
            )
        self.n, self.prior, self.judge, self.mauve = n, prior, judge, mauve
        self.batch_size, self.resamples = batch_size, resamples

    def evaluate(self, system: Any, data: EvaluationData) -> Evaluation:
        """All metrics, and the table `samples`.

        Row of the table: `text`, `self-BLEU`, for a `LlaMaVAE` the kind of the `prior`, and if
        training texts are known `nearest` (the most similar training text) and `similarity` (the
        Jaccard index of the two).

        Raises:
            UserError: The system has no prior and none is given, or the language model or the
                encoder of MAUVE cannot be loaded.
        """
        encoder = None if self.mauve is None else sentence_encoder(self.mauve)
        judge = None if self.judge is None else load_language_model(self.judge)
        n = min(self.n, len(data.texts))
        generator = data.generator()
        real = _choice(data.texts, n, generator)
        others = _choice(data.training_texts, n, generator)
        rows: Rows = []
        table: Rows = []
        for name, codes in self._codes(system, n, data.seed):
            samples = system.decode(codes)
            group = name if rows else ""
            found, shown = self._compare(system, samples, real, data, group)
            rows += found
            rows.append(self._against(samples, others, data, group))
            if judge is not None:
                rows += self._judged(judge, samples, real, others, data.seed, group)
            table += [{**row, "prior": name} if name else row for row in shown]
            if encoder is not None:
                ours, theirs = (latent_codes(encoder, texts).numpy() for texts in (samples, real))
                value, control = mauve(ours, theirs, data.seed), None
                if others and not group:  # it does not depend on the prior
                    control = mauve(latent_codes(encoder, others).numpy(), theirs, data.seed)
                rows.append(self.metric("MAUVE").row(value, n, control=control, group=group))
        return Evaluation(rows, {"samples": table})

    def depends_on(self, system: Any) -> dict[str, Any]:
        """`priors`: held-out NLL of each prior of a `LlaMaVAE` that is used, by kind."""
        try:
            priors = self._priors(system) if isinstance(system, LlaMaVAE) else []
        except UserError:
            return {}  # `evaluate` raises the error
        found = {prior.kind: prior.report.get("nll") for prior in priors}
        return {"priors": found} if found else {}

    def _compare(
        self, system: Any, samples: list[str], real: list[str], data: EvaluationData, group: str
    ) -> tuple[Rows, Rows]:
        """All metrics except MAUVE for n samples and n sentences, and the rows of the table."""
        n = len(samples)
        both = [*samples, *real]

        # maps metrics to per-text values, of the n samples and then of the n sentences
        values: dict[str, NDArray[Any]] = {
            "self-BLEU": np.concatenate([self_bleu(samples), self_bleu(real)])
        }
        nearest: list[int] = []
        if isinstance(system, LlaMaVAE):
            ids, _ = system.decoder.tokenize(both)
            nll = sentence_nll(system, ids, None, self.batch_size)
            values["plain perplexity"] = np.array([nll.numpy(), [len(row) - 1 for row in ids]]).T
        if data.training_texts:
            index, alike = nearest_texts(both, data.training_texts)
            nearest = index[:n].tolist()
            seen = {" ".join(text.split()) for text in data.training_texts}
            values["novelty"] = np.array([" ".join(text.split()) not in seen for text in both], int)
            values["nearest training text"] = alike
        words = np.array([len(text.split()) for text in both])
        values["words"] = values["deviation of words"] = words

        rows: Rows = []
        for name, each in values.items():
            metric, of = self.metric(name), AGGREGATES[self.metric(name).aggregate]
            interval = bootstrap_interval(
                lambda i, each=each, of=of: of(each[i]),  # samples only
                n,
                resamples=self.resamples,
                seed=data.seed,
            )
            value, control = (of(side) for side in (each[:n], each[n:]))
            items = Items(each[:n], each[n:])
            row = metric.row(value, n, control=control, interval=interval, group=group, items=items)
            rows.append(row)
        for name, whole in _WHOLE.items():
            row = self.metric(name).row(whole(samples), n, control=whole(real), group=group)
            rows.append(row)
        table: Rows = [
            {"text": text, "self-BLEU": round(float(score), 4)}
            for text, score in zip(samples, values["self-BLEU"][:n], strict=True)
        ]
        for i, number in enumerate(nearest):
            table[i]["nearest"] = data.training_texts[number]
            table[i]["similarity"] = round(float(values["nearest training text"][i]), 4)
        return rows, table

    def _against(
        self, samples: list[str], others: list[str], data: EvaluationData, group: str
    ) -> dict[str, Any]:
        """BLEU against the held-out sentences; the control is that of training sentences."""
        scores = reference_bleu(samples, data.texts)
        return self.metric("BLEU against held-out text").mean(
            scores,
            data.seed,
            resamples=self.resamples,
            control=reference_bleu(others, data.texts) if others else None,
            group=group,
        )

    def _judged(
        self,
        judge: Loaded,
        samples: list[str],
        real: list[str],
        others: list[str],
        seed: int,
        group: str,
    ) -> Rows:
        """Forward and reverse perplexity, with the fingerprint of the language model as `judge`."""
        lm, tokenizer = judge
        ours, held_out = (text_nll(texts, judge, self.batch_size) for texts in (samples, real))
        ids = [token_ids(texts, tokenizer) for texts in (samples, real, others)]
        backward, control = (
            KneserNey(rows, len(tokenizer)).nll(ids[1]) if rows else None
            for rows in (ids[0], ids[2])
        )
        assert backward is not None  # there are samples
        rows = [
            self.metric("forward perplexity").bootstrap(
                lambda i: perplexity(ours[i]),
                len(ours),
                seed,
                resamples=self.resamples,
                control=perplexity(held_out),
                group=group,
                items=Items(ours, held_out),
            ),
            self.metric("reverse perplexity").bootstrap(
                lambda i: perplexity(backward[i]),
                len(backward),
                seed,
                resamples=self.resamples,
                control=None if control is None else perplexity(control),
                group=group,
                items=Items(backward, control),
            ),
        ]
        return [row | {"judge": fingerprint(lm)} for row in rows]

    def _codes(self, system: Any, n: int, seed: int) -> Iterator[tuple[str, Tensor]]:
        """Codes (n, D) of each requested prior, with its name if the system is a `LlaMaVAE`."""
        if isinstance(system, LlaMaVAE) and isinstance(self.prior, str | VAEPrior | None):
            for prior in self._priors(system):
                yield prior.kind, prior.sample(n, seed=seed)
        elif isinstance(self.prior, str):
            raise UserError(
                f"prior {self.prior!r} is the name of a prior of a LlaMaVAE; this system is a "
                f"{type(system).__name__}. Pass an object with sample() as Samples(prior=...)"
            )
        elif self.prior is not None:
            yield "", self.prior.sample(n, seed=seed)
        elif not callable(getattr(system, "sample_codes", None)):
            raise UserError(
                "this system has no prior to draw samples from. Pass one as Samples(prior=...)"
            )
        else:
            yield "", system.sample_codes(n, seed=seed)

    def _priors(self, system: LlaMaVAE) -> list[VAEPrior]:
        """The requested priors of a VAE."""
        if not isinstance(self.prior, str | VAEPrior | None):
            return []
        names = prior_names(system) if self.prior == ALL else [self.prior]
        return [choose_prior(system, name) for name in names]


def _choice(texts: Sequence[str], n: int, generator: torch.Generator) -> list[str]:
    """A random choice of n texts."""
    return [texts[int(i)] for i in torch.randperm(len(texts), generator=generator)[:n]]


_WHOLE: dict[str, Callable[[list[str]], float]] = {
    "distinct-1": partial(distinct_n, n=1),
    "distinct-2": partial(distinct_n, n=2),
    "duplicates": duplicates,
}
"""Metrics of a list of texts. They have no interval, since a bootstrap sample repeats texts."""
