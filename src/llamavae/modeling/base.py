"""The interface of `LlaMaVAE`, for modules that it imports."""

from __future__ import annotations

from typing import Any

from transformers import PreTrainedModel

from llamavae.modeling.configuration import LlaMaVAEConfig
from llamavae.modeling.decoder import TextDecoder
from llamavae.modeling.encoder import SentenceEncoder
from llamavae.modeling.injection import Injection, Steering
from llamavae.modeling.posterior import DiagonalGaussian, Posterior


class SentenceVAE(PreTrainedModel):
    """A sentence VAE of encoder, posterior, injection and decoder; the base of `LlaMaVAE`.

    Attributes:
        config: Its settings.
        encoder: The sentence encoder; None for a model of precomputed sentence vectors.
        posterior: The map from sentence vector to q(z|x).
        injection: The map from z to what steers the decoder.
        decoder: The causal language model.
        default_prior: The prior of `sample`, see `llamavae.modeling.prior`; None is N(0, I).
        card: Markdown that is saved as the checkpoint's README.md.
        trained_names: Names of the weights that a checkpoint holds.
    """

    config: LlaMaVAEConfig
    encoder: SentenceEncoder | None
    posterior: Posterior
    injection: Injection
    decoder: TextDecoder
    default_prior: Any
    card: str | None
    trained_names: list[str]

    def encode(self, texts: Any, batch_size: int = 64, *, refine: Any = 0) -> DiagonalGaussian:
        """The posterior q(z|x) of N texts."""
        raise NotImplementedError

    def steering(self, z: Any) -> Steering:
        """The inputs of the decoder that depend on z (B, D)."""
        raise NotImplementedError
