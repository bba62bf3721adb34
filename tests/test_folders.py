from __future__ import annotations

import os
import socket
import subprocess
import sys
from pathlib import Path

import pytest

from llamavae.errors import UserError
from llamavae.folders import check_output, locked

HOLD = """
import sys
from llamavae.folders import locked
with locked(sys.argv[1], "mine"):
    print("held", flush=True)
    sys.stdin.read()
"""


def test_foreign_files_are_refused(tmp_path: Path) -> None:
    check_output(tmp_path / "new", "mine")
    (tmp_path / ".hidden").touch()
    check_output(tmp_path, "mine")
    (tmp_path / "notes.txt").touch()
    for check in (check_output, lambda *a: locked(*a).__enter__()):
        with pytest.raises(UserError, match=r"notes\.txt, which are never overwritten"):
            check(tmp_path, "mine", "step-*/fit.json")
    assert {path.name for path in tmp_path.iterdir()} == {".hidden", "notes.txt"}
    (tmp_path / "step-1").mkdir()
    (tmp_path / "step-1" / "fit.json").touch()
    check_output(tmp_path, "mine", "step-*/fit.json")
    with pytest.raises(UserError, match="a file is in the way"):
        check_output(tmp_path / "notes.txt")


def test_the_second_process_is_refused(tmp_path: Path) -> None:
    folder = tmp_path / "run"
    with subprocess.Popen(
        [sys.executable, "-c", HOLD, str(folder)], stdin=subprocess.PIPE, stdout=subprocess.PIPE
    ) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == b"held\n"
        with (
            pytest.raises(UserError, match=f"process {process.pid} on {socket.gethostname()}"),
            locked(folder),
        ):
            pass
        process.kill()
    with locked(folder), locked(folder):  # free again, and held by this process twice
        assert str(os.getpid()) in (folder / ".lock.json").read_text()
        (folder / "mine").touch()
    assert {path.name for path in folder.iterdir()} == {"mine"}
    with locked(tmp_path / "empty"):
        pass
    assert not (tmp_path / "empty").exists()
