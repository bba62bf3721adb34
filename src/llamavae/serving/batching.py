"""Micro-batching: items of requests that arrive together are computed in one call.

A batch is formed whenever the model is free, from what has arrived by then, so a single request
waits for nothing, and many requests share the forward passes of the model.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Awaitable, Callable, Sequence
from typing import Generic, TypeVar

T = TypeVar("T")
R = TypeVar("R")


class Busy(Exception):
    """Too many items are waiting."""


class Unavailable(Exception):
    """What computes the items has ended; no item by itself would be computed either."""


class Batcher(Generic[T, R]):
    """Computes a function of single items in batches of the items of all requests.

    Args:
        compute: Function of a list of items; returns one result for each.
        size: Maximum number of items per batch.
        limit: Maximum number of waiting items.
        observe: Called with the number of items of each batch.
    """

    def __init__(
        self,
        compute: Callable[[list[T]], Awaitable[Sequence[R]]],
        size: int,
        limit: int,
        observe: Callable[[int], None] = lambda _: None,
    ) -> None:
        self._compute, self._observe = compute, observe
        self.size, self.limit = size, limit
        self._waiting: deque[tuple[T, asyncio.Future[R]]] = deque()
        self._worker: asyncio.Task[None] | None = None

    def __len__(self) -> int:
        """Number of waiting items."""
        return sum(not future.done() for _, future in self._waiting)

    def submit(self, items: Sequence[T]) -> list[asyncio.Future[R]]:
        """Add items; a future that is cancelled before its batch starts is not computed.

        Raises:
            Busy: They would exceed the limit. No item is added.
        """
        if len(self) + len(items) > self.limit:
            raise Busy
        loop = asyncio.get_running_loop()
        futures = [loop.create_future() for _ in items]
        self._waiting.extend(zip(items, futures, strict=True))
        if self._waiting and (self._worker is None or self._worker.done()):
            self._worker = loop.create_task(self._work())
        return futures

    async def __call__(self, items: Sequence[T]) -> list[R]:
        """The results of items, in order; cancelling the call cancels its items."""
        futures = self.submit(items)
        try:
            return [await future for future in futures]
        finally:
            for future in futures:
                future.cancel()

    async def _work(self) -> None:
        while batch := self._take():
            self._observe(len(batch))
            await self._run(batch)

    def _take(self) -> list[tuple[T, asyncio.Future[R]]]:
        batch: list[tuple[T, asyncio.Future[R]]] = []
        while self._waiting and len(batch) < self.size:
            item, future = self._waiting.popleft()
            if not future.done():
                batch.append((item, future))
        return batch

    async def _run(self, batch: list[tuple[T, asyncio.Future[R]]]) -> None:
        """Compute a batch; if that fails, each item by itself, so that only the cause fails."""
        try:
            results = await self._compute([item for item, _ in batch])
        except Exception as error:
            if len(batch) > 1 and not isinstance(error, Unavailable):
                for item, future in batch:
                    if not future.done():
                        await self._run([(item, future)])
                return
            for _, future in batch:
                if not future.done():
                    future.set_exception(error)
                    future.exception()  # asyncio logs those that nobody asks for
            return
        for (_, future), result in zip(batch, results, strict=True):
            if not future.done():
                future.set_result(result)
