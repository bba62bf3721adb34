"""The model: encoder -> posterior -> injection -> decoder, one stage a file."""

from llamavae.modeling.configuration import LlaMaVAEConfig
from llamavae.modeling.decoder import TextDecoder
from llamavae.modeling.encoder import SentenceEncoder
from llamavae.modeling.injection import Injection, Steering
from llamavae.modeling.llamavae import LlaMaVAE, LlaMaVAEOutput
from llamavae.modeling.posterior import DiagonalGaussian, Posterior, kl_term

__all__ = [
    "DiagonalGaussian",
    "Injection",
    "LlaMaVAE",
    "LlaMaVAEConfig",
    "LlaMaVAEOutput",
    "Posterior",
    "SentenceEncoder",
    "Steering",
    "TextDecoder",
    "kl_term",
]
