"""A service whose models are loaded later, or not at all, or are lost."""

from __future__ import annotations

import asyncio
import json
import os
import signal
import time
from collections.abc import Callable
from typing import Any

import pytest
import torch
from starlette.testclient import TestClient

from llamavae.errors import UserError
from llamavae.serving import Limits
from llamavae.serving.app import app_of
from llamavae.serving.batching import Unavailable
from llamavae.serving.decoding import Generation
from llamavae.serving.engine import Engine
from llamavae.serving.models import Facts, Models
from llamavae.serving.worker import ProcessWorker, Say, ThreadWorker, _load, threads

A = "a dog runs in a park"


class Late(ThreadWorker):
    """A worker that loads its models when it is told to, or fails, or dies.

    Attributes:
        release: Whether it may load its models; until then, its functions wait, as those of a
            process do.
        dies: Number of calls that find it dead.
        fails: Number of starts that fail.
        alive: Whether its process is running.
        starts: Number of times that it was started.
        functions: Names of the functions that it has run.
    """

    facts: Any = None
    stage: Any = "reading the weights"
    alive: Any = True

    def __init__(self, models: Models, error: Exception | None = None, release: bool = True):
        super().__init__(models)
        self.error, self.fails = error, 0 if error is None else 1
        self.release, self.dies, self.starts = release, 0, 0
        self.functions: list[str] = []

    async def start(self) -> Facts:
        while not self.release:
            await asyncio.sleep(0.01)
        self.starts += 1
        self.alive = True
        if self.fails:
            self.fails -= 1
            raise self.error or Unavailable("the process of the model has ended")
        return self._models.facts

    async def run(self, function: Callable[..., Any], *args: Any, **options: Any) -> Any:
        if self.dies:
            self.dies -= 1
            raise Unavailable("the process of the model has ended")
        while not self.release:
            await asyncio.sleep(0.01)
        self.functions.append(function.__name__)
        return await super().run(function, *args, **options)


@pytest.fixture(autouse=True)
def quick_checks(monkeypatch):
    monkeypatch.setattr("llamavae.serving.engine._CHECK", 0.02)


def wait_for(condition: Callable[[], bool]) -> None:
    end = time.monotonic() + 30
    while not condition():
        assert time.monotonic() < end
        time.sleep(0.01)


def healthy(client: TestClient, workers: int = 1) -> Callable[[], bool]:
    def found() -> bool:
        response = client.get("/health")
        return response.status_code == 200 and response.json()["workers"] == workers

    return found


def test_requests_while_the_model_is_being_loaded(vae):
    worker = Late(Models(vae), release=False)
    with TestClient(app_of([worker], name="tiny")) as client:
        response = client.get("/health")
        assert response.status_code == 503
        assert response.json()["stage"] == "reading the weights"
        response = client.post("/v1/reconstruct", json={"texts": A})
        assert response.status_code == 503
        assert response.headers["Retry-After"] == "1"
        error = response.json()["error"]
        assert error["message"] == "reading the weights; try again later"
        assert error["type"] == "server_error"
        worker.release = True
        wait_for(healthy(client))
        [text] = client.post("/v1/reconstruct", json={"texts": A}).json()["texts"]
        assert text["text"] == vae.reconstruct(A)[0]


def test_a_model_that_cannot_be_loaded_stops_the_service(vae):
    worker = Late(Models(vae), UserError("there is no such model"))
    app = app_of([worker], name="tiny")
    stopped: list[bool] = []
    app.state.engine.stop = lambda: stopped.append(True)
    with TestClient(app):
        wait_for(lambda: bool(stopped))
    assert str(app.state.engine.failure) == "there is no such model"


def test_a_worker_that_has_never_loaded_the_model_stops_the_service(vae):
    workers = [Late(Models(vae)), Late(Models(vae), UserError("no memory"), release=False)]
    app = app_of(workers, name="tiny")
    stopped: list[bool] = []
    app.state.engine.stop = lambda: stopped.append(True)
    with TestClient(app) as client:
        wait_for(healthy(client))
        workers[1].release = True
        wait_for(lambda: bool(stopped))
    assert str(app.state.engine.failure) == "no memory"


def test_a_process_that_dies_is_started_again_once(vae):
    worker = Late(Models(vae))
    with TestClient(app_of([worker], name="tiny")) as client:
        wait_for(healthy(client))
        worker.dies = 2  # the calls that were made by then
        response = client.post("/v1/reconstruct", json={"texts": [A, A]})
        assert response.status_code == 503
        assert response.headers["Retry-After"] == "1"
        wait_for(healthy(client))
        worker.dies = 0
        assert client.post("/v1/reconstruct", json={"texts": A}).status_code == 200
    assert worker.starts == 2


def test_a_process_that_dies_without_requests_is_started_again(vae):
    workers = [Late(Models(vae)), Late(Models(vae))]
    with TestClient(app_of(workers, name="tiny")) as client:
        wait_for(healthy(client, 2))
        workers[1].release = workers[1].alive = False
        wait_for(healthy(client, 1))
        workers[1].release = True
        wait_for(healthy(client, 2))
    assert [worker.starts for worker in workers] == [1, 2]


def test_a_process_that_dies_while_it_is_started_again_does_not_stop_the_service(vae):
    worker = Late(Models(vae))
    app = app_of([worker], name="tiny")
    with TestClient(app) as client:
        wait_for(healthy(client))
        worker.dies, worker.fails = 1, 3
        assert client.post("/v1/reconstruct", json={"texts": A}).status_code == 503
        wait_for(healthy(client))
    assert worker.starts == 5
    assert app.state.engine.failure is None


def test_other_workers_answer_while_one_is_started_again(vae, cvae):
    workers = [Late(Models(vae, cvae)), Late(Models(vae))]
    app = app_of(workers, name="tiny", limits=Limits(seconds=10))
    with TestClient(app) as client:
        wait_for(healthy(client, 2))
        workers[0].dies, workers[0].release = 1, False
        texts = [A] * 8
        statuses = [
            client.post("/v1/reconstruct", json={"texts": texts}).status_code for _ in range(3)
        ]
        assert statuses == [503, 200, 200]
        assert client.get("/health").json()["workers"] == 1
        assert client.post("/v1/sample", json={"n": 2}).status_code == 200
        # the first one has the model of definitions
        assert client.post("/v1/define", json={"word": "word=dog"}).status_code == 503
        assert not workers[0].functions or workers[0].functions == ["decode"]
        workers[0].release = True
        wait_for(healthy(client, 2))
        assert client.post("/v1/define", json={"word": "word=dog"}).status_code == 200
        [first, *_] = client.post("/v1/reconstruct", json={"texts": texts}).json()["texts"]
        assert first["text"] == vae.reconstruct(A)[0]
    assert [worker.starts for worker in workers] == [2, 1]


def test_texts_wait_for_the_worker_that_is_started_again(vae):
    worker = Late(Models(vae))

    async def main() -> list[Any]:
        engine = Engine([worker], Limits(batch=1))
        engine.start()
        while not engine.workers:
            await asyncio.sleep(0.01)
        worker.dies, worker.release = 9, False
        found = engine.decode([A, A, A], Generation())
        await asyncio.sleep(0.1)
        worker.dies, worker.release = 0, True
        found = await asyncio.gather(*found, return_exceptions=True)
        engine.close()
        return found

    first, *rest = asyncio.run(main())
    assert isinstance(first, Unavailable)
    assert rest == vae.reconstruct([A, A])


def test_texts_go_to_workers_that_run_no_function(vae):
    workers = [Late(Models(vae)), Late(Models(vae))]

    def sleep(_: Models) -> None:
        time.sleep(0.5)

    async def main() -> None:
        engine = Engine(workers, Limits())
        engine.start()
        while engine.workers < 2:
            await asyncio.sleep(0.01)
        function = asyncio.ensure_future(engine.run_first(sleep))
        await asyncio.sleep(0)
        await asyncio.gather(*engine.decode([A] * 8, Generation()))
        assert not function.done()
        await engine.run(sleep)  # another one does not wait for the first
        engine.close()

    asyncio.run(main())
    assert workers[0].functions == ["sleep"]
    assert {*workers[1].functions} == {"decode", "sleep"}


def test_texts_that_wait_go_to_a_worker_whose_function_has_ended(vae):
    workers = [Late(Models(vae)), Late(Models(vae))]

    def sleep(_: Models) -> None:
        time.sleep(0.05)

    async def main() -> None:
        engine = Engine(workers, Limits(batch=1))
        engine.start()
        while engine.workers < 2:
            await asyncio.sleep(0.01)
        function = asyncio.ensure_future(engine.run_first(sleep))
        await asyncio.sleep(0)
        await asyncio.gather(function, *engine.decode([A] * 40, Generation()))
        engine.close()

    asyncio.run(main())
    assert "decode" in workers[0].functions


def test_nothing_is_started_again_once_the_service_ends(vae):
    worker = Late(Models(vae))

    async def main() -> None:
        engine = Engine([worker], Limits())
        engine.start()
        while not engine.workers:
            await asyncio.sleep(0.01)
        engine.close()
        worker.dies = 1
        with pytest.raises(Unavailable):
            await engine.run(Models.encode, [], 1)
        await asyncio.sleep(0.1)

    asyncio.run(main())
    assert worker.starts == 1


def test_a_process_that_dies_ends_a_stream_with_an_error(vae):
    worker = Late(Models(vae))
    with TestClient(app_of([worker], name="tiny")) as client:
        wait_for(healthy(client))
        worker.dies = 1
        response = client.post("/v1/reconstruct", json={"texts": [A, A], "stream": True})
    error = json.loads(response.text.removeprefix("data: "))["error"]
    assert error["type"] == "server_error"
    assert "is started again" in error["message"]


class Odd(Exception):
    """An error that can be pickled, but not unpickled."""

    def __init__(self, *, reason: str) -> None:
        super().__init__(reason)


def interrupted(say: Say) -> Models:
    """Fails after a signal to its process."""
    say("loading")
    os.kill(os.getpid(), signal.SIGINT)
    raise Odd(reason="a reason")


def test_a_process_reports_any_error_and_ignores_signals():
    worker = ProcessWorker(interrupted)
    try:
        with pytest.raises(RuntimeError, match="Odd: a reason"):
            asyncio.run(worker.start())
        assert worker.stage == "loading"
    finally:
        worker.close()


@pytest.mark.skipif(not hasattr(signal, "pthread_sigmask"), reason="no masks of signals")
def test_signals_are_blocked_only_while_the_process_starts(monkeypatch):
    masks: list[Any] = []

    def submit(*_: Any) -> None:
        masks.append(signal.pthread_sigmask(signal.SIG_BLOCK, ()))

    monkeypatch.setattr("llamavae.serving.worker.ProcessPoolExecutor.submit", submit)
    ProcessWorker(interrupted).close()
    assert {signal.SIGINT, signal.SIGTERM} <= masks[0]
    assert not {signal.SIGINT, signal.SIGTERM} & signal.pthread_sigmask(signal.SIG_BLOCK, ())


def test_processes_share_the_threads_and_a_small_model_has_one(vae, monkeypatch):
    assert threads(vae, 16, 1) == 1
    monkeypatch.setattr("llamavae.serving.worker._SMALL", 10)
    assert [threads(vae, 16, workers) for workers in (1, 3, 20)] == [16, 5, 1]


def test_the_threads_of_a_process_are_set_unless_the_user_has(vae, monkeypatch):
    found: list[int] = []
    monkeypatch.setattr("llamavae.serving.worker._SMALL", 10)
    monkeypatch.setattr(torch, "get_num_threads", lambda: 8)
    monkeypatch.setattr(torch, "set_num_threads", found.append)
    monkeypatch.delenv("OMP_NUM_THREADS", raising=False)
    monkeypatch.setenv("TOKENIZERS_PARALLELISM", "true")
    _load(lambda _: Models(vae), 4)
    monkeypatch.setenv("OMP_NUM_THREADS", "3")
    _load(lambda _: Models(vae), 4)
    assert found == [2]
