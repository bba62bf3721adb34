"""Batches: every item gets its own result, whatever arrives, fails or is cancelled."""

from __future__ import annotations

import asyncio
import gc
import threading
from collections.abc import Callable, Coroutine, Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest

from llamavae.serving.batching import Batcher, Busy, Unavailable

Make = Callable[..., Batcher[Any, Any]]


@pytest.fixture
def make() -> Iterator[Make]:
    """Makes batchers of functions that run in a thread."""
    with ThreadPoolExecutor(1) as executor:

        def batcher(function: Any, size: int = 4, limit: int = 1000, **options: Any) -> Any:
            def compute(items: list[Any]) -> Any:
                return asyncio.get_running_loop().run_in_executor(executor, function, items)

            return Batcher(compute, size, limit, **options)

        yield batcher


def run(work: Coroutine[Any, Any, Any]) -> Any:
    return asyncio.run(work)


def test_every_request_gets_its_own_results(make):
    async def main() -> list[list[int]]:
        batcher = make(lambda items: [x * x for x in items], size=7)
        requests = [batcher(list(range(n, 2 * n))) for n in range(20)]
        return await asyncio.gather(*requests)

    assert run(main()) == [[x * x for x in range(n, 2 * n)] for n in range(20)]


def test_requests_that_arrive_together_share_batches(make):
    sizes: list[int] = []

    async def main() -> None:
        batcher = make(list, size=8, observe=sizes.append)
        await asyncio.gather(*(batcher([i]) for i in range(16)))

    run(main())
    assert sizes == [8, 8]


def test_an_item_that_fails_fails_alone(make):
    def inverse(items: list[float]) -> list[float]:
        return [1 / x for x in items]

    async def main() -> list[Any]:
        batcher = make(inverse)
        return await asyncio.gather(*(batcher([x]) for x in (1, 0, 4)), return_exceptions=True)

    first, second, third = run(main())
    assert (first, third) == ([1.0], [0.25])
    assert isinstance(second, ZeroDivisionError)


def test_items_that_are_cancelled_meanwhile_are_not_tried_again():
    tried: list[int] = []

    async def main() -> None:
        async def compute(items: list[int]) -> list[int]:
            tried.extend(items)
            if len(items) > 1:
                second.cancel()
                raise ValueError
            return items

        batcher = Batcher(compute, 4, 10)
        first, second, third = batcher.submit([1, 2, 3])
        assert await asyncio.gather(first, third) == [1, 3]

    run(main())
    assert tried == [1, 2, 3, 1, 3]


def test_errors_that_nobody_waits_for_are_not_logged(make, caplog):
    def end(_: list[int]) -> list[int]:
        raise Unavailable

    async def main() -> None:
        with pytest.raises(Unavailable):
            await make(end)([1, 2, 3])

    run(main())
    gc.collect()
    assert not caplog.records


def test_nothing_is_tried_again_without_the_model(make):
    sizes: list[int] = []

    def end(items: list[int]) -> list[int]:
        sizes.append(len(items))
        raise Unavailable

    async def main() -> list[Any]:
        batcher = make(end)
        return await asyncio.gather(*(batcher([x]) for x in range(3)), return_exceptions=True)

    assert all(isinstance(each, Unavailable) for each in run(main()))
    assert sizes == [3]


def test_more_than_the_limit_is_refused_whole(make):
    release = threading.Event()

    def wait(items: list[int]) -> list[int]:
        release.wait(10)
        return items

    async def main() -> None:
        batcher = make(wait, size=1, limit=3)
        running = asyncio.ensure_future(batcher([0]))
        await asyncio.sleep(0.05)  # it is being computed, and no longer waits
        waiting = asyncio.ensure_future(batcher([1, 2]))
        await asyncio.sleep(0)
        with pytest.raises(Busy):
            await batcher([3, 4])
        assert len(batcher) == 2
        release.set()
        assert await running == [0]
        assert await waiting == [1, 2]
        assert await batcher([5, 6, 7]) == [5, 6, 7]

    run(main())


def test_cancelled_items_are_not_computed(make):
    release, computed = threading.Event(), []

    def wait(items: list[int]) -> list[int]:
        release.wait(10)
        computed.extend(items)
        return items

    async def main() -> None:
        batcher = make(wait, size=1)
        running = asyncio.ensure_future(batcher([0]))
        await asyncio.sleep(0.05)
        cancelled = asyncio.ensure_future(batcher([1, 2]))
        after = asyncio.ensure_future(batcher([3]))
        await asyncio.sleep(0)
        cancelled.cancel()
        release.set()
        assert await running == [0]
        assert await after == [3]

    run(main())
    assert computed == [0, 3]
