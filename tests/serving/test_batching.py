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
from llamavae.serving.decoding import each

Make = Callable[..., Batcher[Any, Any]]


@pytest.fixture
def make() -> Iterator[Make]:
    """Makes batchers of functions that run in a thread."""
    with ThreadPoolExecutor(1) as executor:

        def batcher(function: Any, size: int = 4, limit: int = 1000, **options: Any) -> Any:
            def compute(new: list[tuple[int, Any]]) -> list[tuple[int, Any]]:
                return each(function, new)

            async def advance(new: list[tuple[int, Any]], _: list[int]) -> list[tuple[int, Any]]:
                return await asyncio.get_running_loop().run_in_executor(executor, compute, new)

            return Batcher([advance], size, limit, **options)

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


class Steps:
    """Computes numbers of steps: each call makes one step of all items.

    Attributes:
        calls: For each call, the numbers of steps that are left of each item, by its number.
    """

    def __init__(self, seconds: float = 0.0) -> None:
        self.seconds, self.left = seconds, dict[int, int]()
        self.calls: list[dict[int, int]] = []

    async def __call__(self, new: list[tuple[int, int]], gone: list[int]) -> list[tuple[int, str]]:
        self.left |= dict(new)
        for number in gone:
            del self.left[number]
        self.calls.append(dict(self.left))
        await asyncio.sleep(self.seconds)
        ended = [number for number, left in self.left.items() if left <= 1]
        self.left = {n: left - 1 for n, left in self.left.items() if n not in ended}
        return [(number, f"text {number}") for number in ended]


@pytest.mark.parametrize("ahead", [1, 2])
def test_items_join_and_leave_while_others_are_computed(ahead):
    steps = Steps()

    async def main() -> list[list[str]]:
        batcher: Batcher[int, str] = Batcher([steps], 3, 100, ahead=ahead)
        return await asyncio.gather(*(batcher([n]) for n in (5, 1, 2, 4, 1)))

    assert run(main()) == [[f"text {n}"] for n in range(5)]
    first = {1: [{0, 1, 2}, {0, 2, 3}], 2: [{0, 1, 2}, {0, 1, 2}]}  # made before the results
    assert [set(call) for call in steps.calls[:2]] == first[ahead]
    assert max(map(len, steps.calls)) == 3
    assert len([call for call in steps.calls if call]) <= 5 + ahead


def test_two_workers_share_the_items():
    workers = [Steps(0.01), Steps(0.01)]

    async def main() -> list[str]:
        batcher: Batcher[int, str] = Batcher(workers, 8, 100, ahead=2)
        early = batcher.submit([100, 100])
        await asyncio.sleep(0.03)
        assert [len(worker.left) for worker in workers] == [1, 1]
        early[0].cancel()  # so the first worker has fewer items than the second one
        later = batcher.submit([10] * 7)
        await asyncio.sleep(0.03)
        assert [len(worker.left) for worker in workers] == [4, 4]
        early[1].cancel()
        return [await text for text in later]

    found = run(main())
    assert len(set(found)) == 7
    assert not any(worker.left for worker in workers)


def test_a_worker_that_is_not_available_takes_no_items():
    workers = [Steps(), Steps()]
    available = {0}

    async def main() -> int:
        batcher: Batcher[int, str] = Batcher(
            workers, 2, 100, available=lambda index: index in available
        )
        await batcher([1, 1, 1])
        assert not workers[1].calls
        available.clear()
        waiting = batcher.submit([1, 1])
        await asyncio.sleep(0.01)
        assert not any(one.done() for one in waiting)
        available.add(1)
        batcher.wake()
        await asyncio.gather(*waiting)
        return sum(map(len, workers[1].calls))

    assert run(main()) == 2


def test_items_that_are_cancelled_leave_while_others_are_computed():
    steps = Steps(0.01)

    async def main() -> list[str]:
        batcher: Batcher[int, str] = Batcher([steps], 4, 100, ahead=2)
        long, cancelled = batcher.submit([20, 1000])
        await asyncio.sleep(0.05)
        cancelled.cancel()
        [after] = batcher.submit([2])
        return [await long, await after]

    assert run(main()) == ["text 0", "text 2"]
    assert len(steps.calls) < 40
    assert not steps.left


def test_an_error_of_the_call_fails_what_is_computed_and_nothing_after_it():
    failing = iter([False, True, False, False])

    async def advance(new: list[tuple[int, int]], _: list[int]) -> list[tuple[int, int]]:
        if next(failing):
            raise Unavailable
        return [(number, item) for number, item in new if item]

    async def main() -> list[Any]:
        batcher: Batcher[int, int] = Batcher([advance], 4, 100)
        found = await asyncio.gather(batcher([1]), batcher([0]), return_exceptions=True)
        return [*found, await batcher([3])]

    first, second, third = run(main())
    assert (first, third) == ([1], [3])
    assert isinstance(second, Unavailable)


def test_an_error_of_one_of_two_calls_leaves_the_items_of_the_other_alone():
    told: list[list[int]] = []

    async def advance(new: list[tuple[int, str]], gone: list[int]) -> list[tuple[int, str]]:
        told.append(gone)
        call = len(told)
        await asyncio.sleep(0.05 if call == 2 else 0.01)
        if call == 2:
            raise ValueError
        return [(number, item) for number, item in new if item != "long"]

    async def main() -> Any:
        batcher: Batcher[str, str] = Batcher([advance], 4, 100, ahead=2)
        first = asyncio.ensure_future(batcher(["long"]))  # in the first and in the second call
        await asyncio.sleep(0)
        await asyncio.sleep(0)
        second = asyncio.ensure_future(batcher(["short"]))  # in the third one
        found = await asyncio.gather(first, second, return_exceptions=True)
        return [*found, await batcher(["later"])]

    first, second, third = run(main())
    assert isinstance(first, ValueError)
    assert (second, third) == (["short"], ["later"])
    assert told[:2] == [[], []]
    assert [0] in told  # the model need not go on with it


def test_errors_that_nobody_waits_for_are_not_logged(make, caplog):
    def end(_: list[int]) -> list[int]:
        raise Unavailable

    async def main() -> None:
        with pytest.raises(Unavailable):
            await make(end)([1, 2, 3])

    run(main())
    gc.collect()
    assert not caplog.records


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
