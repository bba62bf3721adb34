"""Metrics of definition modelling: generated definitions of words against references.

Throughout, `predictions` and `references` are N texts each, one pair per item, and `lemmas` names
the word of each item, usually (word, part of speech). `score_definitions` computes each metric
together with its control.
"""

from __future__ import annotations

import warnings
from collections import defaultdict
from collections.abc import Callable, Hashable, Mapping, Sequence
from functools import partial
from typing import Any

import numpy as np
import torch
from nltk.tokenize import word_tokenize
from nltk.translate.bleu_score import sentence_bleu
from numpy.typing import NDArray

from llamavae.errors import UserError
from llamavae.metrics import semantic
from llamavae.metrics.control import derangement
from llamavae.metrics.metric import Metric, Rows
from llamavae.metrics.ngrams import corpus_bleu

SCORES = {
    score.name: score
    for score in (
        Metric(
            "sense-BLEU",
            "0 to 1",
            "higher",
            "BLEU-4 of each text and its reference without smoothing, mean over items; the text "
            "stands as the reference, as in CODWOE's scorer (2205.13858)",
        ),
        Metric(
            "lemma-BLEU",
            "0 to 1",
            "higher",
            "the same with the best of all references of the same word and part of speech "
            "(CODWOE, 2205.13858)",
        ),
        Metric(
            "BLEU",
            "0 to 100",
            "higher",
            "sacrebleu corpus BLEU of the texts (13a tokenisation, cased)",
        ),
        Metric(
            "MoverScore",
            "−1 to 1",
            "higher",
            "1 − earth mover's distance between the contextual token vectors of text and "
            "reference, mean over items (1909.02622, as in CODWOE's scorer)",
        ),
        Metric(
            "encoder cosine",
            "−1 to 1",
            "higher",
            "cosine of the sentence vectors of text and reference, mean over items; state the "
            "encoder with it",
        ),
        Metric(
            "BLEURT",
            "about 0 to 1",
            "higher",
            "human rating of text against reference as predicted by a trained BERT, mean over "
            "items (2004.04696); state the checkpoint with it",
        ),
        Metric(
            "distinct-2",
            "0 to 1",
            "higher",
            "different bigrams over all bigrams of the texts, words by white space (1510.03055)",
        ),
    )
}
"""The scores of this module by name."""


# ------------------------------------------------------------------------------- n-grams


def sense_bleu(predictions: Sequence[str], references: Sequence[str]) -> float:
    """Mean BLEU-4 of each text and its reference, 0 to 1, as CODWOE's scorer computes it.

    SemEval-2022 task 1 (Mickus et al., arXiv 2205.13858). Its scorer calls nltk's
    `sentence_bleu` without smoothing and with the roles exchanged: what a system wrote stands as
    the reference, and the gold definition as the hypothesis. So n-gram precision is taken over
    the gold definition, and the brevity penalty falls on golds that are shorter than the text.
    That order is kept here, since published numbers have it; a pair without a common 4-gram
    scores 0.

    The official scorer splits texts into sentences (nltk's punkt, a download) before it splits
    them into words. Here a text is one sentence: a full stop within a text stays with its word
    ("dog." where the official scorer has "dog" and "."), and the last one is split off alike.

    Example:
        >>> round(sense_bleu(["a kind of dog that barks"], ["a kind of dog"]), 3)
        0.607
        >>> round(sense_bleu(["a kind of dog"], ["a kind of dog that barks"]), 3)
        0.508
    """
    return lemma_bleu(predictions, references, range(len(references)))


def lemma_bleu(
    predictions: Sequence[str],
    references: Sequence[str],
    lemmas: Sequence[Hashable],
    senses: Mapping[Any, Sequence[str]] | None = None,
) -> float:
    """Mean over texts of the best BLEU-4 with any reference of the same lemma, 0 to 1.

    As CODWOE's scorer computes it, see `sense_bleu`: a text that fits another sense of its word
    counts as right.

    Args:
        predictions: N texts.
        references: N definitions.
        lemmas: The word of each item; CODWOE's are (word, part of speech).
        senses: Lemma -> more of its definitions, where `references` have only some.
    """
    return float(lemma_bleus(predictions, references, lemmas, senses).mean())


def lemma_bleus(
    predictions: Sequence[str],
    references: Sequence[str],
    lemmas: Sequence[Hashable],
    senses: Mapping[Any, Sequence[str]] | None = None,
) -> NDArray[np.float64]:
    """What `lemma_bleu` is the mean of, shape (N,); with N lemmas that of `sense_bleu`."""
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


def _words(text: str) -> list[str]:
    return word_tokenize(text, preserve_line=True)


def _bleu(predictions: list[str], reference: list[str]) -> float:
    with warnings.catch_warnings():  # of each text that has no 4-gram in common
        warnings.simplefilter("ignore")
        return float(sentence_bleu([predictions], reference))  # pyright: ignore[reportArgumentType]


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
    """All scores of the texts, each beside the same score of exchanged texts.

    Row: `metric` (a name of `SCORES`), `value`, `shuffled`, `unit`, `direction`, `n`, `items` (the
    score of each text, whose mean is the value; BLEU, which is no mean, has none).
    `shuffled` is the control: the same texts, but each stands for another item, where possible
    of another lemma and with another reference. Texts that follow their word score much worse
    then; what is left is due to the common form of definitions.

    Args:
        predictions: N texts, at least 2.
        references: N definitions.
        lemmas: The word of each item, usually (word, part of speech).
        encoder: For the cosine; None leaves it out.
        mover: Encoder for MoverScore, see `semantic.mover_score`; None leaves it out.
        bleurt: Checkpoint for BLEURT; None leaves it out.
        senses: Lemma -> more of its definitions for lemma-BLEU, where `references` have only some.
        seed: Seed of the exchange.
    """
    _check(predictions, references, lemmas)
    if len(predictions) < 2:
        raise UserError("the control exchanges texts between items, so it needs at least 2; got 1")
    metrics: dict[str, Callable[[Sequence[str], Sequence[str]], Any]] = {
        "sense-BLEU": partial(lemma_bleus, lemmas=range(len(references))),
        "lemma-BLEU": partial(lemma_bleus, lemmas=lemmas, senses=senses),
        "BLEU": corpus_bleu,
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
    for name, metric in metrics.items():
        found = np.asarray(metric(predictions, references), dtype=float)
        row = {
            "metric": name,
            "value": float(found.mean()),
            "shuffled": float(np.asarray(metric(exchanged, references), dtype=float).mean()),
            "unit": SCORES[name].unit,
            "direction": SCORES[name].direction,
            "n": len(predictions),
        }
        rows.append({**row, "items": found.tolist()} if found.ndim else row)
    return rows


def _check(
    predictions: Sequence[str], references: Sequence[str], lemmas: Sequence[Hashable]
) -> None:
    if not predictions or not len(predictions) == len(references) == len(lemmas):
        raise UserError(
            "expected one text for each reference and its lemma, and at least one; got "
            f"{len(predictions)} texts, {len(references)} references and {len(lemmas)} lemmas"
        )
