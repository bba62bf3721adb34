"""Output folders: foreign files are never overwritten, and one process at a time writes to one."""

from __future__ import annotations

import json
import os
import socket
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from llamavae.errors import UserError, check_utf8
from llamavae.files import disk_errors

MARKER = ".llamavae.json"
"""File in an output folder that names what the folder holds and the process that wrote it last."""
_LOCK = ".llamavae.lock"
_held: set[Path] = set()


def check_output(folder: str | os.PathLike[str], kind: str) -> None:
    """Check that a command may write to a folder: it is new or empty, or holds its own results.

    Args:
        folder: The output folder.
        kind: What the command writes, such as "a training run".

    Raises:
        UserError: The folder holds files of something else, is a file, or is not named in UTF-8.
    """
    folder = Path(folder)
    check_utf8(folder)
    try:
        inside = [path.name for path in folder.iterdir()]
    except FileNotFoundError:
        return
    except NotADirectoryError as error:
        raise UserError(
            f"cannot create the folder {folder}: a file is in the way. Choose another --output"
        ) from error
    except OSError as error:
        raise UserError(
            f"cannot read {folder}: {error.strerror}. Choose another --output"
        ) from error
    if MARKER in inside:
        found = _marker(folder).get("kind", kind)  # a killed process can leave an empty file
        if found != kind:
            raise UserError(
                f"{folder} holds {found}, which would be overwritten. Choose another folder with "
                "--output"
            )
    elif inside := [name for name in inside if not name.startswith(".")]:
        raise UserError(
            f"{folder} holds files of something else, such as {min(inside)}, which are never "
            "overwritten. Choose a new or an empty folder with --output. If the folder is "
            f"{kind} that was copied without its file {MARKER}, create that file in it"
        )


@contextmanager
def locked(folder: str | os.PathLike[str], kind: str) -> Iterator[None]:
    """Create an output folder and reserve it for this process until the block ends.

    A process may lock a folder several times. The lock of a killed process is free.

    Args:
        folder: The output folder.
        kind: As for `check_output`.

    Raises:
        UserError: Another process writes to the folder, or it holds files of something else.
        DiskError: The folder cannot be created.
    """
    from filelock import FileLock, Timeout

    path = Path(folder).absolute()
    if path in _held:
        yield
        return
    check_output(folder, kind)
    with disk_errors(folder):
        path.mkdir(parents=True, exist_ok=True)
    lock = FileLock(path / _LOCK, blocking=False)
    try:
        lock.acquire()
    except Timeout:
        owner = _marker(path)
        raise UserError(
            f"{folder} is in use by process {owner.get('pid', 'unknown')} on "
            f"{owner.get('host', 'an unknown host')}. Wait for it, stop it, or choose another "
            "folder with --output"
        ) from None
    except (OSError, NotImplementedError):  # a disk without locks, or a full one
        pass
    _held.add(path)
    try:
        with disk_errors(folder):
            values = {"kind": kind, "pid": os.getpid(), "host": socket.gethostname()}
            (path / MARKER).write_text(json.dumps(values) + "\n", encoding="utf-8")
        yield
    finally:
        _held.discard(path)
        with suppress(OSError):
            (path / _LOCK).unlink()
        lock.release()
        with suppress(OSError):
            if [item.name for item in path.iterdir()] == [MARKER]:  # nothing was written
                (path / MARKER).unlink()
                path.rmdir()


def _marker(folder: Path) -> dict[str, Any]:
    """Contents of the marker; {} if it cannot be read."""
    try:
        values = json.loads((folder / MARKER).read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError):
        return {}
    return values if isinstance(values, dict) else {}
