"""Batching: items of requests that arrive together are computed together.

A batch starts whenever the model is free, with what has arrived by then, so a single request does
not wait for others, and many requests share the forward passes of the model. Items join a batch
that is being computed, and leave it when they are done, between two calls of the model. Several
workers share one queue.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Awaitable, Callable, Sequence
from itertools import count
from typing import Generic, TypeAlias, TypeVar

T = TypeVar("T")
R = TypeVar("R")
Advance: TypeAlias = Callable[
    [list[tuple[int, T]], list[int]], Awaitable[Sequence[tuple[int, R | Exception]]]
]


class Busy(Exception):
    """Too many items are waiting."""


class Unavailable(Exception):
    """What computes the items has ended."""


class Batcher(Generic[T, R]):
    """Computes single items of all requests together.

    Args:
        workers: For each worker, a function that takes new items, each with a number, and
            the numbers of items that are not needed any more; computes for a while and returns the
            results there are, each with its number. A result that is an exception is raised for its
            item alone.
        size: Maximum number of items that a worker computes at once.
        limit: Maximum number of waiting items.
        observe: Called with the number of items of each call with items.
        ahead: Number of calls to a worker that are made before the first has returned, so that what
            computes does not wait for this process.
        available: Whether the worker of an index takes new items; call `wake` when one starts to.
    """

    def __init__(
        self,
        workers: Sequence[Advance[T, R]],
        size: int,
        limit: int,
        observe: Callable[[int], None] = lambda _: None,
        ahead: int = 1,
        available: Callable[[int], bool] = lambda _: True,
    ) -> None:
        self.size, self.limit, self._available = size, limit, available
        self._numbers = count()
        self._waiting: deque[tuple[T, asyncio.Future[R]]] = deque()
        self._workers = [_Worker(advance, self._take, observe, ahead) for advance in workers]

    def __len__(self) -> int:
        """Number of waiting items."""
        return sum(not future.done() for _, future in self._waiting)

    def submit(self, items: Sequence[T]) -> list[asyncio.Future[R]]:
        """Add items; a future that is cancelled is not computed, or not to its end.

        Raises:
            Busy: They would exceed the limit. No item is added.
        """
        if len(self) + len(items) > self.limit:
            raise Busy
        loop = asyncio.get_running_loop()
        futures = [loop.create_future() for _ in items]
        self._waiting.extend(zip(items, futures, strict=True))
        self.wake()
        return futures

    async def __call__(self, items: Sequence[T]) -> list[R]:
        """The results of items, in order; cancelling the call cancels its items."""
        futures = self.submit(items)
        try:
            return [await future for future in futures]
        finally:
            for future in futures:
                future.cancel()

    def wake(self) -> None:
        """Let every worker take items, if any wait."""
        if self._waiting:
            for worker in self._workers:
                worker.wake()

    def _take(self, worker: _Worker[T, R]) -> list[tuple[int, T]]:
        """Let items that wait join those of a worker, up to its share of all items."""
        available = [one for i, one in enumerate(self._workers) if self._available(i)]
        if worker not in available:
            return []
        total = len(self) + sum(len(one.running) for one in available)
        share = min(self.size, -(-total // len(available)))
        new: list[tuple[int, T]] = []
        while self._waiting and len(worker.running) < share:
            item, future = self._waiting.popleft()
            if not future.done():
                number = next(self._numbers)
                worker.running[number] = future
                new.append((number, item))
        return new


class _Worker(Generic[T, R]):
    """The items that one worker computes."""

    def __init__(
        self,
        advance: Advance[T, R],
        take: Callable[[_Worker[T, R]], list[tuple[int, T]]],
        observe: Callable[[int], None],
        ahead: int,
    ) -> None:
        self._advance, self._take = advance, take
        self._observe, self._ahead = observe, ahead
        self.running: dict[int, asyncio.Future[R]] = {}
        self._failed: list[int] = []  # numbers that the next call is told
        self._task: asyncio.Task[None] | None = None

    def wake(self) -> None:
        """Compute until nothing is left."""
        if self._task is None or self._task.done():
            self._task = asyncio.get_running_loop().create_task(self._work())

    async def _work(self) -> None:
        calls: deque[asyncio.Task[None]] = deque()
        while True:
            while len(calls) < self._ahead:
                gone = self._leave()
                new = self._take(self)
                if not (new or gone or self.running):
                    break
                if self.running:
                    self._observe(len(self.running))
                call = self._call(new, gone, list(self.running))
                calls.append(asyncio.create_task(call))
            if not calls:
                return
            await calls.popleft()

    def _leave(self) -> list[int]:
        """Let items that are not needed any more leave; returns their numbers."""
        gone = [number for number, future in self.running.items() if future.done()]
        for number in gone:
            del self.running[number]
        failed, self._failed = self._failed, []
        return failed + gone

    async def _call(
        self, new: list[tuple[int, T]], gone: list[int], running: Sequence[int]
    ) -> None:
        try:
            results = await self._advance(new, gone)
        except Exception as error:  # of all that were running by then
            results = [(number, error) for number in running]
            self._failed += running
        for number, result in results:
            future = self.running.pop(number, None)
            if future is None or future.done():
                continue
            if isinstance(result, Exception):
                future.set_exception(result)
                future.exception()  # asyncio logs those that nobody asks for
            else:
                future.set_result(result)
