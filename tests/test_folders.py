from __future__ import annotations

import os
import socket
import subprocess
import sys
from pathlib import Path

import pytest

from llamavae.errors import UserError
from llamavae.folders import MARKER, check_output, locked

HOLD = """
import sys
from llamavae.folders import locked
with locked(sys.argv[1], "a run"):
    print("held", flush=True)
    sys.stdin.read()
"""


def test_foreign_files_are_refused(tmp_path: Path) -> None:
    check_output(tmp_path / "new", "a run")
    (tmp_path / ".hidden").touch()
    check_output(tmp_path, "a run")
    (tmp_path / "notes.txt").touch()
    (tmp_path / ".lock").write_text("precious")
    for check in (check_output, lambda *a: locked(*a).__enter__()):
        with pytest.raises(UserError, match=r"such as notes\.txt, which are never overwritten"):
            check(tmp_path, "a run")
    assert {path.name for path in tmp_path.iterdir()} == {".hidden", ".lock", "notes.txt"}
    assert (tmp_path / ".lock").read_text() == "precious"
    with pytest.raises(UserError, match="a file is in the way"):
        check_output(tmp_path / "notes.txt", "a run")
    (tmp_path / MARKER).touch()  # as the message says
    check_output(tmp_path, "a run")


def test_a_folder_holds_one_kind(tmp_path: Path) -> None:
    with locked(tmp_path / "run", "a run"):
        (tmp_path / "run" / "mine").touch()
    check_output(tmp_path / "run", "a run")
    with pytest.raises(UserError, match="holds a run, which would be overwritten"):
        check_output(tmp_path / "run", "a study")
    for damaged in ("", "{", "[]", "[" * 10_000):
        (tmp_path / "run" / MARKER).write_text(damaged)
        check_output(tmp_path / "run", "a run")


def test_the_second_process_is_refused(tmp_path: Path) -> None:
    folder = tmp_path / "run"
    with subprocess.Popen(
        [sys.executable, "-c", HOLD, str(folder)], stdin=subprocess.PIPE, stdout=subprocess.PIPE
    ) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == b"held\n"
        with (
            pytest.raises(UserError, match=f"process {process.pid} on {socket.gethostname()}"),
            locked(folder, "a run"),
        ):
            pass
        process.kill()
    with locked(folder, "a run"), locked(folder, "a run"):  # free again, and locked twice
        assert str(os.getpid()) in (folder / MARKER).read_text()
        (folder / "mine").touch()
    assert {path.name for path in folder.iterdir()} == {"mine", MARKER}
    with locked(tmp_path / "empty", "a run"):
        pass
    assert not (tmp_path / "empty").exists()


def test_a_folder_is_named_in_utf8(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"'.*caf\\udce9' is not in UTF-8"):
        check_output(tmp_path / "caf\udce9", "a run")
