from __future__ import annotations

import json
import shutil
import subprocess
import sys
from importlib import metadata
from pathlib import Path

import pytest
import torch

from llamavae import provenance as module
from llamavae.provenance import provenance


def test_what_a_number_needs_beside_it(monkeypatch):
    monkeypatch.setattr(sys, "argv", ["/usr/bin/llamavae", "evaluate", "--model", "a folder"])
    found = provenance()
    assert found["command"] == "llamavae evaluate --model 'a folder'"
    for name in ("torch", "transformers"):
        assert found[name] == metadata.version(name)
    assert found["version"] == metadata.version("llamavae")
    assert ("CPU cores" in found["machine"]) != torch.cuda.is_available()
    assert json.loads(json.dumps(found)) == found


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
    assert provenance()["commit"] == git("rev-parse", "--short", "HEAD")


def test_without_git(monkeypatch):
    monkeypatch.setenv("PATH", "")
    assert Path(module.__file__).is_file()
    assert provenance()["commit"] is None
