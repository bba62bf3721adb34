"""The measures on the cards of the bundled models."""

from __future__ import annotations

import random
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch

from llamavae import InvertibleCVAE, LlaMaVAE
from llamavae.corpora import load_corpus
from llamavae.corpora.splits import fold
from llamavae.evaluation.evaluator import EvaluationData
from llamavae.evaluation.registry import load_evaluator
from llamavae.experiments.fitted import NEAREST_ALONE, study_fitted
from llamavae.experiments.study import NEAREST, differences
from llamavae.metrics.retrieval import rank_of_truth, score_ranks
from llamavae.metrics.semantic import load_encoder

SEED, SAMPLES, RANKED = 0, 50, 500
CORPORA = {"WordNet definitions": "wordnet", "WorldTree explanations": "worldtree"}
_LIMIT, _WORDS = 1000, 16
_SHOWN = {
    "reconstruction": ("BLEU", "exact match", "token F1", "encoder cosine"),
    "likelihood": ("perplexity", "bits per byte", "IW-NLL", "NLL"),
    "latent_usage": ("active units", "KL"),
}
_TOLERANCE = 0.01
"""Relative difference that another machine's arithmetic may make."""


def measure_vae(vae: LlaMaVAE, sts: Path) -> dict[str, Any]:
    """Held-out measures of the VAE by corpus, STS, and what it writes from the prior.

    Args:
        vae: The model.
        sts: The development part of the STS benchmark.
    """
    found: dict[str, Any] = {"corpora": {}}
    for title, name in CORPORA.items():
        rows = load_corpus(name, "test", max_words=_WORDS, limit=_LIMIT, seed=SEED)
        data = EvaluationData(list(rows["text"]), seed=SEED)
        measured: list[dict[str, Any]] = []
        for kind, shown in _SHOWN.items():
            settings = {"samples": 50} if kind == "likelihood" else {}
            evaluation = load_evaluator(kind, **settings)(vae, data)
            measured += [
                row for row in evaluation.rows if row["metric"] in shown and not row["group"]
            ]
        found["corpora"][title] = measured
    data = EvaluationData(["a", "b"], seed=SEED)
    found["sts"] = load_evaluator("sts", files={"stsb": sts})(vae, data).rows
    found["samples"] = vae.sample(SAMPLES, "standard", seed=SEED)
    found["mixture samples"] = vae.sample(SAMPLES, "mixture", seed=SEED)
    return found


def measure_small(vae: LlaMaVAE, sts: Path) -> dict[str, Any]:
    """Held-out measures of `small` by corpus, with and without refined codes, and what it writes.

    The WorldTree sentences are test lines of the published split that no training line equals,
    whatever their case and white space.

    Args:
        vae: The model.
        sts: The development part of the STS benchmark.
    """
    found: dict[str, Any] = {"corpora": {}}
    texts: list[str] = []
    for title, name in CORPORA.items():
        texts = _unseen(name)
        data = EvaluationData(texts, seed=SEED, progress=True)
        rows: list[dict[str, Any]] = []
        for kind, shown, settings in (
            ("reconstruction", ("BLEU", "BLEU-1", "exact match", "encoder cosine"), {}),
            ("latent_usage", ("active units", "KL"), {}),
            ("amortisation", _REFINED, {"steps": (10, 20), "limit": _REFINED_LIMIT}),
        ):
            evaluation = load_evaluator(kind, **settings)(vae, data)
            groups = kind == "amortisation"
            rows += [
                row | ({"metric": f"{row['metric']}, {row['group']}"} if groups else {})
                for row in evaluation.rows
                if row["metric"] in shown and bool(row["group"]) == groups
            ]
        found["corpora"][title] = rows
    found["sts"] = load_evaluator("sts", files={"stsb": sts})(vae, EvaluationData(["a", "b"])).rows
    found["samples"] = vae.sample(SAMPLES, seed=SEED)
    found["standard samples"] = vae.sample(SAMPLES, "standard", seed=SEED)
    found["reconstructions"] = dict(zip(texts[:10], vae.reconstruct(texts[:10]), strict=True))
    return found


_REFINED = ("exact match", "BLEU", "exact match after noise", "code norm", "processor seconds")
_UNSEEN, _REFINED_LIMIT = 300, 100
"""Number of sentences of a corpus, and of those that are refined."""


def _unseen(name: str) -> list[str]:
    """Test sentences of a corpus that are not in its training set."""
    seen = {fold(text) for text in load_corpus(name, "train")["text"]}
    rows = load_corpus(name, "test", max_words=_WORDS if name == "wordnet" else None)
    texts = list(dict.fromkeys(text for text in rows["text"] if fold(text) not in seen))
    return sorted(random.Random(SEED).sample(texts, min(_UNSEEN, len(texts))))


def measure_definitions(
    cvae: InvertibleCVAE, context: str | None = None, mover: str | None = None
) -> dict[str, Any]:
    """Scores of definitions of held-out words of WordNet beside the nearest training definitions.

    Args:
        cvae: The model.
        context: Column with a sentence that contains the word, or None. With a column, words with
            such a sentence are defined in it, and others are excluded.
        mover: Encoder for MoverScore, or None.
    """
    splits = {
        split: load_corpus("wordnet-pairs", split, max_words=_WORDS)
        for split in ("train", "validation", "test")
    }
    model = None if mover is None else load_encoder(mover)
    study = study_fitted(cvae, splits, context=context, mover=model, seed=SEED)
    against = [NEAREST] if context is None else [NEAREST, NEAREST_ALONE]
    pairs = study.task.test
    z = cvae.vae.encode(pairs.texts[:RANKED]).mean
    ranks = rank_of_truth(cvae.scores(z, pairs.conditions), torch.arange(len(z)))
    rows, ranked = (
        [{k: v for k, v in row.items() if k != "items"} for row in found]
        for found in (study.rows, score_ranks(ranks, len(pairs)))
    )
    return {
        "scores": rows,
        "differences": [row for name in against for row in differences(study.rows, [name])],
        "ranks": ranked,
        "examples": [
            {"condition": study.task.conditions[i], "definition": pairs.texts[i]}
            | {system: texts[i] for system, texts in study.texts.items()}
            for i in range(20)
        ],
        "fit": cvae.report,
    }


def compare(before: Any, now: Any, place: str = "") -> Iterator[str]:
    """Where two results differ by more than the tolerance; texts must be the same."""
    if isinstance(before, dict) and isinstance(now, dict):
        for key in sorted(before.keys() | now.keys()):
            yield from compare(before.get(key), now.get(key), f"{place}/{key}")
    elif isinstance(before, list) and isinstance(now, list) and len(before) == len(now):
        for number, pair in enumerate(zip(before, now, strict=True)):
            yield from compare(*pair, f"{place}/{number}")
    elif isinstance(before, float) and isinstance(now, int | float):
        if abs(before - now) > _TOLERANCE * max(abs(before), 0.1):
            yield f"{place}: {before:g} on the card, {now:g} now"
    elif before != now:
        yield f"{place}: {before!r} on the card, {now!r} now"
