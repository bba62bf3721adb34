"""The model: encoder -> posterior -> injection -> decoder, one stage per file."""

from __future__ import annotations

from typing import TYPE_CHECKING

from llamavae.lazy import lazy_names

if TYPE_CHECKING:
    from llamavae.modeling.configuration import LlaMaVAEConfig
    from llamavae.modeling.decoder import TextDecoder
    from llamavae.modeling.encoder import SentenceEncoder, TransformersEncoder
    from llamavae.modeling.injection import Injection, Steering
    from llamavae.modeling.llamavae import LlaMaVAE, LlaMaVAEOutput
    from llamavae.modeling.posterior import DiagonalGaussian, Posterior, kl_term
    from llamavae.modeling.prior import FlowPrior, MixturePrior, Prior, StandardPrior, load_prior
    from llamavae.modeling.refine import Refinement, aggregate

__all__ = [
    "DiagonalGaussian",
    "FlowPrior",
    "Injection",
    "LlaMaVAE",
    "LlaMaVAEConfig",
    "LlaMaVAEOutput",
    "MixturePrior",
    "Posterior",
    "Prior",
    "Refinement",
    "SentenceEncoder",
    "StandardPrior",
    "Steering",
    "TextDecoder",
    "TransformersEncoder",
    "aggregate",
    "kl_term",
    "load_prior",
]

__getattr__, __dir__ = lazy_names(
    __name__,
    {
        "llamavae.modeling.configuration": ["LlaMaVAEConfig"],
        "llamavae.modeling.decoder": ["TextDecoder"],
        "llamavae.modeling.encoder": ["SentenceEncoder", "TransformersEncoder"],
        "llamavae.modeling.injection": ["Injection", "Steering"],
        "llamavae.modeling.llamavae": ["LlaMaVAE", "LlaMaVAEOutput"],
        "llamavae.modeling.posterior": ["DiagonalGaussian", "Posterior", "kl_term"],
        "llamavae.modeling.prior": [
            "FlowPrior",
            "MixturePrior",
            "Prior",
            "StandardPrior",
            "load_prior",
        ],
        "llamavae.modeling.refine": ["Refinement", "aggregate"],
    },
)
