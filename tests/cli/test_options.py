"""The default models of the commands."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from tests import tiny
from typer.testing import CliRunner

from llamavae.cli.app import app


@pytest.fixture
def library(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[[bool], Path]:
    """Put models in place of those that come with the library."""

    def make(complete: bool) -> Path:
        folder = tiny.library(tmp_path / "library", complete)
        monkeypatch.setattr("llamavae.pretrained.catalogue._library", lambda: folder)
        return folder

    return make


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
