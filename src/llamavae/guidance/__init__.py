"""Guided generation: flows that map conditions to latent codes of a VAE."""

from __future__ import annotations

from typing import TYPE_CHECKING

from llamavae.lazy import lazy_names

if TYPE_CHECKING:
    from llamavae.guidance.conditions import (
        Condition,
        EncoderCondition,
        LabelCondition,
        VectorCondition,
        WordVectorCondition,
        load_condition,
    )
    from llamavae.guidance.cvae import InvertibleCVAE
    from llamavae.guidance.pairs import Pairs, make_pairs
    from llamavae.guidance.ranking import Ranking

__all__ = [
    "Condition",
    "EncoderCondition",
    "InvertibleCVAE",
    "LabelCondition",
    "Pairs",
    "Ranking",
    "VectorCondition",
    "WordVectorCondition",
    "load_condition",
    "make_pairs",
]

__getattr__, __dir__ = lazy_names(
    __name__,
    {
        "llamavae.guidance.conditions": [
            "Condition",
            "EncoderCondition",
            "LabelCondition",
            "VectorCondition",
            "WordVectorCondition",
            "load_condition",
        ],
        "llamavae.guidance.cvae": ["InvertibleCVAE"],
        "llamavae.guidance.pairs": ["Pairs", "make_pairs"],
        "llamavae.guidance.ranking": ["Ranking"],
    },
)
