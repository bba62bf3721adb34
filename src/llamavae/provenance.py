"""Provenance of results: command, versions, commit and machine."""

from __future__ import annotations

import os
import platform
import shlex
import subprocess
import sys
from importlib.metadata import version
from pathlib import Path
from typing import Any

import torch

_PATIENCE = 5.0  # seconds that git gets for an answer


def provenance() -> dict[str, Any]:
    """What a number needs beside it: command, versions, commit and machine."""
    return {
        "command": _command(),
        "version": version("llamavae"),
        "commit": _commit(),
        "torch": torch.__version__,
        "transformers": version("transformers"),
        "machine": _machine(),
        "threads": torch.get_num_threads(),
    }


def _command() -> str:
    spec = getattr(sys.modules["__main__"], "__spec__", None)  # of python -m
    name = spec.name.removesuffix(".__main__") if spec else Path(sys.argv[0]).name
    return shlex.join([*(["python", "-m"] if spec else []), name, *sys.argv[1:]])


def _machine() -> str:
    if torch.cuda.is_available():
        return f"{torch.cuda.device_count()} x {torch.cuda.get_device_name()}"
    return f"{os.cpu_count()} CPU cores, {platform.machine()}"


def _commit() -> str | None:
    """The commit of the source tree that is running, `-dirty` where a tracked file differs from it.

    None when the code is installed as a package, or git does not answer in time.
    """
    here = Path(__file__)
    try:
        # an installed package may lie inside the repository of another project
        _git("ls-files", "--error-unmatch", here.name, cwd=here.parent)
        commit = _git("rev-parse", "--short", "HEAD", cwd=here.parent)
        changes = _git("status", "--porcelain", "--untracked-files=no", cwd=here.parent)
        return f"{commit}-dirty" if changes else commit
    except (OSError, subprocess.SubprocessError):
        return None


def _git(*arguments: str, cwd: Path) -> str:
    command = ["git", "--no-optional-locks", *arguments]  # others may work in the repository
    done = subprocess.run(
        command, cwd=cwd, capture_output=True, text=True, check=True, timeout=_PATIENCE
    )
    return done.stdout.strip()
