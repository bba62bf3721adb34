"""Where the models run: in a thread of this process, or in a process of their own.

The HTTP service needs an interpreter for itself: Python runs one thread at a time, and a small
model spends much of its time in Python.
"""

from __future__ import annotations

import asyncio
import os
import signal
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ProcessPoolExecutor, ThreadPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from contextlib import contextmanager
from multiprocessing import active_children, connection, get_context, parent_process
from threading import RLock, Thread
from typing import TYPE_CHECKING, Any, Concatenate, ParamSpec, Protocol, TypeVar

from tqdm import tqdm

from llamavae.serving.batching import Unavailable
from llamavae.serving.decoding import portable
from llamavae.serving.models import Facts, Models

if TYPE_CHECKING:
    from llamavae.modeling import LlaMaVAE

P = ParamSpec("P")
R = TypeVar("R")
Say = Callable[[str], None]
Load = Callable[[Say], Models]

_STAGE = 200  # bytes
_SMALL = 20_000_000  # parameters of a decoder
DIED = "the process of the model has ended"
_SIGNALS = (signal.SIGINT, signal.SIGTERM)


class Worker(Protocol):
    """Runs functions of the models, one at a time."""

    @property
    def facts(self) -> Facts | None:
        """The facts of the models, if they are loaded before it starts."""
        ...

    @property
    def stage(self) -> str:
        """What it is doing, in words."""
        ...

    @property
    def alive(self) -> bool:
        """Whether it can run functions, now or once it has started."""
        ...

    async def start(self) -> Facts:
        """Load the models."""
        ...

    async def run(
        self, function: Callable[Concatenate[Models, P], R], *args: P.args, **options: P.kwargs
    ) -> R:
        """The result of a function of the models.

        Raises:
            Unavailable: The process of the models has ended; it can be started again.
        """
        ...

    def close(self) -> None:
        """Stop, after which nothing runs."""
        ...


class ThreadWorker:
    """Models in a thread of this process.

    Args:
        models: The models.
    """

    stage, alive = "", True

    def __init__(self, models: Models) -> None:
        self._models = models
        self._executor = ThreadPoolExecutor(1, "llamavae-model")

    @property
    def facts(self) -> Facts:
        """The facts of the models."""
        return self._models.facts

    async def start(self) -> Facts:
        """The models are loaded."""
        self._models.prepare()
        return self._models.facts

    async def run(
        self, function: Callable[Concatenate[Models, P], R], *args: P.args, **options: P.kwargs
    ) -> R:
        """The result of a function of the models."""
        task = self._executor.submit(function, self._models, *args, **options)
        return await asyncio.wrap_future(task)

    def close(self) -> None:
        """Stop the thread after its current function."""
        self._executor.shutdown(cancel_futures=True)


class ProcessWorker:
    """Models in a process of their own, which begins to load them at once.

    `start` waits until they are loaded; after the process has died, it starts another one.
    Functions, their arguments and their results are pickled for the way between the processes.

    Args:
        load: Loads the models; it is called in the process, with a function that takes what is
            being done in words.
        workers: Number of such processes, which share the cores.
    """

    facts = None

    def __init__(self, load: Load, workers: int = 1) -> None:
        self._load, self._workers = load, workers
        self._context = get_context("spawn")
        # without a lock, which a process that is killed could keep
        self._stage: Any = self._context.Array("c", _STAGE, lock=False)
        self._end, self._ends = self._context.Pipe()
        self._begin()

    def _begin(self) -> None:
        self._pool = ProcessPoolExecutor(1, self._context, _enter, (self._stage, self._ends))
        self._stage.value = b""
        before = set(active_children())
        with _signals_blocked():  # until the process ignores them
            self._loading: Future[Facts] | None = self._pool.submit(
                _load, self._load, self._workers
            )
        self._process = next(iter(set(active_children()) - before), None)

    @property
    def stage(self) -> str:
        """What the process is doing while it loads, in words."""
        return self._stage.value.decode(errors="ignore")

    @property
    def alive(self) -> bool:
        """Whether the process is running."""
        return self._process is not None and self._process.is_alive()

    async def start(self) -> Facts:
        """Wait until the models are loaded."""
        if self._loading is None:  # the process has died
            self._pool.shutdown(wait=False)
            self._begin()
            assert self._loading is not None
        try:
            return await self._result(self._loading)
        finally:
            self._loading = None

    async def run(
        self, function: Callable[Concatenate[Models, P], R], *args: P.args, **options: P.kwargs
    ) -> R:
        """The result of a function of the models."""
        try:
            future = self._pool.submit(_run, function, args, options)
        except RuntimeError as error:  # it is broken, or shut down
            raise Unavailable(DIED) from error
        return await self._result(future)

    async def _result(self, future: Future[R]) -> R:
        try:
            return await asyncio.wrap_future(future)
        except BrokenProcessPool as error:
            raise Unavailable(DIED) from error
        except asyncio.CancelledError as error:
            task = asyncio.current_task()
            if task is not None and task.cancelling():
                raise
            raise Unavailable(DIED) from error  # it is shut down

    def close(self) -> None:
        """End the process."""
        self._end.close()
        self._pool.shutdown(cancel_futures=True)


# --------------------------------------------------------------------------------- in the process

_held: dict[str, Models] = {}
_stage: list[Any] = []


def _enter(stage: Any, ends: connection.Connection) -> None:
    """Leave signals to the service, and end with it."""
    for each in _SIGNALS:
        signal.signal(each, signal.SIG_IGN)
    _mask(signal.SIG_UNBLOCK)
    tqdm.set_lock(RLock())  # its own lock would be left behind when the process ends
    service = parent_process()
    assert service is not None

    def watch() -> None:
        connection.wait([service.sentinel, ends])
        os._exit(1)

    Thread(target=watch, daemon=True).start()
    _stage.append(stage)


def say(text: str) -> None:
    """Tell the service what this process is doing."""
    for stage in _stage:
        stage.value = text.encode()[: _STAGE - 1]


def _load(load: Load, workers: int) -> Facts:
    with _portable_errors():
        models = _held["models"] = load(say)
        import torch  # slow, so `load` can say before what it is doing

        if "OMP_NUM_THREADS" not in os.environ:
            torch.set_num_threads(threads(models.vae, torch.get_num_threads(), workers))
        # a batch of requests is too short for threads, which the other processes would delay
        os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
        models.prepare()
        return models.facts


def threads(vae: LlaMaVAE, available: int, workers: int) -> int:
    """Number of threads of a process with this model.

    The matrices of a small decoder are computed faster than threads can share them, and threads
    that wait for each other keep the HTTP service from its work.

    Args:
        vae: The model.
        available: Number of threads that PyTorch uses by default.
        workers: Number of processes with the model.
    """
    if sum(p.numel() for p in vae.decoder.parameters()) < _SMALL:
        return 1
    return max(1, available // workers)


def _run(function: Callable[..., R], args: tuple[Any, ...], options: dict[str, Any]) -> R:
    with _portable_errors():
        return function(_held["models"], *args, **options)


@contextmanager
def _portable_errors() -> Iterator[None]:
    """Replace an error that cannot be unpickled, which would break the pool of processes."""
    try:
        yield
    except Exception as error:
        if (replaced := portable(error)) is error:
            raise
        raise replaced from error


# ---------------------------------------------------------------------------------------- signals


def _mask(how: int) -> None:
    if hasattr(signal, "pthread_sigmask"):  # not on Windows
        signal.pthread_sigmask(how, _SIGNALS)


@contextmanager
def _signals_blocked() -> Iterator[None]:
    """Let signals wait, also in a process that is started meanwhile."""
    _mask(signal.SIG_BLOCK)
    try:
        yield
    finally:
        _mask(signal.SIG_UNBLOCK)
