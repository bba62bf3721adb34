"""Output folders: foreign files are never overwritten, and one process at a time writes to one."""

from __future__ import annotations

import json
import os
import socket
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from llamavae.errors import UserError
from llamavae.files import disk_errors

_LOCK, _OWNER = ".lock", ".lock.json"
_held: set[Path] = set()


def check_output(folder: str | os.PathLike[str], *made_of: str) -> None:
    """Check that a command may write to a folder: it is new or empty, or holds its own results.

    Args:
        folder: The output folder.
        made_of: Patterns of paths in it, any of which shows that the command made it.

    Raises:
        UserError: The folder holds other files, or is a file.
    """
    folder = Path(folder)
    try:
        inside = [path for path in folder.iterdir() if not path.name.startswith(".")]
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
    if inside and not any(next(folder.glob(pattern), None) for pattern in made_of):
        raise UserError(
            f"{folder} holds files of something else, such as {min(inside).name}, which are never "
            "overwritten. Choose a new or an empty folder with --output"
        )


@contextmanager
def locked(folder: str | os.PathLike[str], *made_of: str) -> Iterator[None]:
    """Create an output folder and reserve it for this process until the block ends.

    A process may lock a folder several times. The lock of a killed process is free.

    Args:
        folder: The output folder.
        made_of: As for `check_output`.

    Raises:
        UserError: Another process writes to the folder, or it holds other files.
        DiskError: The folder cannot be created.
    """
    from filelock import FileLock, Timeout

    path = Path(folder).absolute()
    if path in _held:
        yield
        return
    check_output(folder, *made_of)
    with disk_errors(folder):
        path.mkdir(parents=True, exist_ok=True)
    owner = path / _OWNER
    lock = FileLock(path / _LOCK, blocking=False)
    try:
        lock.acquire()
    except Timeout:
        raise UserError(
            f"{folder} is in use by {_described(owner)}. Wait for it, stop it, or choose another "
            "folder with --output"
        ) from None
    except (OSError, NotImplementedError):  # a disk without locks, or a full one
        yield
        return
    values = {"pid": os.getpid(), "host": socket.gethostname()}
    with suppress(OSError):
        owner.write_text(json.dumps(values), encoding="utf-8")
    _held.add(path)
    try:
        yield
    finally:
        _held.discard(path)
        for item in (owner, path / _LOCK):
            with suppress(OSError):
                item.unlink()
        lock.release()
        with suppress(OSError):  # not empty, unless nothing was written
            path.rmdir()


def _described(owner: Path) -> str:
    try:
        values = json.loads(owner.read_text(encoding="utf-8"))
        return f"process {int(values['pid'])} on {values['host']}"
    except (OSError, ValueError, KeyError, TypeError):
        return "another process"
