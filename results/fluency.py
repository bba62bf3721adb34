"""Fluency of the texts halfway between two sentences."""

from __future__ import annotations

import random
from collections.abc import Sequence
from typing import Any, ClassVar

from llamavae.evaluation.evaluator import Evaluation, EvaluationData, Evaluator, Need, latent_codes
from llamavae.evaluation.paths import decode_paths
from llamavae.metrics.fluency import text_nll
from llamavae.metrics.metric import AGGREGATES, Items, Metric, Rows, perplexity
from llamavae.modeling import TextDecoder

MIXED = "words in random order"
"""Group of the perplexity of the same texts with their words in random order."""


class MiddleFluency(Evaluator):
    """Perplexity of the text decoded halfway between two sentences, under a language model.

    The paths are those of the evaluator `interpolation` with the same sentences and seed.

    Args:
        limit: Maximum number of sentences, chosen at random.
        pairs: Maximum number of pairs of sentences.
        language_model: Source of a causal language model, as for `TextDecoder.load`.
    """

    name = "middle_fluency"
    needs: ClassVar[frozenset[Need]] = frozenset({"encode", "decode"})
    metrics = (
        Metric(
            "perplexity of the middle",
            "1 to inf",
            "lower",
            "Exponential of the mean negative log-likelihood of the tokens of all middle texts "
            "under the language model. A text that copies a frequent phrase is also fluent.",
            "The same metric for the texts decoded at both ends of the paths.",
            "perplexity",
        ),
    )

    def __init__(
        self, limit: int = 500, pairs: int = 50, language_model: str = "smollm2-135m-instruct"
    ) -> None:
        self.limit, self.pairs, self.language_model = limit, pairs, language_model

    def evaluate(self, system: Any, data: EvaluationData) -> Evaluation:
        """The perplexity with its control, that of shuffled words, and the middle texts.

        Row of `middles`: `pair` (from 1), `start`, `middle`, `end`.
        """
        x = latent_codes(system, data.sample(self.limit).texts)
        paths = decode_paths(system, x, self.pairs, 3, seed=data.seed).predictions
        decoder = TextDecoder.load(self.language_model)
        model = decoder.lm, decoder.tokenizer
        middles = [middle for _, middle, _ in paths]
        ends = [text for start, _, end in paths for text in (start, end)]
        ours, theirs, mixed = (
            text_nll(texts, model) for texts in (middles, ends, _mixed(middles, data.seed))
        )
        aggregate = AGGREGATES["perplexity"]
        rows: Rows = [
            self.primary.bootstrap(
                lambda i: aggregate(ours[i]),
                len(ours),
                data.seed,
                control=perplexity(theirs),
                items=Items(ours),
            ),
            self.primary.row(perplexity(mixed), len(mixed), group=MIXED),
        ]
        table: Rows = [
            {"pair": pair, "start": start, "middle": middle, "end": end}
            for pair, (start, middle, end) in enumerate(paths, 1)
        ]
        return Evaluation(rows, {"middles": table})


def _mixed(texts: Sequence[str], seed: int) -> list[str]:
    """The texts with their words in random order."""
    chance = random.Random(seed)
    words = [text.split() for text in texts]
    return [" ".join(chance.sample(each, len(each))) for each in words]
