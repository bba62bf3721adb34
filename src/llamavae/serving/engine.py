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
from llamavae.serving.models import Facts, Models
from llamavae.serving.worker import Worker

P = ParamSpec("P")
R = TypeVar("R")
Arrange = Callable[[], Awaitable[None]]

logger = logging.getLogger("llamavae.serving")


class Engine:
    """The models of one or several workers, with a queue for texts and one for codes.

    Args:
        workers: Run functions of the models. The first one has the model of definitions.
        limits: Sizes of batches and of the queues.
        observe: Called with the number of items of each batch.
        arrange: What else must be done once the models of the first worker are loaded.

    Attributes:
        failure: Why the models could not be loaded.
        stop: Called after such a failure.
    """

    def __init__(
        self,
        workers: Sequence[Worker],
        limits: Limits,
        observe: Callable[[int], None] = lambda _: None,
        arrange: Arrange | None = None,
    ) -> None:
        self._workers, self.limits, self._arrange = workers, limits, arrange
        self._facts = [worker.facts for worker in workers]  # None while models are being loaded
        self.failure: Exception | None = None
        self.stop: Callable[[], None] = lambda: None
        self._running = 0
        self._starting: dict[int, asyncio.Task[None]] = {}
        indices, size, waiting = range(len(workers)), limits.batch, limits.waiting
        self._encoding: Batcher[str, tuple[Code, int]] = Batcher(
            [partial(self._encode, i) for i in indices],
            size,
            waiting,
            observe,
            available=self._available,
        )
        self._decoding: Batcher[tuple[Code | str, Generation], str] = Batcher(
            [partial(self._run, i, Models.decode) for i in indices],
            size,
            waiting,
            observe,
            ahead=2,
            available=self._available,
        )

    @property
    def facts(self) -> Facts | None:
        """What requests are checked against; None while no worker has loaded its models."""
        return next((facts for facts in self._facts if facts is not None), None)

    @property
    def stage(self) -> str:
        """What is being done while models are loaded, in words."""
        return next((worker.stage for worker in self._workers if worker.stage), "")

    @property
    def workers(self) -> int:
        """Number of workers that have loaded their models."""
        return sum(facts is not None for facts in self._facts)

    @property
    def waiting(self) -> int:
        """Number of texts and codes that wait for the model."""
        return len(self._encoding) + len(self._decoding) + self._running

    def start(self) -> None:
        """Load the models, in the background."""
        for index in range(len(self._workers)):
            self._restart(index)

    def _restart(self, index: int) -> None:
        if index not in self._starting or self._starting[index].done():
            self._starting[index] = asyncio.create_task(self._start(index))

    async def _start(self, index: int) -> None:
        begin = time.perf_counter()
        try:
            facts = await self._workers[index].start()
            if self._arrange is not None and index == 0:
                await self._arrange()
        except Exception as error:
            self.failure = error
            self.stop()
            return
        self._facts[index] = facts
        self._encoding.wake()
        self._decoding.wake()
        logger.info('{"status": "ready", "seconds": %.1f}', time.perf_counter() - begin)

    def _available(self, index: int) -> bool:
        """Whether a worker takes texts; if none does, all take them, and say why they fail."""
        return self.facts is None or self._facts[index] is not None

    def close(self) -> None:
        """Stop the workers after their current batches."""
        for task in self._starting.values():
            task.cancel()
        for worker in self._workers:
            worker.close()

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
        """A function of the models of the first worker.

        Raises:
            Busy: Too many functions are waiting.
        """
        if self._running >= self.limits.waiting:
            raise Busy
        self._running += 1
        try:
            return await self._run(0, function, *args, **options)
        finally:
            self._running -= 1

    async def _run(
        self,
        index: int,
        function: Callable[Concatenate[Models, P], R],
        *args: P.args,
        **options: P.kwargs,
    ) -> R:
        try:
            return await self._workers[index].run(function, *args, **options)
        except Unavailable as error:
            if self._facts[index] is not None:
                logger.error('{"status": "loading", "message": "%s and is started again"}', error)
                self._facts[index] = None
                self._restart(index)
            raise

    async def _encode(
        self, index: int, texts: list[Numbered[str]], gone: list[int]
    ) -> list[Result[tuple[Code, int]]]:
        return await self._run(index, Models.encode, texts, self.limits.batch)
