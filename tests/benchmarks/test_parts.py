"""Processor seconds of the parts of a command."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

from benchmarks import parts


def test_parts_of_a_command() -> None:
    done = subprocess.run(
        [sys.executable, "-m", "benchmarks.parts"],
        cwd=Path(parts.__file__).parents[1],
        capture_output=True,
        text=True,
        check=True,
    )
    taken = {line[6:]: float(line[:5]) for line in done.stdout.splitlines()}
    assert abs(sum(taken.values()) - 2 * taken["sum"]) < 0.05
    assert taken["import of torch"] > taken["a reconstruction"] > 0
