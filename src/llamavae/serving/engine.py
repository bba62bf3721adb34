"""Models behind queues: texts to codes and codes to texts, for many requests at once."""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Awaitable, Callable, Sequence
from functools import partial
from typing import Concatenate, ParamSpec, TypeVar

import numpy as np
import torch
from torch import Tensor

from llamavae.latent.paths import as_codes
from llamavae.serving.batching import Batcher, Busy, Unavailable
from llamavae.serving.decoding import Code, Generation, Numbered, Result
from llamavae.serving.limits import Limits
from llamavae.serving.models import Models
from llamavae.serving.worker import Worker

P = ParamSpec("P")
R = TypeVar("R")
Arrange = Callable[[], Awaitable[None]]

logger = logging.getLogger("llamavae.serving")


class Engine:
    """The models of a worker, with a queue for texts and one for codes.

    Args:
        worker: Runs functions of the models.
        limits: Sizes of batches and of the queues.
        observe: Called with the number of items of each batch.
        arrange: What else must be done once the models are loaded.

    Attributes:
        facts: What requests are checked against; None while the models are being loaded.
        failure: Why they could not be loaded.
        stop: Called after such a failure.
    """

    def __init__(
        self,
        worker: Worker,
        limits: Limits,
        observe: Callable[[int], None] = lambda _: None,
        arrange: Arrange | None = None,
    ) -> None:
        self.worker, self.limits, self._arrange = worker, limits, arrange
        self.facts = worker.facts
        self.failure: Exception | None = None
        self.stop: Callable[[], None] = lambda: None
        self._running = 0
        self._starting: asyncio.Task[None] | None = None
        size, waiting = limits.batch, limits.waiting
        self._encoding: Batcher[str, tuple[Code, int]] = Batcher(
            self._encode, size, waiting, observe
        )
        self._decoding: Batcher[tuple[Code | str, Generation], str] = Batcher(
            partial(self._run, Models.decode), size, waiting, observe, ahead=2
        )

    @property
    def waiting(self) -> int:
        """Number of texts and codes that wait for the model."""
        return len(self._encoding) + len(self._decoding) + self._running

    def start(self) -> asyncio.Task[None]:
        """Load the models, in the background."""
        if self._starting is None or self._starting.done():
            self._starting = asyncio.create_task(self._start())
        return self._starting

    async def _start(self) -> None:
        begin = time.perf_counter()
        try:
            facts = await self.worker.start()
            if self._arrange is not None:
                await self._arrange()
        except Exception as error:
            self.failure = error
            self.stop()
            return
        self.facts = facts
        logger.info('{"status": "ready", "seconds": %.1f}', time.perf_counter() - begin)

    def close(self) -> None:
        """Stop the worker after its current batch."""
        if self._starting is not None:
            self._starting.cancel()
        self.worker.close()

    async def encode(self, texts: Sequence[str]) -> tuple[Tensor, int]:
        """Posterior means (B, D) of texts, and the number of their tokens."""
        found = await self._encoding(texts)
        return torch.from_numpy(np.stack([z for z, _ in found])), sum(n for _, n in found)

    async def codes(self, places: Sequence[str | Sequence[float]]) -> Tensor:
        """Codes (B, D) of texts, which are encoded, and of codes."""
        assert self.facts is not None
        size = self.facts.latent_dim
        texts = [one for one in places if isinstance(one, str)]
        encoded = iter((await self.encode(texts))[0] if texts else ())
        codes = [
            next(encoded) if isinstance(one, str) else as_codes(one, size)[0] for one in places
        ]
        return torch.stack(codes)

    def decode(self, places: Tensor | Sequence[str], how: Generation) -> list[asyncio.Future[str]]:
        """The text at each code (B, D), or the reconstruction of each text, when it has ended."""
        items = [
            (one if isinstance(one, str) else one.float().numpy(), how.of(i))
            for i, one in enumerate(places)
        ]
        return self._decoding.submit(items)

    async def run(
        self, function: Callable[Concatenate[Models, P], R], *args: P.args, **options: P.kwargs
    ) -> R:
        """A function of the models.

        Raises:
            Busy: Too many functions are waiting.
        """
        if self._running >= self.limits.waiting:
            raise Busy
        self._running += 1
        try:
            return await self._run(function, *args, **options)
        finally:
            self._running -= 1

    async def _run(
        self, function: Callable[Concatenate[Models, P], R], *args: P.args, **options: P.kwargs
    ) -> R:
        try:
            return await self.worker.run(function, *args, **options)
        except Unavailable as error:
            if self.facts is not None:
                logger.error('{"status": "loading", "message": "%s and is started again"}', error)
                self.facts = None
                self.start()
            raise

    async def _encode(
        self, texts: list[Numbered[str]], gone: list[int]
    ) -> list[Result[tuple[Code, int]]]:
        return await self._run(Models.encode, texts, self.limits.batch)
