"""Models behind queues: texts to codes and codes to texts, for many requests at once."""

from __future__ import annotations

import asyncio
import json
import logging
import time
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass
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
from llamavae.serving.worker import DIED, Worker

P = ParamSpec("P")
R = TypeVar("R")
Arrange = Callable[[], Awaitable[None]]

logger = logging.getLogger("llamavae.serving")


_CHECK = 1.0  # seconds between checks whether the workers are alive, and before a second restart
_MAX_PAUSE = 60.0  # seconds before a later one


@dataclass
class _Member:
    """A worker, and what the engine knows about it.

    Attributes:
        worker: The worker.
        ready: Whether it can run functions now.
        loaded: Whether it has been ready before.
        functions: Number of functions that it runs, besides encoding and decoding.
        starting: Loads its models.
    """

    worker: Worker
    ready: bool
    loaded: bool = False
    functions: int = 0
    starting: asyncio.Task[None] | None = None


class Engine:
    """The models of one or several workers, with a queue for texts and one for codes.

    A worker that dies is started again, while the others continue.

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
        self.limits, self._arrange = limits, arrange
        self._members = [_Member(worker, worker.facts is not None) for worker in workers]
        self._first, self._facts = self._members[0], workers[0].facts
        self.failure: Exception | None = None
        self.stop: Callable[[], None] = lambda: None
        self._watching: asyncio.Task[None] | None = None
        self._closed = False
        size, waiting = limits.batch, limits.waiting
        self._encoding: Batcher[str, tuple[Code, int]] = Batcher(
            [partial(self._encode, member) for member in self._members],
            size,
            waiting,
            observe,
            available=self._available,
        )
        self._decoding: Batcher[tuple[Code | str, Generation], str] = Batcher(
            [partial(self._run, member, Models.decode) for member in self._members],
            size,
            waiting,
            observe,
            ahead=2,
            available=self._available,
        )

    @property
    def facts(self) -> Facts | None:
        """What requests are checked against.

        None until the first worker is ready, and while no worker is.
        """
        return self._facts if self.workers else None

    @property
    def stage(self) -> str:
        """What is being done while models are loaded, in words."""
        return next((each.worker.stage for each in self._members if each.worker.stage), "")

    @property
    def workers(self) -> int:
        """Number of workers that are ready."""
        return len(self._ready)

    @property
    def _ready(self) -> list[_Member]:
        return [member for member in self._members if member.ready]

    @property
    def _functions(self) -> int:
        return sum(member.functions for member in self._members)

    @property
    def waiting(self) -> int:
        """Number of texts and codes that wait for the model."""
        return len(self._encoding) + len(self._decoding) + self._functions

    def start(self) -> None:
        """Load the models, in the background."""
        for member in self._members:
            member.starting = asyncio.create_task(self._load(member))
        self._watching = asyncio.create_task(self._watch())

    async def _load(self, member: _Member) -> None:
        begin, pause = time.perf_counter(), _CHECK
        while True:
            try:
                facts = await member.worker.start()
                if self._arrange is not None and member is self._first:
                    await self._arrange()
                break
            except Exception as error:
                if not member.loaded:
                    self.failure = error
                    self.stop()
                    return
                self._log("error", str(error))
                await asyncio.sleep(pause)
                pause = min(2 * pause, _MAX_PAUSE)
        if member is self._first:
            self._facts = facts
        member.loaded = member.ready = True
        self._wake()
        self._log("ready", seconds=round(time.perf_counter() - begin, 1))

    def _lost(self, member: _Member, why: str) -> None:
        """Start a worker again that was ready."""
        if member.ready and not self._closed:
            self._log("loading", f"{why} and is started again")
            member.ready = False
            member.starting = asyncio.create_task(self._load(member))

    async def _watch(self) -> None:
        while True:
            await asyncio.sleep(_CHECK)
            for member in self._members:
                if not member.worker.alive:
                    self._lost(member, DIED)

    def _log(self, status: str, message: str | None = None, **fields: float) -> None:
        line = {"status": status} | ({} if message is None else {"message": message}) | fields
        logger.log(logging.INFO if status == "ready" else logging.ERROR, json.dumps(line))

    def _wake(self) -> None:
        self._encoding.wake()
        self._decoding.wake()

    def _available(self, index: int) -> bool:
        """Whether a worker takes texts: it is ready, and runs no function if others do not."""
        member, free = self._members[index], [each for each in self._ready if not each.functions]
        return member.ready and (not member.functions or not free)

    def close(self) -> None:
        """Stop the workers, and what they run."""
        self._closed = True
        for task in (self._watching, *(member.starting for member in self._members)):
            if task is not None:
                task.cancel()
        for member in self._members:
            member.worker.close()

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
        """A function of the models of any worker.

        Raises:
            Busy: Too many functions are waiting.
        """
        member = min(self._ready or [self._first], key=lambda each: each.functions)
        return await self._function(member, function, *args, **options)

    async def run_first(
        self, function: Callable[Concatenate[Models, P], R], *args: P.args, **options: P.kwargs
    ) -> R:
        """A function of the models of the first worker, which has the model of definitions.

        Raises:
            Busy: Too many functions are waiting.
            Unavailable: The first worker is not ready.
        """
        if not self._first.ready:
            raise Unavailable(DIED)
        return await self._function(self._first, function, *args, **options)

    async def _function(
        self,
        member: _Member,
        function: Callable[Concatenate[Models, P], R],
        *args: P.args,
        **options: P.kwargs,
    ) -> R:
        if self._functions >= self.limits.waiting:
            raise Busy
        member.functions += 1
        try:
            return await self._run(member, function, *args, **options)
        finally:
            member.functions -= 1
            self._wake()

    async def _run(
        self,
        member: _Member,
        function: Callable[Concatenate[Models, P], R],
        *args: P.args,
        **options: P.kwargs,
    ) -> R:
        try:
            return await member.worker.run(function, *args, **options)
        except Unavailable as error:
            self._lost(member, str(error))
            raise

    async def _encode(
        self, member: _Member, texts: list[Numbered[str]], gone: list[int]
    ) -> list[Result[tuple[Code, int]]]:
        return await self._run(member, Models.encode, texts, self.limits.batch)
