from __future__ import annotations

import json
import shutil
import subprocess
import sys
from importlib import metadata
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch

from llamavae import provenance as module
from llamavae.provenance import provenance


def test_what_a_number_needs_beside_it(monkeypatch):
    monkeypatch.setattr(sys, "argv", ["/usr/bin/llamavae", "evaluate", "--model", "a folder"])
    monkeypatch.setattr(sys.modules["__main__"], "__spec__", None)
    found = provenance()
    assert found["command"] == "llamavae evaluate --model 'a folder'"
    for name in ("torch", "transformers"):
        assert found[name] == metadata.version(name)
    assert found["version"] == metadata.version("llamavae")
    assert ("CPU cores" in found["machine"]) != torch.cuda.is_available()
    assert found["threads"] == torch.get_num_threads()
    assert json.loads(json.dumps(found)) == found


def test_the_command_of_a_module(monkeypatch):
    monkeypatch.setattr(sys, "argv", ["/usr/lib/llamavae/__main__.py", "recipes"])
    spec = SimpleNamespace(name="llamavae.__main__")
    monkeypatch.setattr(sys.modules["__main__"], "__spec__", spec)
    assert provenance()["command"] == "python -m llamavae recipes"


@pytest.mark.skipif(shutil.which("git") is None, reason="needs git")
def test_the_commit_is_that_of_the_file_that_runs(tmp_path, monkeypatch):
    def git(*arguments):
        who = ("-c", "user.name=a", "-c", "user.email=a@b.c")
        done = subprocess.run(
            ["git", *who, *arguments], cwd=tmp_path, capture_output=True, text=True, check=True
        )
        return done.stdout.strip()

    here = tmp_path / "provenance.py"
    here.write_text("")
    monkeypatch.setattr(module, "__file__", str(here))
    assert provenance()["commit"] is None  # no repository
    git("init")
    git("commit", "--allow-empty", "-m", "another project")
    assert provenance()["commit"] is None  # installed inside that of another project
    git("add", here.name)
    git("commit", "-m", "ours")
    commit = git("rev-parse", "--short", "HEAD")
    assert provenance()["commit"] == commit
    (tmp_path / "notes.txt").write_text("not tracked")
    assert provenance()["commit"] == commit
    here.write_text("changed = True")
    assert provenance()["commit"] == f"{commit}-dirty"
    git("add", here.name)
    assert provenance()["commit"] == f"{commit}-dirty"


@pytest.mark.skipif(shutil.which("git") is None, reason="needs git")
def test_a_slow_git_is_not_waited_for(monkeypatch):
    monkeypatch.setattr(module, "_PATIENCE", 1e-6)
    assert provenance()["commit"] is None


def test_without_git(monkeypatch):
    monkeypatch.setenv("PATH", "")
    assert Path(module.__file__).is_file()
    assert provenance()["commit"] is None
