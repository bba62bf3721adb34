"""Metrics: functions of arrays and texts that do not depend on any model class."""

from __future__ import annotations

from typing import TYPE_CHECKING

from llamavae.lazy import lazy_names

if TYPE_CHECKING:
    from llamavae.metrics.bootstrap import bootstrap_interval, paired_bootstrap
    from llamavae.metrics.control import derangement
    from llamavae.metrics.correlation import pearson, spearman
    from llamavae.metrics.latent import (
        active_units,
        iso_score,
        mean_cosine,
        mutual_information,
        posterior_variance,
    )
    from llamavae.metrics.metric import Metric
    from llamavae.metrics.ngrams import (
        bleu_1,
        corpus_bleu,
        distinct_n,
        exact_match,
        rouge,
        self_bleu,
        token_f1,
    )
    from llamavae.metrics.semantic import bert_score, bleurt, encoder_cosine, mover_score

__all__ = [
    "Metric",
    "active_units",
    "bert_score",
    "bleu_1",
    "bleurt",
    "bootstrap_interval",
    "corpus_bleu",
    "derangement",
    "distinct_n",
    "encoder_cosine",
    "exact_match",
    "iso_score",
    "mean_cosine",
    "mover_score",
    "mutual_information",
    "paired_bootstrap",
    "pearson",
    "posterior_variance",
    "rouge",
    "self_bleu",
    "spearman",
    "token_f1",
]

__getattr__, __dir__ = lazy_names(
    __name__,
    {
        "llamavae.metrics.bootstrap": ["bootstrap_interval", "paired_bootstrap"],
        "llamavae.metrics.control": ["derangement"],
        "llamavae.metrics.correlation": ["pearson", "spearman"],
        "llamavae.metrics.latent": [
            "active_units",
            "iso_score",
            "mean_cosine",
            "mutual_information",
            "posterior_variance",
        ],
        "llamavae.metrics.metric": ["Metric"],
        "llamavae.metrics.ngrams": [
            "bleu_1",
            "distinct_n",
            "exact_match",
            "corpus_bleu",
            "rouge",
            "self_bleu",
            "token_f1",
        ],
        "llamavae.metrics.semantic": ["bert_score", "bleurt", "encoder_cosine", "mover_score"],
    },
)
