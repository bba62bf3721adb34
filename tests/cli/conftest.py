from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from tests import tiny
from typer.testing import CliRunner, Result

from llamavae.cli.app import app

Run = Callable[..., Result]
Start = Callable[..., subprocess.Popen[str]]


@pytest.fixture(scope="session")
def model_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A tiny model on disk, in the folder of a run."""
    run = tmp_path_factory.mktemp("run")
    tiny.vae(embed_backbones=True).save_pretrained(run / "model")
    return run / "model"


@pytest.fixture
def run(model_folder: Path, monkeypatch: pytest.MonkeyPatch) -> Run:
    """Run the command in this process, with the tiny model as the default."""
    monkeypatch.setenv("LLAMAVAE_MODEL", str(model_folder))
    monkeypatch.setenv("COLUMNS", "200")

    def invoke(*arguments: object, stdin: str | bytes = "") -> Result:
        return CliRunner().invoke(
            app, [str(a) for a in arguments], input=stdin, prog_name="llamavae"
        )

    return invoke


# a shell starts background jobs, and so the tests of a build server, deaf to Ctrl-C
_COMMAND = (
    "import runpy, signal; signal.signal(signal.SIGINT, signal.default_int_handler); "
    "runpy.run_module('llamavae', run_name='__main__')"
)


@pytest.fixture
def start(model_folder: Path) -> Iterator[Start]:
    """Start the command as a process of its own."""
    processes: list[subprocess.Popen[str]] = []

    def popen(
        *arguments: object, stdin: int = subprocess.DEVNULL, stdout: int = subprocess.PIPE
    ) -> subprocess.Popen[str]:
        process = subprocess.Popen(
            [sys.executable, "-c", _COMMAND, *map(str, arguments)],
            stdin=stdin,
            stdout=stdout,
            stderr=subprocess.PIPE,
            text=True,
            env={**os.environ, "LLAMAVAE_MODEL": str(model_folder), "COLUMNS": "200"},
        )
        processes.append(process)
        return process

    yield popen
    for process in processes:
        process.kill()
        process.communicate()
