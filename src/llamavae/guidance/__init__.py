"""Guiding a VAE: conditions that lead to points of its space, and priors to draw points from."""

from __future__ import annotations

from typing import TYPE_CHECKING

from llamavae.lazy import lazy_names

if TYPE_CHECKING:
    from llamavae.guidance.conditions import (
        Condition,
        EncoderCondition,
        LabelCondition,
        MatrixCondition,
        WordVectorCondition,
        load_condition,
    )
    from llamavae.guidance.cvae import InvertibleCVAE
    from llamavae.guidance.pairs import Pairs, make_pairs
    from llamavae.guidance.prior import Prior, aggregate_posterior, fit_prior, load_prior
    from llamavae.guidance.ranking import Ranking

__all__ = [
    "Condition",
    "EncoderCondition",
    "InvertibleCVAE",
    "LabelCondition",
    "MatrixCondition",
    "Pairs",
    "Prior",
    "Ranking",
    "WordVectorCondition",
    "aggregate_posterior",
    "fit_prior",
    "load_condition",
    "load_prior",
    "make_pairs",
]

__getattr__, __dir__ = lazy_names(
    __name__,
    {
        "llamavae.guidance.conditions": [
            "Condition",
            "EncoderCondition",
            "LabelCondition",
            "MatrixCondition",
            "WordVectorCondition",
            "load_condition",
        ],
        "llamavae.guidance.cvae": ["InvertibleCVAE"],
        "llamavae.guidance.pairs": ["Pairs", "make_pairs"],
        "llamavae.guidance.prior": [
            "Prior",
            "aggregate_posterior",
            "fit_prior",
            "load_prior",
        ],
        "llamavae.guidance.ranking": ["Ranking"],
    },
)
