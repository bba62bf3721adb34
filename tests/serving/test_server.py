"""`llamavae serve` as its users meet it: a process, a port and the clients of others."""

from __future__ import annotations

import json
import os
import re
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from threading import Thread
from typing import Any
from urllib.parse import urlsplit

import httpx2
import psutil
import pytest
import torch
from tests import tiny
from typer.testing import CliRunner

from llamavae import LlaMaVAE
from llamavae.cli.app import app

A, B = "a dog runs in a park", "an owl reads a letter"


class Server:
    """A running service."""

    def __init__(self, folder: Path, *options: str) -> None:
        command = [sys.executable, "-m", "llamavae", "serve", "-m", str(folder), "--port", "0"]
        self.process = subprocess.Popen(
            [*command, *options], stderr=subprocess.PIPE, text=True, env=os.environ | _ENVIRONMENT
        )
        assert self.process.stderr is not None
        for line in self.process.stderr:
            if found := re.search(r"http://\S+", line):
                self.url = found[0]
                break
        else:
            raise AssertionError("the service did not start")
        self._log: list[str] = []
        self._reader = Thread(target=self._log.extend, args=(self.process.stderr,), daemon=True)
        self._reader.start()  # a full pipe would stop the service
        wait_for(lambda: httpx2.get(f"{self.url}/health").status_code == 200)

    def stop(self) -> list[str]:
        """Ask it to stop; the rest of its log."""
        self.process.send_signal(signal.SIGTERM)
        return self.wait()

    def wait(self) -> list[str]:
        """Wait for its end; the rest of its log."""
        self.process.wait(timeout=60)
        self._reader.join()
        assert self.process.stderr is not None
        self.process.stderr.close()
        return self._log


_ENVIRONMENT = {"PYTHONUNBUFFERED": "1", "COLUMNS": "200"}


def wait_for(condition: Callable[[], Any], seconds: float = 60) -> None:
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        try:
            if condition():
                return
        except httpx2.TransportError:
            pass
        time.sleep(0.05)
    raise AssertionError("it did not happen in time")


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> Path:
    """A tiny model on disk."""
    path = tmp_path_factory.mktemp("served") / "model"
    tiny.vae(embed_backbones=True).save_pretrained(path)
    return path


@pytest.fixture(scope="module")
def server(folder) -> Iterator[Server]:
    """The service of the tiny model, with a time limit."""
    running = Server(folder, "--timeout", "5", "--api-key", "key")
    yield running
    if running.process.poll() is None:
        running.process.kill()
        running.wait()


def test_the_client_of_openai(server, folder):
    import openai

    vae = LlaMaVAE.from_pretrained(folder)
    client = openai.OpenAI(base_url=f"{server.url}/v1", api_key="key", max_retries=0)
    texts = [A, B]
    for found in (
        client.embeddings.create(model=str(folder), input=texts),  # base64
        client.embeddings.create(model=str(folder), input=texts, encoding_format="float"),
    ):
        vectors = torch.tensor([each.embedding for each in found.data])
        torch.testing.assert_close(vectors, vae.encode([A, B]).mean, atol=1e-6, rtol=0)
    with pytest.raises(openai.BadRequestError, match="dimensions must be"):
        client.embeddings.create(model=str(folder), input=A, dimensions=3)
    with pytest.raises(openai.AuthenticationError, match="API key"):
        client.with_options(api_key="no").embeddings.create(model=str(folder), input=A)


def test_the_client_of_langchain(server, folder):
    langchain = pytest.importorskip("langchain_openai", reason="langchain-openai is not installed")
    client = langchain.OpenAIEmbeddings(
        model=str(folder),
        base_url=f"{server.url}/v1",
        api_key="key",
        check_embedding_ctx_length=False,
    )
    expected = LlaMaVAE.from_pretrained(folder).encode([A, B]).mean
    found = torch.tensor(client.embed_documents([A, B]))
    torch.testing.assert_close(found, expected, atol=1e-6, rtol=0)


def raw(server: Server, head: str, body: bytes = b"") -> socket.socket:
    """A connection on which a request was sent."""
    place = urlsplit(server.url)
    connection = socket.create_connection((place.hostname, place.port), timeout=10)
    connection.sendall(head.replace("\n", "\r\n").encode() + body)
    return connection


_HEAD = """POST /v1/reconstruct HTTP/1.1
Host: localhost
Authorization: Bearer key
Content-Type: application/json
Content-Length: {length}

"""


def test_slow_and_killed_clients(server):
    with raw(server, _HEAD.format(length=100), b'{"texts": ') as slow:
        answer = slow.recv(1000).decode()  # the rest of the body never comes
    assert answer.startswith("HTTP/1.1 504")
    body = json.dumps({"texts": [A] * 200}).encode()
    for _ in range(5):
        raw(server, _HEAD.format(length=len(body)), body).close()
    with raw(server, _HEAD.format(length=10**8)) as large:
        assert large.recv(1000).decode().startswith("HTTP/1.1 413")
    wait_for(lambda: httpx2.get(f"{server.url}/health").json()["waiting"] == 0)


def model_processes(server) -> list[psutil.Process]:
    """The processes of the server that run the model."""
    children = psutil.Process(server.process.pid).children()
    return [each for each in children if "spawn_main" in " ".join(each.cmdline())]


def test_it_survives_the_end_of_the_process_of_the_model(server):
    [child] = model_processes(server)
    child.kill()
    headers = {"Authorization": "Bearer key"}
    url = f"{server.url}/v1/reconstruct"
    response = httpx2.post(url, json={"texts": A}, headers=headers, timeout=30)
    # 504 if it has waited too long for the new process, and 200 if that was ready in time
    assert response.status_code in (200, 503, 504)
    wait_for(lambda: httpx2.get(f"{server.url}/health").status_code == 200)
    response = httpx2.post(url, json={"texts": A}, headers=headers, timeout=30)
    assert response.status_code == 200
    [new] = model_processes(server)
    assert new.pid != child.pid


def test_it_notices_the_end_of_an_idle_process(server):
    for each in model_processes(server):
        each.kill()
    wait_for(lambda: httpx2.get(f"{server.url}/health").status_code == 503)
    wait_for(lambda: httpx2.get(f"{server.url}/health").status_code == 200)


def test_a_signal_stops_it_after_the_running_requests(server):
    headers = {"Authorization": "Bearer key"}
    body = {"a": A, "b": B, "steps": 100, "stream": True}
    url = f"{server.url}/v1/interpolate"
    with httpx2.stream("POST", url, json=body, headers=headers, timeout=30) as response:
        lines = response.iter_lines()
        assert next(lines).startswith("data: ")
        server.process.send_signal(signal.SIGTERM)
        assert [line for line in lines if line][-1] == "data: [DONE]"
    log = server.stop()
    assert server.process.returncode == 143
    requests = [json.loads(line) for line in log if line.startswith("{")]
    assert {each.get("path") for each in requests} >= {"/v1/reconstruct", "/v1/interpolate"}
    assert not [line for line in log if "Traceback" in line]


def test_several_processes_with_the_model(folder):
    server = Server(folder, "--workers", "2")
    try:
        wait_for(lambda: httpx2.get(f"{server.url}/health").json()["workers"] == 2)
        texts = [A, B] * 20
        response = httpx2.post(f"{server.url}/v1/reconstruct", json={"texts": texts}, timeout=30)
        expected = LlaMaVAE.from_pretrained(folder).reconstruct([A, B]) * 20
        assert [each["text"] for each in response.json()["texts"]] == expected
    finally:
        log = server.stop()
    assert len([line for line in log if '"ready"' in line]) == 2
    assert not [line for line in log if "Traceback" in line]


def test_a_model_that_cannot_be_loaded(tmp_path):
    command = [
        sys.executable,
        "-m",
        "llamavae",
        "serve",
        "-m",
        str(tmp_path / "none"),
        "--port",
        "0",
    ]
    done = subprocess.run(
        command, capture_output=True, text=True, timeout=100, env=os.environ | _ENVIRONMENT
    )
    assert done.returncode == 2
    assert f"there is no folder {tmp_path / 'none'}" in done.stderr.splitlines()[-1]
    assert "Traceback" not in done.stderr


def run(*arguments: str) -> Any:
    return CliRunner().invoke(app, ["serve", *arguments], prog_name="llamavae")


def test_an_open_address_needs_a_key(folder):
    result = run("-m", str(folder), "--host", "0.0.0.0")
    assert result.exit_code == 2
    assert "can be reached from other machines. Add --api-key" in result.stderr
    assert run("-m", str(folder), "--api-key", " ").exit_code == 2


def test_a_port_in_use_is_found_before_the_model_is_loaded(folder):
    with socket.create_server(("127.0.0.1", 0)) as taken:
        result = run("-m", str(folder / "nothing"), "--port", str(taken.getsockname()[1]))
    assert result.exit_code == 2
    assert "Address already in use. Choose another --port" in result.stderr
