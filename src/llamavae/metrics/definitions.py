"""Metrics of definition modelling, which compare generated definitions with references.

Throughout, `predictions` and `references` are N texts each, one pair per item, and `lemmas` are
the words of the items, usually (word, part of speech). `score_definitions` computes each metric
together with its control.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Hashable, Mapping, Sequence
from functools import partial
from typing import Any

import numpy as np
import torch
from nltk.tokenize import word_tokenize
from nltk.translate.bleu_score import SmoothingFunction, sentence_bleu
from numpy.typing import NDArray

from llamavae.errors import UserError
from llamavae.metrics import semantic
from llamavae.metrics.control import derangement
from llamavae.metrics.metric import AGGREGATES, Items, Metric, Rows
from llamavae.metrics.ngrams import bleu_counts

SCORES = {
    score.name: score
    for score in (
        Metric(
            "sense-BLEU",
            "0 to 1",
            "higher",
            "Mean over items of the sentence BLEU-4 between generated and reference definition, "
            "with smoothing method 4 of Chen and Cherry (2014). As in the CODWOE scorer, the "
            "generated text takes the role of the reference (Mickus et al., 2022, arXiv "
            "2205.13858).",
            library="nltk",
            settings="case:mixed|smooth:method4|weights:.25,.25,.25,.25",
        ),
        Metric(
            "lemma-BLEU",
            "0 to 1",
            "higher",
            "Mean over items of the highest sense-BLEU with any reference definition of the same "
            "word and part of speech (CODWOE; Mickus et al., 2022, arXiv 2205.13858).",
            library="nltk",
            settings="case:mixed|smooth:method4|weights:.25,.25,.25,.25",
        ),
        Metric(
            "BLEU",
            "0 to 100",
            "higher",
            "Corpus BLEU of the generated definitions, computed by sacrebleu (13a tokenisation, "
            "cased; Post, 2018, W18-6319).",
            aggregate="BLEU",
            library="sacrebleu",
            settings="nrefs:1|case:mixed|eff:no|tok:13a|smooth:exp",
        ),
        Metric(
            "MoverScore",
            "−1 to 1",
            "higher",
            "Mean over items of 1 minus the earth mover's distance between the contextual token "
            "vectors of generated and reference definition (Zhao et al., 2019, arXiv 1909.02622; "
            "as in the CODWOE scorer).",
            library="POT",
            settings="case:lower",
        ),
        Metric(
            "encoder cosine",
            "−1 to 1",
            "higher",
            "Mean over items of the cosine between the sentence embeddings of generated and "
            "reference definition. It depends on the encoder, which must be reported with it.",
        ),
        Metric(
            "BLEURT",
            "about 0 to 1",
            "higher",
            "Mean over items of the human rating that a fine-tuned BERT predicts for the generated "
            "definition given the reference (Sellam et al., 2020, arXiv 2004.04696). It depends on "
            "the checkpoint, which must be reported with it.",
        ),
        Metric(
            "distinct-2",
            "0 to 1",
            "higher",
            "Number of distinct bigrams divided by the number of all bigrams in the generated "
            "definitions, with words split at white space (Li et al., 2016, arXiv 1510.03055).",
        ),
    )
}
"""The metrics of this module by name."""


# ------------------------------------------------------------------------------- n-grams


def lemma_bleus(
    predictions: Sequence[str],
    references: Sequence[str],
    lemmas: Sequence[Hashable],
    senses: Mapping[Any, Sequence[str]] | None = None,
) -> NDArray[np.float64]:
    """Best BLEU-4 of each text with any reference of the same lemma, 0 to 1, shape (N,).

    The mean is the lemma-BLEU of CODWOE's scorer, SemEval-2022 task 1 (Mickus et al., arXiv
    2205.13858), where a text that matches another sense of its word counts as correct; if all
    lemmas differ, it is the scorer's sense-BLEU. The scorer calls nltk's `sentence_bleu` with
    smoothing method 4 (Chen and Cherry, W14-3346) and with the roles swapped: the generated text
    is passed as the reference and the gold definition as the hypothesis. N-gram precision is
    therefore computed over the gold definition, and the brevity penalty applies to gold
    definitions shorter than the text. This function keeps that order, so that results are
    comparable with published ones. A pair without a common word scores 0.

    The official scorer splits texts into sentences (nltk's punkt, a download) before it splits
    them into words. Here each text is one sentence. A full stop inside a text therefore stays
    attached to its word ("dog." where the official scorer has "dog" and "."); a final full stop
    is split off in both.

    Args:
        predictions: N texts.
        references: N definitions.
        lemmas: The word of each item; CODWOE's are (word, part of speech).
        senses: Maps a lemma to further definitions of it that are not in `references`.

    Example:
        >>> predictions = ["a kind of dog that barks", "a kind of dog"]
        >>> lemma_bleus(predictions, predictions[::-1], ["dog", "hound"]).round(3)
        array([0.607, 0.508])
    """
    _check(predictions, references, lemmas)
    known: dict[Hashable, list[list[str]]] = defaultdict(list)
    for lemma, reference in zip(lemmas, references, strict=True):
        known[lemma].append(_words(reference))
    for lemma in known.keys() & (senses or {}).keys():
        known[lemma] += map(_words, (senses or {})[lemma])
    return np.array(
        [
            max(_bleu(words, sense) for sense in known[lemma])
            for words, lemma in zip(map(_words, predictions), lemmas, strict=True)
        ]
    )


_SMOOTHING: Any = SmoothingFunction().method4


def _words(text: str) -> list[str]:
    return word_tokenize(text, preserve_line=True)


def _bleu(prediction: list[str], reference: list[str]) -> float:
    bleu: Any = sentence_bleu  # its annotations are for single words
    return float(bleu([prediction], reference, smoothing_function=_SMOOTHING))


# ------------------------------------------------------------------------------- the table


def score_definitions(
    predictions: Sequence[str],
    references: Sequence[str],
    lemmas: Sequence[Hashable],
    *,
    encoder: semantic.Encoder | None = None,
    mover: semantic.Scorer | None = None,
    bleurt: semantic.Scorer | None = None,
    senses: Mapping[Any, Sequence[str]] | None = None,
    seed: int = 0,
) -> Rows:
    """All metrics of the predictions, each with its 95 % interval and its shuffled control.

    Rows are those of `Metric.row`, with per-item values: scores whose mean is the value, for BLEU
    rows of `bleu_counts`. `metric` is a name of `SCORES`. The interval has the percentiles of 1,000
    bootstrap samples of the items.

    The control is the metric of the same texts, each assigned to another item, where possible one
    with another lemma and another reference. Texts that depend on their word score much lower
    under the control. The score that remains is due to the common form of definitions.

    Args:
        predictions: N texts, at least 2.
        references: N definitions.
        lemmas: The word of each item, usually (word, part of speech).
        encoder: Encoder for the cosine; None skips it.
        mover: Encoder for MoverScore, see `semantic.mover_scores`; None skips it.
        bleurt: Checkpoint for BLEURT; None skips it.
        senses: For lemma-BLEU, maps a lemma to further definitions that are not in `references`.
        seed: Seed of the shuffled control and of the bootstrap.
    """
    _check(predictions, references, lemmas)
    if len(predictions) < 2:
        raise UserError("expected at least 2 items, since the control shuffles them; got 1")
    metrics: dict[str, Callable[[Sequence[str], Sequence[str]], Any]] = {
        "sense-BLEU": partial(lemma_bleus, lemmas=range(len(references))),
        "lemma-BLEU": partial(lemma_bleus, lemmas=lemmas, senses=senses),
        "BLEU": bleu_counts,
    }
    if mover is not None:
        metrics["MoverScore"] = partial(semantic.mover_scores, model=semantic.load_encoder(mover))
    if encoder is not None:
        metrics["encoder cosine"] = partial(semantic.encoder_cosines, encoder=encoder)
    if bleurt is not None:
        metrics["BLEURT"] = partial(semantic.bleurt_scores, model=semantic.load_bleurt(bleurt))
    other = derangement(len(predictions), torch.Generator().manual_seed(seed), lemmas, references)
    exchanged = [predictions[int(i)] for i in other]
    rows: Rows = []
    for name, values in metrics.items():
        metric, of = SCORES[name], AGGREGATES[SCORES[name].aggregate]
        ours, control = (
            np.asarray(values(texts, references), dtype=float) for texts in (predictions, exchanged)
        )
        row = metric.bootstrap(
            lambda i, of=of, ours=ours: of(ours[i]),
            len(predictions),
            seed,
            control=of(control),
            items=Items(ours, control),
        )
        rows.append(row)
    return rows


def _check(
    predictions: Sequence[str], references: Sequence[str], lemmas: Sequence[Hashable]
) -> None:
    if not predictions or not len(predictions) == len(references) == len(lemmas):
        raise UserError(
            "expected one text for each reference and its lemma, and at least one; got "
            f"{len(predictions)} texts, {len(references)} references and {len(lemmas)} lemmas"
        )
