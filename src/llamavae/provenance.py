"""Where a number comes from, so that it can be obtained again."""

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


def provenance() -> dict[str, Any]:
    """What a number needs beside it: command, versions, commit and machine."""
    command = [Path(sys.argv[0]).name, *sys.argv[1:]]
    return {
        "command": shlex.join(command),
        "version": version("llamavae"),
        "commit": _commit(),
        "torch": torch.__version__,
        "transformers": version("transformers"),
        "machine": _machine(),
    }


def _machine() -> str:
    if torch.cuda.is_available():
        return f"{torch.cuda.device_count()} x {torch.cuda.get_device_name()}"
    return f"{os.cpu_count()} CPU cores, {platform.machine()}"


def _commit() -> str | None:
    """The commit of the source tree that is running, or None when it is installed as a package."""
    here = Path(__file__)
    try:
        # an installed package may lie inside the repository of another project
        _git("ls-files", "--error-unmatch", here.name, cwd=here.parent)
        return _git("rev-parse", "--short", "HEAD", cwd=here.parent)
    except (OSError, subprocess.CalledProcessError):
        return None


def _git(*arguments: str, cwd: Path) -> str:
    done = subprocess.run(["git", *arguments], cwd=cwd, capture_output=True, text=True, check=True)
    return done.stdout.strip()
