"""A model behind queues: texts to codes and codes to texts, for many requests at once."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from functools import partial
from threading import Event, Thread
from typing import Any, TypeVar

import torch
from torch import Tensor

from llamavae.guidance import InvertibleCVAE
from llamavae.guidance.pairs import cached_vectors
from llamavae.latent.paths import as_codes
from llamavae.modeling import LlaMaVAE
from llamavae.serving.batching import Batcher, Busy
from llamavae.serving.limits import Limits

R = TypeVar("R")


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


class Engine:
    """A VAE, and optionally a model of definitions, used by one thread.

    Args:
        model: The VAE.
        definitions: Model from words to codes of this VAE.
        limits: Sizes of batches and of the queues.
        observe: Called with the number of items of each batch.
    """

    def __init__(
        self,
        model: LlaMaVAE,
        definitions: InvertibleCVAE | None = None,
        limits: Limits | None = None,
        observe: Callable[[int], None] = lambda _: None,
    ) -> None:
        self.model, self.definitions, self.limits = model, definitions, limits or Limits()
        self._running, self._prepared = 0, Event()
        self._executor = ThreadPoolExecutor(1, "llamavae-model")
        size, waiting = self.limits.batch, self.limits.waiting
        self._encoding = Batcher(self._encode, self._executor, size, waiting, observe)
        self._decoding = Batcher(self._decode, self._executor, size, waiting, observe)

    @property
    def waiting(self) -> int:
        """Number of texts and codes that wait for the model."""
        return len(self._encoding) + len(self._decoding) + self._running

    def prepare(self) -> None:
        """Encode the words that definitions are compared with, in a thread of its own."""
        cvae = self.definitions
        if cvae is None or not cvae.vocabulary:
            self._prepared.set()
            return

        def encode() -> None:
            try:
                cached_vectors(cvae.condition, cvae.vocabulary, progress=False)
            finally:
                self._prepared.set()  # after an error, the first lookup encodes them, or fails

        Thread(target=encode, name="llamavae-vocabulary", daemon=True).start()

    @property
    def prepared(self) -> bool:
        """Whether these words are encoded."""
        return self._prepared.is_set()

    def close(self) -> None:
        """Stop the thread after its current batch."""
        self._executor.shutdown(cancel_futures=True)

    async def encode(self, texts: Sequence[str]) -> Tensor:
        """Posterior means (B, D) of texts."""
        if not texts:
            return torch.empty(0, self.model.config.latent_dim)
        return torch.stack(await self._encoding(texts))

    async def codes(self, places: Sequence[str | Sequence[float]]) -> Tensor:
        """Codes (B, D) of texts, which are encoded, and of codes."""
        size = self.model.config.latent_dim
        encoded = iter(await self.encode([one for one in places if isinstance(one, str)]))
        codes = [
            next(encoded) if isinstance(one, str) else as_codes(one, size)[0] for one in places
        ]
        return torch.stack(codes)

    def decode(self, z: Tensor, generation: Generation) -> list[asyncio.Future[str]]:
        """The text of each code (B, D), as soon as its batch is done."""
        return self._decoding.submit([(code, generation.of(i)) for i, code in enumerate(z)])

    async def run(self, function: Callable[..., R], *arguments: Any, **options: Any) -> R:
        """A function that uses the model, in the model's thread.

        Raises:
            Busy: Too many functions are waiting.
        """
        if self._running >= self.limits.waiting:
            raise Busy
        self._running += 1
        try:
            call = partial(function, *arguments, **options)
            return await asyncio.get_running_loop().run_in_executor(self._executor, call)
        finally:
            self._running -= 1

    def _encode(self, texts: list[str]) -> list[Tensor]:
        with torch.inference_mode():
            means = self.model.encode(texts, batch_size=self.limits.batch).mean
        return list(means.float().cpu())

    def _decode(self, items: list[tuple[Tensor, Generation]]) -> list[str]:
        """Texts of codes: those decoded greedily together, and sampled ones by themselves."""
        texts = [""] * len(items)
        groups: dict[Any, list[int]] = {}
        for i, (_, how) in enumerate(items):
            groups.setdefault((how, i if how.sampled else None), []).append(i)
        for (how, _), rows in groups.items():
            if how.sampled and how.seed is not None:
                torch.manual_seed(how.seed)
            z = torch.stack([items[i][0] for i in rows])
            for i, text in zip(rows, self.model.decode(z, **how.arguments()), strict=True):
                texts[i] = text
        return texts
