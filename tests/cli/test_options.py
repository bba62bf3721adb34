"""The options that several commands share."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from tests import tiny
from typer.testing import CliRunner

from llamavae.cli.app import app
from llamavae.cli.options import FileOptions, batches


@pytest.fixture
def library(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[[bool], Path]:
    """Put models in place of those that come with the library."""

    def make(complete: bool) -> Path:
        folder = tiny.library(tmp_path / "library", complete)
        monkeypatch.setattr("llamavae.pretrained.catalogue._library", lambda: folder)
        return folder

    return make


@pytest.fixture
def keyboard(monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[[bytes], int | None]]:
    """Make standard input a terminal; returns the function that types on it."""
    pty = pytest.importorskip("pty")
    keys, terminal = pty.openpty()
    with os.fdopen(keys, "wb", buffering=0) as typed, os.fdopen(terminal) as stdin:
        monkeypatch.setattr("sys.stdin", stdin)
        yield typed.write


def call(*arguments: str) -> Any:
    return CliRunner().invoke(app, arguments, prog_name="llamavae")


def test_small_is_the_default_where_its_backbones_are(library: Callable[[bool], Path]) -> None:
    library(True)
    result = call("reconstruct", "a dog barks")
    assert (result.exit_code, result.stderr) == (0, "")
    assert result.stdout == call("reconstruct", "a dog barks", "--model", "small").stdout


def test_else_it_is_mini_and_a_note_says_so(library: Callable[[bool], Path]) -> None:
    library(False)
    result = call("reconstruct", "a dog is a kind of animal")
    assert result.exit_code == 0
    [note] = result.stderr.splitlines()
    assert "using mini; `llamavae models get small`" in note
    named = call("reconstruct", "a dog is a kind of animal", "--model", "mini")
    assert (named.stdout, named.stderr) == (result.stdout, "")


def test_the_environment_and_the_option_take_precedence(
    library: Callable[[bool], Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = library(False)
    monkeypatch.setenv("LLAMAVAE_MODEL", "mini")
    assert call("reconstruct", "a dog").stderr == ""
    missing = call("reconstruct", "a dog", "--model", "small")
    assert missing.exit_code == 2
    assert "llamavae models get small" in missing.stderr
    assert folder.is_dir()


def test_help_says_what_the_default_is(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLUMNS", "300")
    assert "Default: small if its backbones are available, else mini" in call("sample", "-h").stdout


def test_the_help_of_the_temperature_says_when_it_is_1(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLUMNS", "300")
    default = "Default: greedy decoding, or 1 with --num-samples above 1"
    assert default in call("reconstruct", "-h").stdout


@pytest.mark.usefixtures("keyboard")
def test_files_and_arguments_are_batched_at_a_terminal(tmp_path: Path) -> None:
    file = tmp_path / "a.txt"
    file.write_text("a\nb\nc\n")
    for source, arguments in ((FileOptions(file), None), (FileOptions(), ["a", "b", "c"])):
        assert list(batches(source.read(arguments), 2)) == [["a", "b"], ["c"]]


def test_a_typed_text_is_answered_before_the_next_one(
    keyboard: Callable[[bytes], int | None],
) -> None:
    keyboard(b"a dog\n")
    found = batches(FileOptions().read(["-"]), 64)
    assert next(found) == ["a dog"]
    keyboard(b"an owl\n")
    assert next(found) == ["an owl"]
    keyboard(b"\x04")  # Ctrl-D
    assert list(found) == []
