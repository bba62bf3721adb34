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
from starlette.testclient import TestClient

from llamavae.errors import UserError
from llamavae.serving.app import app_of
from llamavae.serving.batching import Unavailable
from llamavae.serving.models import Facts, Models
from llamavae.serving.worker import ProcessWorker, Say, ThreadWorker, threads

A = "a dog runs in a park"


class Late(ThreadWorker):
    """A worker that loads its models when it is told to, or fails, or dies once."""

    facts: Any = None
    stage: Any = "reading the weights"

    def __init__(self, models: Models, error: Exception | None = None) -> None:
        super().__init__(models)
        self.error, self.release, self.dies, self.starts = error, False, False, 0

    async def start(self) -> Facts:
        while not self.release:
            await asyncio.sleep(0.01)
        self.starts += 1
        if self.error is not None:
            raise self.error
        return self._models.facts

    async def run(self, function: Callable[..., Any], *args: Any, **options: Any) -> Any:
        if self.dies:
            self.dies = False
            raise Unavailable("the process of the model has ended")
        return await super().run(function, *args, **options)


def wait_for(condition: Callable[[], bool]) -> None:
    end = time.monotonic() + 30
    while not condition():
        assert time.monotonic() < end
        time.sleep(0.01)


def test_requests_while_the_model_is_being_loaded(vae):
    worker = Late(Models(vae))
    with TestClient(app_of([worker], name="tiny")) as client:
        response = client.get("/health")
        assert response.status_code == 503
        assert response.json()["stage"] == "reading the weights"
        response = client.post("/v1/reconstruct", json={"texts": A})
        assert response.status_code == 503
        assert response.headers["Retry-After"] == "1"
        expected = "reading the weights; try again later"
        assert response.json()["error"]["message"] == expected
        worker.release = True
        wait_for(lambda: client.get("/health").status_code == 200)
        [text] = client.post("/v1/reconstruct", json={"texts": A}).json()["texts"]
        assert text["text"] == vae.reconstruct(A)[0]


def test_a_model_that_cannot_be_loaded_stops_the_service(vae):
    worker = Late(Models(vae), UserError("there is no such model"))
    app = app_of([worker], name="tiny")
    stopped: list[bool] = []
    app.state.engine.stop = lambda: stopped.append(True)
    with TestClient(app):
        worker.release = True
        wait_for(lambda: bool(stopped))
    assert str(app.state.engine.failure) == "there is no such model"


def test_a_process_that_dies_is_started_again(vae):
    worker = Late(Models(vae))
    worker.release = True
    with TestClient(app_of([worker], name="tiny")) as client:
        wait_for(lambda: client.get("/health").status_code == 200)
        worker.dies = True
        response = client.post("/v1/reconstruct", json={"texts": [A, A]})
        assert response.status_code == 503
        assert response.headers["Retry-After"] == "1"
        wait_for(lambda: client.get("/health").status_code == 200)
        assert client.post("/v1/reconstruct", json={"texts": A}).status_code == 200
    assert worker.starts == 2


def test_other_workers_answer_while_one_is_started_again(vae):
    workers = [Late(Models(vae)), Late(Models(vae))]
    with TestClient(app_of(workers, name="tiny")) as client:
        workers[1].release = True  # one of them is enough
        wait_for(lambda: client.get("/health").status_code == 200)
        assert client.get("/health").json()["workers"] == 1
        workers[0].release = True
        wait_for(lambda: client.get("/health").json()["workers"] == 2)
        workers[0].dies, workers[0].release = True, False
        texts = [A] * 8
        statuses = [
            client.post("/v1/reconstruct", json={"texts": texts}).status_code for _ in range(5)
        ]
        assert statuses == [503, 200, 200, 200, 200]
        assert client.get("/health").json()["workers"] == 1
        workers[0].release = True
        wait_for(lambda: client.get("/health").json()["workers"] == 2)
        [first, *_] = client.post("/v1/reconstruct", json={"texts": texts}).json()["texts"]
        assert first["text"] == vae.reconstruct(A)[0]
    assert [worker.starts for worker in workers] == [2, 1]


def test_a_process_that_dies_ends_a_stream_with_an_error(vae):
    worker = Late(Models(vae))
    worker.release = True
    with TestClient(app_of([worker], name="tiny")) as client:
        wait_for(lambda: client.get("/health").status_code == 200)
        worker.dies = True
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
