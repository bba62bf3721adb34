"""What the service asks of the models, with arguments and results that can cross processes."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from threading import Event, Thread
from typing import TYPE_CHECKING

from llamavae.errors import UserError
from llamavae.serving.decoding import Code, Decoding, Item, Numbered, Result, each

if TYPE_CHECKING:
    from torch import Tensor

    from llamavae.guidance import InvertibleCVAE
    from llamavae.modeling import LlaMaVAE


@dataclass(frozen=True)
class Facts:
    """What requests are checked against.

    Attributes:
        latent_dim: Size D of z.
        max_tokens: Maximum length in training.
        definitions: Whether there is a model of definitions.
    """

    latent_dim: int
    max_tokens: int
    definitions: bool


class Unprepared(Exception):
    """The words of a lookup are still being encoded."""


class Models:
    """A VAE, and optionally a model of definitions.

    Args:
        vae: The VAE.
        definitions: Model from words to codes of this VAE.

    Raises:
        UserError: The VAE has no sentence encoder.
    """

    def __init__(self, vae: LlaMaVAE, definitions: InvertibleCVAE | None = None) -> None:
        if vae.encoder is None:
            raise UserError("expected a model with a sentence encoder; this model has none")
        self.vae, self.cvae, self._encoder = vae, definitions, vae.encoder
        self._decoding = Decoding(vae)
        self._prepared: Event | None = None

    @property
    def facts(self) -> Facts:
        """What requests are checked against."""
        config = self.vae.config
        return Facts(config.latent_dim, config.max_tokens, self.cvae is not None)

    def encode(self, texts: Sequence[Numbered[str]], batch: int) -> list[Result[tuple[Code, int]]]:
        """The posterior mean (D,) of each text, and the number of its tokens."""
        import torch  # slow; the service starts this process before it needs torch itself

        @torch.inference_mode()
        def encode(texts: Sequence[str]) -> list[tuple[Code, int]]:
            counts = self._encoder.tokenize(texts)["attention_mask"].sum(1).tolist()
            means = _numbers(self.vae.encode(texts, batch_size=batch).mean)
            return list(zip(means, counts, strict=True))

        return each(encode, texts)

    def decode(self, new: Sequence[Numbered[Item]], gone: Sequence[int]) -> list[Result[str]]:
        """Decode for a while, see `Decoding.advance`."""
        return self._decoding.advance(new, gone)

    def sample(self, n: int, prior: str | None, spread: float, seed: int | None) -> Code:
        """Codes (n, D) drawn from a prior."""
        return _numbers(self.vae.sample_codes(n, prior, spread, seed))

    def define(self, word: str, n: int, spread: float, seed: int | None) -> Code:
        """Codes (n, D) of a condition, such as a word."""
        assert self.cvae is not None  # the caller checks `facts`
        return _numbers(self.cvae.sample_codes([word], n, spread, seed))

    def lookup(self, text: str, k: int) -> list[tuple[str, float]]:
        """The k words that match a definition best, with their log densities.

        Raises:
            Unprepared: The words are still being encoded.
        """
        assert self.cvae is not None
        if self._prepared is not None and not self._prepared.is_set():
            raise Unprepared
        vocabulary = self.cvae.vocabulary
        return [(vocabulary[i], density) for i, density in self.cvae.rank(text, None, k)]

    def prepare(self) -> None:
        """Encode the words that definitions are compared with, in a thread of its own."""
        cvae = self.cvae
        if cvae is None or not cvae.vocabulary or self._prepared is not None:
            return
        prepared = self._prepared = Event()

        def encode() -> None:
            from llamavae.guidance.pairs import cached_vectors

            try:
                cached_vectors(cvae.condition, cvae.vocabulary, progress=False)
            finally:
                prepared.set()  # after an error, the first lookup encodes them, or fails

        Thread(target=encode, name="llamavae-vocabulary", daemon=True).start()


def _numbers(z: Tensor) -> Code:
    return z.detach().float().cpu().numpy()
