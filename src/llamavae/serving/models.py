"""What the service asks of the models, with arguments and results that can cross processes."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from threading import Event, Thread
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from llamavae.errors import UserError

if TYPE_CHECKING:
    from torch import Tensor

    from llamavae.guidance import InvertibleCVAE
    from llamavae.modeling import LlaMaVAE

Code = NDArray[np.float32]


@dataclass(frozen=True)
class Generation:
    """Options of generation. Codes with the same options are decoded in one batch.

    Attributes:
        temperature: Sampling temperature of tokens; 0 decodes greedily.
        top_p: Nucleus sampling.
        max_new_tokens: Maximum number of tokens; None is the maximum length in training.
        seed: Seed of the first code of the request; the i-th code after it has seed + i.
    """

    temperature: float = 0.0
    top_p: float = 1.0
    max_new_tokens: int | None = None
    seed: int | None = None

    @property
    def sampled(self) -> bool:
        """Whether tokens are sampled."""
        return self.temperature > 0

    def of(self, index: int) -> Generation:
        """The options of the code at an index of the request."""
        if self.sampled and self.seed is not None:
            return replace(self, seed=self.seed + index)
        return replace(self, seed=None)

    def arguments(self) -> dict[str, Any]:
        """Arguments of `LlaMaVAE.decode`."""
        sampling = {"do_sample": True, "temperature": self.temperature, "top_p": self.top_p}
        tokens = {"max_new_tokens": self.max_new_tokens}
        return (sampling if self.sampled else {}) | (tokens if self.max_new_tokens else {})


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
        self._prepared: Event | None = None

    @property
    def facts(self) -> Facts:
        """What requests are checked against."""
        config = self.vae.config
        return Facts(config.latent_dim, config.max_tokens, self.cvae is not None)

    def encode(self, texts: Sequence[str], batch: int) -> list[tuple[Code, int]]:
        """The posterior mean (D,) of each text, and the number of its tokens."""
        counts = self._encoder.tokenize(texts)["attention_mask"].sum(1).tolist()
        return list(zip(self._means(texts, batch), counts, strict=True))

    def _means(self, texts: Sequence[str], batch: int) -> Code:
        import torch  # slow; the service starts this process before it needs torch itself

        with torch.inference_mode():
            return _numbers(self.vae.encode(texts, batch_size=batch).mean)

    def decode(self, items: Sequence[tuple[Code | str, Generation]], batch: int) -> list[str]:
        """Texts at codes, or at the posterior means of texts.

        Those decoded greedily are decoded together, and sampled ones by themselves.
        """
        import torch

        given = [place for place, _ in items if isinstance(place, str)]
        means = iter(self._means(given, batch) if given else ())
        codes = [next(means) if isinstance(place, str) else place for place, _ in items]
        texts = [""] * len(items)
        groups: dict[Any, list[int]] = {}
        for i, (_, how) in enumerate(items):
            groups.setdefault((how, i if how.sampled else None), []).append(i)
        for (how, _), rows in groups.items():
            if how.sampled:  # without a seed, not what follows from the seed of another request
                torch.seed() if how.seed is None else torch.manual_seed(how.seed)
            z = torch.from_numpy(np.stack([codes[i] for i in rows]))
            for i, text in zip(rows, self.vae.decode(z, **how.arguments()), strict=True):
                texts[i] = text
        return texts

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
